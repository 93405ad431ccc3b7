"""A request's events by columns: the seam between protocols and `record_writer`.

It is for requests in which nothing is out of the ordinary, which is nearly all. What is not simply as it should be is
declined, and the general way (RawEvent, `normalise`, `taken`), which can tell what is wrong with each event, judges
the whole request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from producers.gateway.timestamps import TimeRule, stored_us

COLUMNS_BYTES_MIN: Final = 4096
"""Of a body; smaller ones hold an event or three, which are cheaper to judge one by one."""


Members = dict[str, msgspec.Raw]
"""The members of a JSON object, each as it was sent."""


class DeclinedError(Exception):
    """Something in the request is for the general way."""


@dataclass(slots=True)
class Columns:
    """Events as their protocol tells them, a value each in every column. Empty texts count as absent.

    `properties` are parsed to their outermost level, `contexts` not at all; all that is JSON in them is valid and in
    UTF-8. A session id that is absent is looked for in the context.
    """

    types: Sequence[str]
    names: Sequence[str | None]
    message_ids: Sequence[str]
    user_ids: Sequence[str | None]
    anonymous_ids: Sequence[str | None]
    group_ids: Sequence[str | None]
    previous_ids: Sequence[str | None]
    session_ids: Sequence[str | None]
    timestamps: Sequence[str | None]
    sent_at: Sequence[str | None]
    properties: Sequence[Members | None]
    contexts: Sequence[bytes]
    attempt: int
    time_rule: TimeRule = stored_us


class ColumnarBatch(Protocol):
    """The events of one request, which may be had by columns."""

    @property
    def write_keys(self) -> Sequence[str]:
        """Those that its body names."""

    def __len__(self) -> int:
        """How many there are, at least one."""

    def columns(self, start: int, stop: int) -> Columns:
        """Some of them, at least one. Raises DeclinedError."""
