"""What both sources hand back for a question, before it becomes an answer."""

from dataclasses import dataclass
from typing import Any, Final

from schemas.rollups import OTHER_DIMS

Number = int | float | None

OTHER: Final = OTHER_DIMS
"""Value of the tuple that newcomers past a window's bound were folded into."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log is contained in a source, for one customer's partition.

    `as_of_us`: every record that Kafka had acknowledged by then is contained (the receipt of the newest one, or the
    sink's clock while it is level with the log's end); `watermark_us`: the fold's watermark there; both 0 before the
    first frame.
    """

    topic_id: str
    next_offset: int
    watermark_us: int
    as_of_us: int


@dataclass(frozen=True, slots=True)
class Group:
    """Measures, in the question's order, of one bucket (None: the whole range) and one tuple of dimension values."""

    bucket: int | None
    values: tuple[str, ...]
    measures: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Groups of a question, ordered as asked (timeseries: by rank of the tuple, then time).

    `total_rows` and `other` (the measures of what `limit` cut off) are a breakdown's. `late_events` is None where
    the source does not know. `exact` is False where a sketch or a folded tuple had a part in it.
    """

    groups: list[Group]
    position: Position | None
    exact: bool
    rows_read: int
    late_events: int | None = None
    total_rows: int | None = None
    other: tuple[Number, ...] | None = None


@dataclass(frozen=True, slots=True)
class EventsPage:
    """Raw events, newest first, as dictionaries of EVENT_COLUMNS; `more` tells whether older ones follow."""

    events: list[dict[str, Any]]
    last: tuple[int, int, int] | None
    more: bool
    position: Position | None
    rows_read: int
