"""Raw events in ClickHouse: each event that the fold counted, once, keyed by its position in the log.

The fold decides what a second arrival is; frames carry those offsets. So events are inserted up to the position that
accepted frames cover, without the offsets they name, and raw rows and rollups agree to the unit. A batch that is
inserted twice collapses. Passed over, as by the fold and by the same code (schemas/intake.py): records that are no
event, in the wrong partition for their key or out of bounds (the worker puts all of them into `events.dead`).
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace import metrics
from headrace.kafka import TIMESTAMP_LOG_APPEND_TIME
from schemas.accept import AcceptRule
from schemas.frame import Frame, FrameHeader
from schemas.intake import NO_STAMP, EventIntake, clamped
from sinks.clickhouse_store import InsertCursor, moved
from sinks.consumer import FrameRecord
from sinks.lane import count_outcome

TABLE: Final = "events"
SINK: Final = "events"
READER: Final = "clickhouse-events"

Integers = npt.NDArray[np.int64]

_TEXTS: Final = (
    "message_id",
    "type",
    "name",
    "user_id",
    "anonymous_id",
    "group_id",
    "previous_id",
    "session_id",
    "path",
    "referrer_domain",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "country",
    "browser",
    "os",
    "device",
    "currency",
    "properties",
    "context",
    "protocol",
    "library",
)
_TIME: Final = pa.timestamp("us", "UTC")

_SHOWN_TEXTS: Final = (
    "message_id",
    "type",
    "user_id",
    "anonymous_id",
    "path",
    "referrer_domain",
    "utm_source",
    "country",
    "device",
    "browser",
    "os",
)
_SHOWN_COLUMNS: Final = [*_SHOWN_TEXTS, "name", "timestamp", "value_e6"]
_SHOWN: Final = pl.struct(
    *_SHOWN_TEXTS,
    pl.col("name").alias("event"),
    pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"),
    (pl.col("value_e6") / 1e6).alias("value"),
).struct.json_encode()
"""An event in live streams."""


class EventRecord(msgspec.Struct, frozen=True, gc=False):
    """A record of `events`, undecoded. `stamp_us` is the broker's time, or None where it does not stamp."""

    offset: int
    value: bytes | None
    stamp_us: int | None

    @classmethod
    def of(cls, message: Any) -> "EventRecord":
        """From a Kafka message."""
        kind, stamp_ms = message.timestamp()
        stamp_us = stamp_ms * 1000 if kind == TIMESTAMP_LOG_APPEND_TIME else None
        return cls(message.offset(), message.value(), stamp_us)


@dataclass(frozen=True, slots=True)
class EventSlice:
    """Records of one partition that are covered by frames: all there are in [start, cursor.next_offset)."""

    partition: int
    records: Sequence[EventRecord]
    duplicates: Integers
    cursor: InsertCursor


@dataclass(frozen=True, slots=True)
class _Span:
    """What an accepted frame says: all below `header.to_offset` is decided, these offsets are second arrivals."""

    header: FrameHeader
    duplicates: Integers
    resume_at: int


@dataclass(slots=True)
class EventsPartition:
    """What is known of one partition and not yet inserted. Pure; the owner locks."""

    cursor: InsertCursor
    rule: AcceptRule
    seen_to: int = field(init=False)
    buffered_bytes: int = field(default=0, init=False)
    _records: deque[EventRecord] = field(default_factory=deque, init=False)
    _spans: deque[_Span] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        self.seen_to = self.cursor.next_offset

    @property
    def spans(self) -> int:
        """Accepted frames whose events are not all inserted."""
        return len(self._spans)

    @property
    def covered_to(self) -> int:
        """All records below it are here (or inserted) and decided."""
        return min(self.seen_to, self._spans[-1].header.to_offset) if self._spans else self.cursor.next_offset

    def add_record(self, record: EventRecord) -> None:
        """The next record of `events`; one that we have had is passed over."""
        if record.offset >= self.seen_to:
            self._records.append(record)
            self.buffered_bytes += len(record.value or b"")
            self.seen_to = record.offset + 1

    def add_frame_record(self, record: FrameRecord) -> None:
        """The next record of `aggregates`."""
        if record.offset < self.rule.next_offset:
            return  # had it
        if record.chunk is None:
            self.rule.next_offset = record.offset + 1
            return
        resume_at = self.rule.resume_offset
        outcome, frame = self.rule.feed(record.offset, record.chunk)
        count_outcome(outcome, READER, record)
        if frame is not None:
            self.rule.fold_version = frame.header.fold_version
            self._spans.append(_span(frame, resume_at))

    def take(self, records_max: int) -> EventSlice | None:
        """The next covered records, at most `records_max`; moves our place behind them. None: nothing is covered."""
        start, end = self.cursor.next_offset, self.covered_to
        if end <= start:
            return None
        records: list[EventRecord] = []
        while self._records and self._records[0].offset < end and len(records) < records_max:
            records.append(self._records.popleft())
            self.buffered_bytes -= len(records[-1].value or b"")
        if self._records and self._records[0].offset < end:
            end = records[-1].offset + 1
        named = [span.duplicates for span in self._spans if span.header.from_offset < end]
        duplicates = np.concatenate(named) if named else np.empty(0, dtype=np.int64)
        self.cursor = moved(self.cursor, {"next_offset": end, **self._passed(end)})
        return EventSlice(self.cursor.partition, records, duplicates, self.cursor)

    def _passed(self, end: int) -> Mapping[str, Any]:
        """Forget the frames that end at or before `end`; what the cursor says of the last of them."""
        changes: dict[str, Any] = {}
        while self._spans and self._spans[0].header.to_offset <= end:
            header = self._spans.popleft().header
            changes = {
                "fold_version": header.fold_version,
                "watermark_us": header.watermark_us,
                "receive_us": header.receive_us,
            }
        changes["resume_at"] = self._spans[0].resume_at if self._spans else self.rule.resume_offset
        return changes


