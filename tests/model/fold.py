"""What the model folds, record by record and by batches: windows with late generations, dedupe by receive hour,
bounded cardinality. The definition that every reader's state is held against."""

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

HOUR: Final = 6
"""Width of a dedupe bucket, in the model's time."""
HOURS_KEPT: Final = 2
WINDOW: Final = 4
BOUND: Final = 2
TUPLES_MAX: Final = 2
OTHER: Final = "(other)"


class Event(NamedTuple):
    """One record of the source log."""

    event_id: int
    time: int
    dimension: str
    receive_time: int
    schema: int


Window = tuple[int, int]
Row = tuple[int, int, str]


@dataclass(slots=True)
class Touched:
    """What changed since the last frame."""

    rows: set[Row] = field(default_factory=set)
    ids: set[int] = field(default_factory=set)
    windows: set[Window] = field(default_factory=set)


@dataclass(slots=True)
class Fold:
    """Windows with late generations, dedupe by receive hour, bounded cardinality: what makes order matter."""

    position: int = 0
    watermark: int = 0
    receive_time: int = 0
    seen: dict[int, int] = field(default_factory=dict)
    rows: dict[Row, int] = field(default_factory=dict)
    slots: dict[Window, tuple[str, ...]] = field(default_factory=dict)
    version: int = 1
    switched_at: int | None = None

    def copy(self) -> "Fold":
        return replace(self, seen=dict(self.seen), rows=dict(self.rows), slots=dict(self.slots))

    def state(self) -> tuple[object, ...]:
        """All that later events may depend on, and all that is counted."""
        live = sorted((i, hour) for i, hour in self.seen.items() if hour > self.receive_time // HOUR - HOURS_KEPT)
        return (
            self.position,
            self.watermark,
            self.receive_time,
            tuple(live),
            tuple(sorted(self.rows.items())),
            tuple(sorted(self.slots.items())),
        )

    def one(self, event: Event, version: int) -> None:
        """The definition: one record at a time."""
        self.receive_time = max(self.receive_time, event.receive_time)
        hour = self.receive_time // HOUR
        if not _is_poison(event, version):
            if self.seen.get(event.event_id, -99) <= hour - HOURS_KEPT:
                self.seen[event.event_id] = hour
                self._count(event, Touched())
            self.watermark = max(self.watermark, event.time - BOUND)
        self.position += 1

    def batch(self, events: list[Event], version: int, touched: Touched, mutation: str) -> None:
        """The columnar way: cut where the monotone receive hour changes, duplicates decided per cut."""
        start = 0
        while start < len(events):
            end, hour = self._cut(events, start, mutation)
            live = {i for i, seen_in in self.seen.items() if seen_in > hour[0] - HOURS_KEPT}
            fresh: set[int] = set()
            for event in events[start:end]:
                self.receive_time = max(self.receive_time, event.receive_time)
                if _is_poison(event, version):
                    continue
                if event.event_id not in live and event.event_id not in fresh:
                    fresh.add(event.event_id)
                    self.seen[event.event_id] = hour[1]
                    touched.ids.add(event.event_id)
                    self._count(event, touched)
                self.watermark = max(self.watermark, event.time - BOUND)
            self.position += end - start
            start = end

    def _cut(self, events: list[Event], start: int, mutation: str) -> tuple[int, tuple[int, int]]:
        """End of the cut that begins at `start`, and its receive hour (for expiry, and as it is stored)."""
        end, first_hour, latest = start, -1, self.receive_time
        while end < len(events):
            later = max(latest, events[end].receive_time)
            if first_hour < 0:
                first_hour = later // HOUR
            elif later // HOUR != first_hour and mutation != "nocut":
                break
            latest = later
            end += 1
        return end, (first_hour, latest // HOUR if mutation == "nocut" else first_hour)

    def _count(self, event: Event, touched: Touched) -> None:
        start = event.time // WINDOW
        generation = 0 if (start + 1) * WINDOW > self.watermark else self.watermark // WINDOW + 1
        window = (start, generation)
        known = self.slots.get(window, ())
        if event.dimension not in known and len(known) < TUPLES_MAX:
            known += (event.dimension,)
            self.slots[window] = known
            touched.windows.add(window)
        row = (start, generation, event.dimension if event.dimension in known else OTHER)
        self.rows[row] = self.rows.get(row, 0) + 1
        touched.rows.add(row)


def _is_poison(event: Event, version: int) -> bool:
    """The first fold version does not know the second schema."""
    return event.schema == 2 and version == 1
