"""The ClickHouse sink: one reader of `events` and `aggregates` for the raw events and the rollup rows.

The rollup rows have a lane, as a Postgres shard has; the raw events an inserter thread of their own, which waits for
frames to cover what it holds. Both are bounded; a partition that has enough is paused.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from headrace import metrics
from headrace.clock import Clock, SystemClock
from headrace.errors import RetryableError
from headrace.kafka import Message
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.topics import events_topic_id
from schemas.accept import AcceptRule
from schemas.topics import SINK_CLICKHOUSE_GROUP, Topics
from sinks import clickhouse_events, clickhouse_rollups
from sinks.backoff import Backoff
from sinks.clickhouse_events import EventRecord, EventSlice, EventsPartition, EventTable
from sinks.clickhouse_rollups import RollupStore
from sinks.clickhouse_store import ClickHouseStore, InsertCursor, completed
from sinks.consumer import ConsumerLoop, FrameDecoder, FrameRecord, Place, Subscription
from sinks.event_ends import EventEnds
from sinks.lane import Lane
from sinks.live import CUSTOMERS_PER_NOTICE_MAX, SAMPLE_EVENTS_MAX, LiveNotices

INTERVAL_S: Final = 1.0
"""Inserts start no closer together: each makes a part in every month it touches."""
BUSY_ROWS: Final = 5_000
BUSY_INTERVAL_S: Final = 2.0
"""After an insert of so many rows the next starts so much later: half as many parts, merged a third cheaper."""
PARTITION_BYTES_MIN: Final = 2 * 1024 * 1024
"""Least bound of the events held for one partition, however many share the setting."""
SPANS_MAX: Final = 10_000
"""Accepted frames held for one partition whose events are still to come."""
RECORDS_FETCHED_MAX: Final = 2_000
IDLE_WAIT_S: Final = 0.2
LOAD_WAIT_S: Final = 0.2
COMPLETE_EVERY_S: Final = 2.0
"""How often an idle partition's cursor says that nothing is missing: each time makes a small part."""
CLOSE_WAIT_S: Final = 10.0

log = get_logger(__name__)