class EventTable:
    """Builds the table's columns from records. `partitions`: of `events`; `skew_s`: the fold's clamp."""

    def __init__(self, partitions: int, skew_s: int) -> None:
        self._skew_s = skew_s
        self._intake = EventIntake(partitions)

    def rows(self, part: EventSlice) -> pa.Table:
        """One row for each event of the slice that counts, in order."""
        count = len(part.records)
        stamps = [NO_STAMP if record.stamp_us is None else record.stamp_us for record in part.records]
        taken = self._intake.take(
            [record.value for record in part.records], np.array(stamps, dtype=np.int64), part.partition
        )
        for reason, dead in Counter(reason for _, reason in taken.dead).items():
            _skipped(reason, dead)
        offsets = np.fromiter((record.offset for record in part.records), np.int64, count)[taken.index]
        keep = ~np.isin(offsets, part.duplicates)
        _skipped("duplicate", int(np.count_nonzero(~keep)))
        table = self._columns(taken.events, taken.receive_us)
        table = table.append_column("log_partition", pa.array(np.full(len(offsets), part.partition), pa.uint16()))
        table = table.append_column("log_offset", pa.array(offsets, pa.uint64()))
        return table if keep.all() else table.filter(pa.array(keep))

    def _columns(self, events: pa.RecordBatch, stored: Integers) -> pa.Table:
        timestamps = clamped(events.column("timestamp_us").to_numpy(), stored, self._skew_s)
        columns: dict[str, pa.Array] = {
            "customer_id": events.column("customer_id"),
            "timestamp": pa.array(timestamps).cast(_TIME),
            "value_e6": events.column("value_e6"),
            "attempt": events.column("attempt"),
            "received_at": events.column("received_at_us").cast(_TIME),
            "original_timestamp": events.column("original_timestamp_us").cast(_TIME),
            "sent_at": events.column("sent_at_us").cast(_TIME),
            "stored_at": pa.array(stored).cast(_TIME),
        }
        columns |= {name: pc.fill_null(events.column(name), "") for name in _TEXTS}
        return pa.table(columns)


def sample(rows: pa.Table, per_customer: int, customers_max: int) -> dict[int, list[str]]:
    """The newest events of each customer as live streams show them, oldest first, each as JSON.

    Of more than `customers_max` customers those with the least ids are shown: a page polls besides.
    """
    if not rows.num_rows:
        return {}
    customers = rows.column("customer_id").to_numpy()
    order = np.argsort(customers, kind="stable")
    ordered = customers[order]
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    ends = np.append(changes, len(ordered))[:customers_max]
    starts = np.append(0, changes)[:customers_max]
    newest = [order[max(start, end - per_customer) : end] for start, end in zip(starts, ends, strict=True)]
    taken = pl.DataFrame(rows.select(_SHOWN_COLUMNS).take(pa.array(np.concatenate(newest))))
    texts: list[str] = taken.select(_SHOWN).to_series().to_list()
    out, start = {}, 0
    for customer, own in zip(ordered[starts].tolist(), newest, strict=True):
        out[customer] = texts[start : start + len(own)]
        start += len(own)
    return out


def _span(frame: Frame, resume_at: int) -> _Span:
    return _Span(frame.header, frame.duplicates, resume_at)


def _skipped(reason: str, count: int) -> None:
    if count:
        metrics.counter("headrace_raw_events_skipped_total", reason).inc(count)
