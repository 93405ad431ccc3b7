"""Where a worker stands in its source partition, and what a fetch means there.

Pure. A fetch may start before our position (it was under way while we sought: slice it), after it (drop it and seek
again) or at it. A span that stays missing is a *hole*: offsets that Kafka itself skips. It is accepted only when the
log itself, asked directly, has no record in it.
"""

import zlib
from dataclasses import dataclass
from enum import Enum

from headrace.errors import GapError, IncarnationError

REMEDY = "see docs/how-to/rebuild.md: what can be rebuilt from the log, and how"


class Fit(Enum):
    """How a fetch lies to our position."""

    USABLE = "usable"
    BEHIND = "behind"
    AHEAD = "ahead"


@dataclass(slots=True)
class SourcePosition:
    """`next_offset`: the next record to fold. All records below it are folded or set aside."""

    next_offset: int

    def fit(self, first_offset: int, last_offset: int) -> Fit:
        """How a fetch of the records `first_offset` to `last_offset` (inclusive) lies to our position."""
        if last_offset < self.next_offset:
            return Fit.BEHIND
        return Fit.USABLE if first_offset <= self.next_offset else Fit.AHEAD

    def skip_hole(self, first_offset: int) -> None:
        """Go on at `first_offset`: the log holds nothing between our position and it."""
        assert first_offset > self.next_offset
        self.next_offset = first_offset


@dataclass(frozen=True, slots=True)
class SourceLog:
    """What the broker says of one partition of `events`. `end_offset` may be short (Tansu): it proves nothing."""

    topic: str
    topic_id: str
    partition: int
    begin_offset: int
    end_offset: int


def record_crc(value: bytes | None) -> int:
    """CRC-32 of a record's value, by which a log is recognised; a missing value counts as empty."""
    return zlib.crc32(value or b"")


def check_begin(log: SourceLog, next_offset: int) -> None:
    """Raise GapError when records were deleted before they were folded."""
    where = f"{log.topic} partition {log.partition}"
    if next_offset < log.begin_offset:
        raise GapError(
            f"{where} begins at {log.begin_offset}, but only records below {next_offset} are folded: "
            f"{log.begin_offset - next_offset} were deleted before they were counted",
            remedy=REMEDY,
        )


def check_incarnation(log: SourceLog, topic_id: str) -> None:
    """Raise IncarnationError when what we restored was folded from another topic."""
    if topic_id != log.topic_id:
        raise IncarnationError(
            f"the aggregates of partition {log.partition} were folded from topic id {topic_id or '(none)'}, "
            f"but {log.topic} has id {log.topic_id or '(none)'}",
            remedy=REMEDY,
        )


def past_end(log: SourceLog, next_offset: int) -> GapError:
    """The error of a log that does not reach our position any more."""
    return GapError(
        f"{log.topic} partition {log.partition} ends at {log.end_offset}, but records up to {next_offset} are folded "
        "already: the log was cut or replaced",
        remedy=REMEDY,
    )


def check_last_record(log: SourceLog, next_offset: int, value: bytes | None, expected_crc: int) -> None:
    """Raise GapError unless the record before our position is the one that was folded last. With `check_begin` this
    proves begin ≤ next_offset ≤ end, and that it is the same log."""
    if record_crc(value) != expected_crc:
        raise GapError(
            f"record {next_offset - 1} of {log.topic} partition {log.partition} is not the one that was folded",
            remedy=REMEDY,
        )
