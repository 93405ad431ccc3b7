"""What all plain gateways read: Segment's batch as pydantic models."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class Event(BaseModel):
    """One message of a batch."""

    type: str
    event: str | None = None
    messageId: str  # noqa: N815 (the protocol's names)
    userId: str | None = None  # noqa: N815
    anonymousId: str | None = None  # noqa: N815
    timestamp: datetime
    properties: dict[str, Any] = {}
    context: dict[str, Any] = {}


class Batch(BaseModel):
    """The body."""

    batch: list[Event]
    sentAt: datetime | None = None  # noqa: N815