class EventsInserter:
    """Holds records until frames cover them, and a thread that inserts what is covered."""

    def __init__(
        self,
        settings: Settings,
        cursors: Mapping[int, InsertCursor],
        store: ClickHouseStore,
        topic_id: str,
        notices: LiveNotices,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._topic_id = topic_id
        self._notices = notices
        self._clock = clock
        self._table = EventTable(settings.events_partitions, settings.skew_s)
        self._backoff = Backoff(settings.retry_backoff_s, settings.retry_backoff_max_s)
        self._bytes_max = max(PARTITION_BYTES_MIN, settings.sink_queue_bytes_max // max(1, len(cursors)))
        self._changed = threading.Condition()
        self._closing = False
        self._full: set[int] = set()
        self._durable = dict(cursors)
        self._partitions = {
            partition: EventsPartition(
                cursor,
                AcceptRule(
                    cursor.next_offset, cursor.resume_at, fold_version=cursor.fold_version or None, topic_id=topic_id
                ),
            )
            for partition, cursor in cursors.items()
        }
        self._ends: tuple[Mapping[int, int], int] | None = None
        self._fresh = {
            partition: max(cursor.receive_us, cursor.complete_us) or clock.now_us()
            for partition, cursor in cursors.items()
        }
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="clickhouse-events", daemon=True)

    def start(self) -> None:
        """Begin to insert."""
        self._thread.start()

    def close(self) -> None:
        """Finish the insert under way; what waits will be read again."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_WAIT_S)
        self._store.close()

    def durable(self) -> dict[int, InsertCursor]:
        """What is stored, by partition."""
        with self._changed:
            return dict(self._durable)

    def take_events(self, partition: int, records: Sequence[EventRecord]) -> None:
        """The next records of `events`."""
        with self._changed:
            own = self._partitions[partition]
            for record in records:
                own.add_record(record)
            self._changed.notify_all()

    def take_frames(self, records: Sequence[FrameRecord]) -> None:
        """The next records of `aggregates`."""
        with self._changed:
            for record in records:
                self._partitions[record.partition].add_frame_record(record)
            self._changed.notify_all()

    def note_event_ends(self, ends: Mapping[int, int], at_us: int) -> None:
        """`events` ended at `ends` at `at_us` (by partition). Stored when there is nothing to insert."""
        with self._changed:
            self._ends = (ends, at_us)

    def show_freshness(self) -> None:
        """Set the gauge. To be called about every second: it has to grow while nothing can be stored."""
        now_us = self._clock.now_us()
        with self._changed:
            age_s = (now_us - min(self._fresh.values(), default=now_us)) / 1e6
        metrics.gauge("headrace_freshness_seconds", "clickhouse", clickhouse_events.SINK).set(age_s)

    def full(self) -> tuple[set[int], set[int]]:
        """The partitions of which no more events, and no more frames, may come now."""
        with self._changed:
            for partition, own in self._partitions.items():
                if own.buffered_bytes >= self._bytes_max:
                    self._full.add(partition)
                elif own.buffered_bytes <= self._bytes_max // 2:  # some room, so that pauses are few
                    self._full.discard(partition)
            return set(self._full), {p for p, own in self._partitions.items() if own.spans >= SPANS_MAX}

    def _run(self) -> None:
        try:
            while not self._closing:
                started = time.monotonic()
                slices = self._next_slices()
                interval_s = INTERVAL_S
                if slices:
                    self._retry(lambda slices=slices: self._insert(slices))  # type: ignore[misc]
                    if sum(len(part.records) for part in slices) >= BUSY_ROWS:
                        interval_s = BUSY_INTERVAL_S
                else:
                    self._note_complete()
                with self._changed:
                    spare_s = started + interval_s - time.monotonic()
                    if not self._closing and spare_s > 0:
                        self._changed.wait_for(lambda: self._closing, spare_s)
        except Exception as error:  # the thread's edge: the loop that owns the inserter raises it in its own
            if not self._closing:
                log.error("events_inserter_failed", error=str(error))
                self.failure = error

    def _note_complete(self) -> None:
        with self._changed:
            noted, self._ends = self._ends, None
        if noted is None or self._closing:
            return
        level = completed(list(self._durable.values()), *noted)
        try:
            self._store.advance(level, self._topic_id)
        except RetryableError as error:
            self._store.close()
            log.warning("completeness_not_noted", store="clickhouse-events", error=error.message)
            return
        with self._changed:
            for cursor in level:
                self._durable[cursor.partition] = cursor
                own = self._partitions[cursor.partition]
                own.cursor = replace(own.cursor, complete_us=cursor.complete_us)
                self._fresh[cursor.partition] = max(self._fresh[cursor.partition], cursor.complete_us)

    def _see_level(self) -> None:
        """After an insert: how fresh its partitions are, and those that lacked nothing when last looked at."""
        with self._changed:
            ends, at_us = self._ends or ({}, 0)
            for partition, cursor in self._durable.items():
                level = cursor.next_offset >= ends.get(partition, cursor.next_offset + 1)
                at = max(cursor.receive_us, at_us if level else 0)
                self._fresh[partition] = max(self._fresh[partition], at)

    def _next_slices(self) -> list[EventSlice]:
        with self._changed:
            slices: list[EventSlice] = []
            left = self._settings.sink_batch_rows_max
            for own in self._partitions.values():
                part = own.take(left) if left > 0 else None
                if part is not None:
                    slices.append(part)
                    left -= len(part.records)
            if not slices and not self._closing:
                self._changed.wait(IDLE_WAIT_S)
            return slices

    def _insert(self, slices: Sequence[EventSlice]) -> None:
        started = time.monotonic()
        rows = pa.concat_tables([self._table.rows(part) for part in slices])
        self._store.insert(clickhouse_events.TABLE, rows)
        self._store.advance([part.cursor for part in slices], self._topic_id)
        with self._changed:
            self._durable |= {part.partition: part.cursor for part in slices}
        metrics.histogram("headrace_sink_seconds", "clickhouse").observe(time.monotonic() - started)
        metrics.counter("headrace_sink_rows_total", "clickhouse", clickhouse_events.SINK).inc(rows.num_rows)
        metrics.counter("headrace_sink_transactions_total", "clickhouse", clickhouse_events.SINK, "committed").inc()
        receive_us = max(part.cursor.receive_us for part in slices)
        self._see_level()
        if rows.num_rows and self._notices.wanted:
            sample = clickhouse_events.sample(rows, SAMPLE_EVENTS_MAX, CUSTOMERS_PER_NOTICE_MAX)
            self._notices.stored(sample, receive_us)

    def _retry(self, work: Callable[[], None]) -> None:
        while not self._closing:
            try:
                work()
            except RetryableError as error:
                self._store.close()
                wait_s = self._backoff.next_s()
                metrics.counter(
                    "headrace_sink_transactions_total", "clickhouse", clickhouse_events.SINK, "failed"
                ).inc()
                log.warning("store_retry", store="clickhouse-events", wait_s=round(wait_s, 2), error=error.message)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, wait_s)
            else:
                self._backoff.reset()
                return


class ClickHouseReader:
    """A `consumer.Reader` of both topics, for one assignment of partitions."""

    def __init__(
        self,
        settings: Settings,
        partitions: Sequence[int],
        notices: LiveNotices,
        stopping: threading.Event,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._complete_at = 0.0
        self._fetched_ends: Mapping[int, int] = {}
        self._topics = Topics(settings.topic_prefix)
        self._partitions = list(partitions)
        self._decoder = FrameDecoder(SINK_CLICKHOUSE_GROUP)
        topic_id = events_topic_id(settings)
        self._lane = Lane(
            settings,
            RollupStore(settings),
            partitions,
            topic_id,
            clock,
            lambda _applied: None,
            clickhouse_rollups.INTERVAL_S,
        )
        self._waiting: Sequence[FrameRecord] = ()
        store = ClickHouseStore(settings, clickhouse_events.SINK)
        cursors = _load(store, partitions, topic_id, settings, stopping, clock)
        self._inserter = EventsInserter(settings, cursors, store, topic_id, notices, clock)
        self._inserter.start()
        self._lane.start()
        while not self._lane.wait_loaded(LOAD_WAIT_S) and self._lane.failure is None and not stopping.is_set():
            pass  # ClickHouse has answered once; the lane retries by itself
        self._event_ends = EventEnds(settings, self._topics.events, partitions, clock, self._note_event_ends)
        self._event_ends.start()

    def start_offsets(self) -> Mapping[Place, int]:
        """Events from their cursor; frames from the earlier one of both cursors."""
        lane = self._lane.wanted()
        out: dict[Place, int] = {}
        for partition, cursor in self._inserter.durable().items():
            out[self._topics.events, partition] = cursor.next_offset
            out[self._topics.aggregates, partition] = min(cursor.resume_at, lane.get(partition, cursor.resume_at))
        return out

    def paused(self) -> Collection[Place]:
        """Partitions that hold enough; all frames while the rollup rows' lane is full."""
        if self._waiting and self._lane.take(self._waiting):
            self._waiting = ()
        events, frames = self._inserter.full()
        if self._waiting:
            frames = set(self._partitions)
        return {(self._topics.events, p) for p in events} | {(self._topics.aggregates, p) for p in frames}

    def take(self, messages: Sequence[Message]) -> None:
        """Sort one fetch by topic. Frames go to both; what the lane has no room for waits here, one fetch at most."""
        by_partition: dict[int, list[EventRecord]] = {}
        frames = []
        for message in messages:
            if message.topic() == self._topics.events:
                by_partition.setdefault(message.partition(), []).append(EventRecord.of(message))
            else:
                frames.append(message)
        for partition, records in by_partition.items():
            self._inserter.take_events(partition, records)
        if frames:
            decoded = self._decoder.decode(frames)
            self._inserter.take_frames(decoded)
            waiting = [*self._waiting, *decoded]
            self._waiting = () if self._lane.take(waiting) else waiting

    def resume_offsets(self) -> Mapping[Place, int]:
        """The hindmost of raw events and rollup rows."""
        lane = self._lane.resume_offsets()
        out: dict[Place, int] = {}
        for partition, cursor in self._inserter.durable().items():
            out[self._topics.events, partition] = cursor.next_offset
            if partition in lane:
                out[self._topics.aggregates, partition] = min(cursor.resume_at, lane[partition])
        return out

    def see_ends(self, ends: Mapping[Place, int]) -> None:
        """Measures lag and freshness."""
        self._lane.show_freshness()
        self._inserter.show_freshness()
        resume = self.resume_offsets()
        for topic, part in ((self._topics.events, "events"), (self._topics.aggregates, "rollups")):
            behind = [max(0, end - resume.get(place, end)) for place, end in ends.items() if place[0] == topic]
            metrics.gauge("headrace_sink_lag_records", "clickhouse", part).set(sum(behind))
        self._fetched_ends = {place[1]: end for place, end in ends.items() if place[0] == self._topics.events}

    def check(self) -> None:
        """Raise what stopped a thread."""
        for failure in (self._inserter.failure, self._lane.failure):
            if failure is not None:
                raise failure

    def close(self) -> None:
        """Stop all threads."""
        self._event_ends.stop()
        self._inserter.close()
        self._lane.close()

    def _note_event_ends(self, ends: Mapping[int, int], at_us: int) -> None:
        """Now and then, say that partitions are complete. Tansu's answer may be too small; a fetch knows better."""
        if time.monotonic() - self._complete_at >= COMPLETE_EVERY_S:
            self._complete_at = time.monotonic()
            fetched = self._fetched_ends
            known = {partition: max(end, fetched.get(partition, 0)) for partition, end in ends.items()}
            self._inserter.note_event_ends(known, at_us)
            self._lane.note_event_ends(known, at_us)


def consumer_loop(
    settings: Settings,
    notices: LiveNotices,
    stopping: threading.Event,
    partitions: tuple[int, ...] | None = None,
) -> ConsumerLoop:
    """The ClickHouse sink, ready to run. With `partitions` it reads exactly these and joins no group."""
    topics = Topics(settings.topic_prefix)
    return ConsumerLoop(
        settings,
        Subscription((topics.events, topics.aggregates), SINK_CLICKHOUSE_GROUP, partitions, RECORDS_FETCHED_MAX),
        lambda assigned: ClickHouseReader(settings, assigned, notices, stopping),
        stopping,
    )


def _load(
    store: ClickHouseStore,
    partitions: Sequence[int],
    topic_id: str,
    settings: Settings,
    stopping: threading.Event,
    clock: Clock,
) -> Mapping[int, InsertCursor]:
    """The cursors, once ClickHouse answers; nothing when we are to stop meanwhile."""
    backoff = Backoff(settings.retry_backoff_s, settings.retry_backoff_max_s)
    since_us = clock.now_us()
    while not stopping.is_set():
        try:
            return store.cursors(partitions, topic_id)
        except RetryableError as error:
            store.close()
            wait_s = backoff.next_s()
            log.warning("store_retry", store="clickhouse-events", wait_s=round(wait_s, 2), error=error.message)
            for part in (clickhouse_events.SINK, clickhouse_rollups.SINK):  # nobody else shows it yet
                age_s = (clock.now_us() - since_us) / 1e6
                metrics.gauge("headrace_freshness_seconds", "clickhouse", part).set(age_s)
            stopping.wait(wait_s)
    return {}
