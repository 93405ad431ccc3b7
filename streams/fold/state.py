"""The fold of one partition: from its events to its rows.

Guarantees: rows, duplicates and lateness at an offset are a function of the log before it and of the rules alone,
however the log was cut into batches or frames; a fold that merged every frame up to an offset goes on as the one
that wrote them. Refuses: batches that leave a hole, frames that begin past the position, merging on top of changes
that no frame holds. Pure: no clock, no I/O, no randomness.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from headrace.errors import FatalError, GapError
from schemas.frame import DedupeHour
from schemas.intake import clamped
from streams.fold.batch import Columns, EventBatch, read_columns
from streams.fold.cascade import close_final
from streams.fold.columns import I64, U64, run_starts
from streams.fold.content import FrameContent, read_rows, write_rows
from streams.fold.counting import Placed, RowState, count_events
from streams.fold.dedupe import DedupeWindow
from streams.fold.histogram import BucketRuns
from streams.fold.hyperloglog import RegisterRuns
from streams.fold.rows import RowTable
from streams.fold.rules import CLOSE_EVERY, FoldRules
from streams.fold.snapshot import (
    SECTION_ROWS,
    Snapshot,
    SnapshotHead,
    read_snapshot,
)
from streams.fold.watermark import running_max, until_each
from streams.fold.windows import HOUR_US, SECOND_US, final_at_us, generation, starting_grain, window_start

PENDING_EVENTS_MAX: Final = 65_536
"""Events that wait to be folded together; at the next cut at the latest. Small batches so cost no more than big
ones. Held narrow: about 150 bytes an event."""


@dataclass(slots=True)
class FoldStats:
    """Of one fold, since it began. `seconds`: of the processor, by stage; the rest are levels."""

    events: int = 0
    open_rows: int = 0
    dedupe_ids: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class PartitionFold:
    """Not thread-safe. `position`: the next source offset; everything below it is folded or about to be."""

    def __init__(self, rules: FoldRules, partition: int) -> None:
        self.rules = rules
        self.partition = partition
        self.position = 0
        self.last_crc = 0
        self._state = RowState(RowTable(rules.cardinality_max, rules.grace_s), RegisterRuns(), BucketRuns())
        self._dedupe = DedupeWindow(rules.dedupe_window_h)
        self._watermark_us = 0
        self._receive_us = 0
        self._pending: list[EventBatch] = []
        self._pending_events = 0
        self._folded_to = 0
        self._durable_to = 0
        self._cut_to = 0
        self._new_ids: list[tuple[int, U64]] = []
        self._duplicates: list[I64] = []
        self._late = 0
        self._dying: I64 | None = None
        self._stats = FoldStats()

    @property
    def clean(self) -> bool:
        """Every effect is in an acknowledged frame."""
        return self.position == self._durable_to

    @property
    def stats(self) -> FoldStats:
        """Levels are read now."""
        state = self._state
        self._stats.open_rows = state.table.open_rows
        self._stats.dedupe_ids = len(self._dedupe)
        self._stats.bytes = state.table.bytes + state.registers.bytes + state.buckets.bytes + self._dedupe.bytes
        return self._stats

    def apply(self, batch: EventBatch) -> None:
        """Fold the records of a batch. Raises GapError when it begins before `position` or does not move it."""
        if batch.next_offset <= self.position or (len(batch.offsets) and batch.offsets[0] < self.position):
            raise GapError(
                f"partition {self.partition}: a batch up to {batch.next_offset} was applied at {self.position}",
                remedy="slice batches to begin at the fold's position",
            )
        self._pending.append(batch.narrowed())
        self._pending_events += len(batch.offsets)
        self.position = batch.next_offset
        self.last_crc = batch.last_crc
        if self._pending_events >= PENDING_EVENTS_MAX:
            self._flush()

    def cut(self) -> FrameContent | None:
        """What changed since the last cut, None when the position has not moved. Acknowledge it before the next.

        Final rows stay in memory until then.
        """
        assert self._cut_to == self._durable_to, "one frame at a time: the last one is not acknowledged"
        if self.position == self._cut_to:
            return None
        self._flush()
        began = time.thread_time()
        table = self._state.table
        changed = np.flatnonzero(table.changed[: table.count])
        content = FrameContent(
            from_offset=self._cut_to,
            to_offset=self.position,
            rows=read_rows(self._state, changed),
            dedupe=_by_hour(self._new_ids),
            duplicates=np.concatenate([np.empty(0, np.int64), *self._duplicates]),
            late=self._late,
            watermark_us=self._watermark_us,
            receive_us=self._receive_us,
            last_crc=self.last_crc,
        )
        table.changed[changed] = False
        self._new_ids, self._duplicates, self._late = [], [], 0
        self._dying = np.flatnonzero(table.closed[: table.count] & ~table.dead[: table.count])
        self._cut_to = self.position
        self._spent("cut", began)
        return content

    def acknowledge(self) -> None:
        """The content of the last cut is durable: its final rows leave memory."""
        assert self._dying is not None, "there is no cut to acknowledge"
        self._state.table.kill(self._dying)
        self._dying = None
        self._durable_to = self._cut_to
        self._sweep()

    def merge(self, content: FrameContent) -> None:
        """Take over a frame that the accept rule let through. One that ends at or before `position` changes nothing.

        Raises GapError when it begins past `position`.
        """
        assert self.clean, "merging is for a fold without changes of its own"
        if content.to_offset <= self.position:
            return
        if content.from_offset > self.position:
            raise GapError(
                f"partition {self.partition}: a frame from {content.from_offset} follows position {self.position}",
                remedy="recover from a snapshot that the aggregates log still reaches",
            )
        write_rows(self._state, content.rows)
        self._dedupe.advance(content.receive_us // HOUR_US)
        for hour in content.dedupe:
            self._dedupe.restore(hour.ids.astype(np.uint64), hour.hour)
        self._stand_at(content.to_offset, content.watermark_us, content.receive_us, content.last_crc)
        self._sweep()

    def snapshot(self) -> Snapshot:
        """The whole state. The fold must be clean: a snapshot never holds more than frames do."""
        assert self.clean, "a snapshot is taken right after a frame is acknowledged"
        live = np.flatnonzero(~self._state.table.closed[: self._state.table.count])
        rows = [
            read_rows(self._state, live[start : start + SECTION_ROWS]) for start in range(0, len(live), SECTION_ROWS)
        ]
        head = SnapshotHead(
            partition=self.partition,
            version=self.rules.version,
            position=self.position,
            watermark_us=self._watermark_us,
            receive_us=self._receive_us,
            last_crc=self.last_crc,
        )
        return Snapshot(head, tuple(rows), self._dedupe.seen())

    @classmethod
    def restore(cls, rules: FoldRules, partition: int, chunks: Sequence[bytes]) -> "PartitionFold":
        """The fold that a snapshot was taken of; `chunks` are its bytes, cut anywhere.

        Raises PoisonError when they are damaged, FatalError when they are of another partition or fold version.
        """
        parts = read_snapshot(chunks)
        head = parts.head
        if (head.partition, head.version) != (partition, rules.version):
            raise FatalError(
                f"a snapshot of partition {head.partition}, fold version {head.version}, was read for partition "
                f"{partition}, version {rules.version}",
                remedy="run the release and the fold settings it was taken with",
            )
        fold = cls(rules, partition)
        for rows in parts.rows:
            write_rows(fold._state, rows)
        fold._dedupe.advance(head.receive_us // HOUR_US)
        for hour, ids in parts.ids:
            fold._dedupe.restore(ids.astype(np.uint64), hour)
        fold._stand_at(head.position, head.watermark_us, head.receive_us, head.last_crc)
        return fold

    # ------------------------------------------------------------------------------------------ private

    def _stand_at(self, position: int, watermark_us: int, receive_us: int, last_crc: int) -> None:
        self.position = self._folded_to = self._cut_to = self._durable_to = position
        self._watermark_us, self._receive_us, self.last_crc = watermark_us, receive_us, last_crc

    def _flush(self) -> None:
        """Fold what is pending."""
        batches, self._pending, self._pending_events = self._pending, [], 0
        began = time.thread_time()
        filled = [b for b in batches if len(b.offsets)]
        if filled:
            columns = read_columns(filled)
            self._spent("columns", began)
            self._fold(columns)
            self._stats.events += len(columns)
        self._pass(self.position)

    def _fold(self, columns: Columns) -> None:
        began = time.thread_time()
        rules = self.rules
        receive = running_max(columns.receive_us, self._receive_us)
        kept = self._drop_duplicates(columns, receive // HOUR_US)
        self._receive_us = int(receive[-1])
        self._spent("dedupe", began)
        began = time.thread_time()
        timestamp = clamped(columns.timestamp_us, columns.receive_us, rules.skew_s)
        watermark = until_each(
            running_max(timestamp - rules.bound_s * SECOND_US, self._watermark_us), self._watermark_us
        )
        grain = starting_grain(columns.receive_us[kept] - timestamp[kept], rules)
        window = window_start(timestamp[kept] // SECOND_US, grain)
        generations, late = generation(window, grain, watermark[kept], rules)
        self._late += int(np.count_nonzero(late))
        self._spent("windows", began)
        self._count_between_closings(columns, Placed(kept, grain, window, generations), watermark)

    def _drop_duplicates(self, columns: Columns, hour: I64) -> I64:
        """Places of first arrivals. The receive hour decides which ids are remembered: one hour at a time."""
        starts = np.append(run_starts(hour), len(hour))
        first = np.empty(len(hour), np.bool_)
        for start, end in pairwise(starts.tolist()):
            self._dedupe.advance(int(hour[start]))
            messages = columns.message[start:end]
            first[start:end] = self._dedupe.first_arrivals(messages)
            self._new_ids.append((int(hour[start]), messages[first[start:end]]))
        again = columns.offsets[~first]
        if len(again):
            self._duplicates.append(again)
        return np.flatnonzero(first)

    def _count_between_closings(self, columns: Columns, placed: Placed, watermark: I64) -> None:
        """Count events up to each offset at which rows close, close them, and go on."""
        final_at = final_at_us(placed.generation, placed.grain, self.rules.grace_s)
        block = columns.offsets // CLOSE_EVERY
        counted = 0
        for event in np.flatnonzero(block > np.append(self._folded_to // CLOSE_EVERY, block[:-1])):
            upto = int(np.searchsorted(placed.events, event))
            waiting = final_at[counted:upto].min(initial=self._state.table.next_final_us)
            if waiting <= watermark[event]:
                self._count(columns, placed, counted, upto)
                counted = upto
                self._close(int(watermark[event]))
        self._count(columns, placed, counted, len(placed.events))
        self._watermark_us = int(watermark[-1])
        self._folded_to = int(columns.offsets[-1])

    def _count(self, columns: Columns, placed: Placed, start: int, end: int) -> None:
        if start == end:
            return
        began = time.thread_time()
        own = slice(start, end)
        some = Placed(placed.events[own], placed.grain[own], placed.window[own], placed.generation[own])
        count_events(self._state, columns, some)
        self._spent("count", began)

    def _pass(self, next_offset: int) -> None:
        """Everything below `next_offset` is folded: close what the last closing offset up to there closes."""
        if next_offset // CLOSE_EVERY > self._folded_to // CLOSE_EVERY:
            self._close(self._watermark_us)
        self._folded_to = next_offset

    def _close(self, watermark_us: int) -> None:
        if self._state.table.next_final_us <= watermark_us:
            began = time.thread_time()
            close_final(self._state, watermark_us)
            self._spent("close", began)

    def _sweep(self) -> None:
        """Drop dead rows once there are enough of them."""
        if self._state.table.sweep_due:
            began = time.thread_time()
            renumbered = self._state.table.sweep()
            self._state.registers.renumber(renumbered)
            self._state.buckets.renumber(renumbered)
            self._spent("sweep", began)

    def _spent(self, stage: str, began: float) -> None:
        spent = self._stats.seconds
        spent[stage] = spent.get(stage, 0.0) + time.thread_time() - began


def _by_hour(ids: Sequence[tuple[int, U64]]) -> list[DedupeHour]:
    """Sorted ids of each hour."""
    hours = sorted({hour for hour, _ in ids})
    grouped = [DedupeHour(h, np.sort(np.concatenate([part for hour, part in ids if hour == h]))) for h in hours]
    return [g for g in grouped if len(g.ids)]
