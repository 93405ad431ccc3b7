"""Which schema has which id on the wire.

Ids are pinned here, for ever: a record names its schema by id (Confluent wire format: a zero byte, the id as four
bytes big-endian, the Avro body). The API serves these at the Schema Registry's own read paths.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

EVENT_ID = 1
FRAME_ID = 2

_FILES: Mapping[int, tuple[str, str]] = {
    EVENT_ID: ("events-value", "event.avsc"),
    FRAME_ID: ("aggregates-value", "frame.avsc"),
}


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema under its pinned id."""

    schema_id: int
    subject: str
    version: int
    text: str

    @property
    def parsed(self) -> Any:
        """The schema as JSON values."""
        return json.loads(self.text)


@cache
def schema(schema_id: int) -> RegisteredSchema:
    """The schema of `schema_id`. Raises KeyError for an id that was never given out."""
    subject, name = _FILES[schema_id]
    return RegisteredSchema(schema_id, subject, 1, (files("schemas") / name).read_text(encoding="utf-8"))


def all_schemas() -> list[RegisteredSchema]:
    """Every schema, by id."""
    return [schema(schema_id) for schema_id in sorted(_FILES)]


def prefix(schema_id: int) -> bytes:
    """The five bytes in front of a record's Avro body."""
    return b"\x00" + schema_id.to_bytes(4, "big")
