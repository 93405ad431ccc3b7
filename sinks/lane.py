"""A lane: one store's bounded queue of frames and the thread that brings them in.

A store is a Postgres shard, or ClickHouse's rollup rows. Lanes share nothing, so a shard that is down, slow or full
lags alone. A lane knows which record of each partition it wants next; records before that are passed over, so that
readers may overlap. In an outage the batch at hand is tried again until it is in; the queue fills meanwhile and
refuses more.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

from headrace import metrics
from headrace.clock import Clock
from headrace.errors import RetryableError
from headrace.log import get_logger
from headrace.settings import Settings
from schemas.accept import AcceptRule, Outcome
from schemas.frame import Frame
from sinks.backoff import Backoff
from sinks.consumer import FrameRecord, ReopenError
from sinks.cursors import Applied, Cursor

IDLE_WAIT_S: Final = 0.2
"""Longest sleep before a lane looks whether it shall stop."""
CLOSE_WAIT_S: Final = 10.0
"""Longest wait for the transaction under way when the lane closes; its connection is cut after that."""

Result = TypeVar("Result")
OnApplied: TypeAlias = Callable[[Applied], None]

log = get_logger(__name__)


class FrameStore(Protocol):
    """Where a lane writes. Blocking; used by the lane's thread alone.

    `name` and `part` label its metrics and logs: ("postgres", "shard-1"), ("clickhouse", "rollups").
    """

    name: str
    part: str

    def cursors(self, partitions: Sequence[int], topic_id: str) -> list[Cursor]:
        """How far each range of these partitions is. Raises RetryableError, IncarnationError."""

    def apply(self, frames: Sequence[Frame], resume_at: Mapping[int, int]) -> Applied:
        """Bring in accepted frames, in the order of their log, and move the cursors: durable on return.

        `resume_at`: where in `aggregates` to read on from afterwards, by partition. May be repeated after any error.
        Raises RetryableError for what may pass by itself; anything else ends the lane.
        """

    def complete(self, event_ends: Mapping[int, int], at_us: int) -> None:
        """Note that `events` ended at these offsets at `at_us`: cursors that are there are complete up to then.

        Raises RetryableError; a note that is lost does not matter.
        """

    def close(self) -> None:
        """Let go of connections; the next call makes new ones."""


class Lane:
    """See the module. `take` and the properties may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        store: FrameStore,
        partitions: Sequence[int],
        topic_id: str,
        clock: Clock,
        on_applied: OnApplied,
        interval_s: float | None = None,
        fresh_us: int | None = None,
    ) -> None:
        """`interval_s`: least time between the starts of two transactions; the setting `sink_interval_s` if None.

        `fresh_us`: what the lane before this one knew of how fresh its store is; now if None.
        """
        self.name = store.part
        self._labels = (store.name, store.part)
        self._settings = settings
        self._store = store
        self._partitions = list(partitions)
        self._topic_id = topic_id
        self._clock = clock
        self._on_applied = on_applied
        self._interval_s = settings.sink_interval_s if interval_s is None else interval_s
        self._backoff = Backoff(settings.retry_backoff_s, settings.retry_backoff_max_s)
        self._changed = threading.Condition()
        self._queue: deque[FrameRecord] = deque()
        self._queue_bytes = 0
        self._busy = False
        self._closing = False
        self._failure: BaseException | None = None
        self._rules: dict[int, AcceptRule] = {}
        self._wanted: dict[int, int] = {}
        self._durable: dict[int, int] = {}
        self._position: dict[int, int] = {}
        self._loaded = threading.Event()
        self._applied_at = 0.0
        self._ends: tuple[Mapping[int, int], int] | None = None
        self._fresh = dict.fromkeys(partitions, clock.now_us() if fresh_us is None else fresh_us)
        self._thread = threading.Thread(target=self._run, name=f"lane-{self.name}", daemon=True)

    def start(self) -> None:
        """Begin: read the cursors, then wait for frames."""
        self._thread.start()

    def close(self) -> None:
        """Finish the transaction under way, drop what waits (it will be read again), let go."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_WAIT_S)
        self._store.close()

    def wait_loaded(self, timeout_s: float) -> bool:
        """Wait until the cursors are read; whether they are."""
        return self._loaded.wait(timeout_s)

    @property
    def failure(self) -> BaseException | None:
        """What stopped the lane for good, or None."""
        return self._failure

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        with self._changed:
            return not self._queue and not self._busy

    def wanted(self) -> dict[int, int]:
        """The next record of `aggregates` that the lane has not been given, by partition. Empty: owns no range."""
        with self._changed:
            return dict(self._wanted)

    def resume_offsets(self) -> dict[int, int]:
        """Where a restart of this lane would read on from, by partition, as stored."""
        with self._changed:
            return dict(self._durable)

    def note_event_ends(self, ends: Mapping[int, int], at_us: int) -> None:
        """`events` ended at `ends` at `at_us` (by partition). Stored when the lane is next idle."""
        with self._changed:
            self._ends = (ends, at_us)
            self._changed.notify_all()

    @property
    def fresh_us(self) -> int:
        """All that was received before this time (epoch microseconds) is in, as far as the lane knows."""
        with self._changed:
            return min(self._fresh.values(), default=self._clock.now_us())

    def show_freshness(self) -> None:
        """Set the gauge. To be called about every second: it has to grow while nothing can be stored."""
        age_s = (self._clock.now_us() - self.fresh_us) / 1e6
        metrics.gauge("headrace_freshness_seconds", *self._labels).set(age_s)

    def take(self, records: Sequence[FrameRecord]) -> bool:
        """Queue these records, all or none; False when the queue is full. Records it has had are passed over."""
        with self._changed:
            new = [r for r in records if r.offset >= self._wanted.get(r.partition, r.offset + 1)]
            size = sum(record.size_bytes for record in new)
            if not new:
                return True
            if self._queue and self._queue_bytes + size > self._settings.sink_queue_bytes_max:
                return False
            for record in new:
                self._wanted[record.partition] = record.offset + 1
            self._queue.extend(new)
            self._queue_bytes += size
            metrics.gauge("headrace_sink_queue_bytes", *self._labels).set(self._queue_bytes)
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        try:
            self._retry(self._load)
            self._loaded.set()
            while not self._closing:
                records = self._next_records()
                if records:
                    self._process(records)
                    with self._changed:
                        self._busy = False
                else:
                    self._note_complete()
        except Exception as error:  # the thread's edge: the loop that owns the lane raises it in its own
            if not self._closing:
                log.error("lane_failed", store=self.name, error=str(error))
                self._failure = error

    def _load(self) -> None:
        cursors = self._store.cursors(self._partitions, self._topic_id)
        with self._changed:
            self._rules = starting_rules(cursors, self._topic_id)
            self._wanted = {partition: rule.next_offset for partition, rule in self._rules.items()}
            self._durable = dict(self._wanted)
            self._position = {partition: rule.position for partition, rule in self._rules.items()}
            for cursor in cursors:
                if cursor.fresh_us:
                    self._fresh[cursor.partition] = cursor.fresh_us
            # a partition of which this store holds no range has nothing that could be old
            self._fresh = {partition: at_us for partition, at_us in self._fresh.items() if partition in self._rules}

    def _note_complete(self) -> None:
        with self._changed:
            noted, self._ends = self._ends, None
        if noted is not None and not self._closing:
            try:
                self._store.complete(*noted)
                self._see_level(*noted)
            except RetryableError as error:
                self._store.close()
                log.warning("completeness_not_noted", store=self.name, error=str(error))

    def _see_level(self, ends: Mapping[int, int], at_us: int) -> None:
        """Note the partitions that lacked nothing at `at_us`. Only after the store has answered: one that is down
        must not pass for fresh because nobody sends."""
        with self._changed:
            for partition, position in self._position.items():
                if position >= ends.get(partition, position + 1):
                    self._fresh[partition] = max(self._fresh[partition], at_us)

    def _next_records(self) -> list[FrameRecord]:
        """What waits, at most a batch. Transactions start no closer together than the interval, so that the
        frames of many partitions share one; a lone frame after a pause goes at once."""
        with self._changed:
            if not self._queue and self._ends is None:
                self._changed.wait(IDLE_WAIT_S)
            spare_s = self._applied_at + self._interval_s - time.monotonic()
            if self._queue and spare_s > 0 and not self._closing:
                self._changed.wait_for(lambda: self._closing, spare_s)
            records: list[FrameRecord] = []
            rows = 0
            while self._queue and rows < self._settings.sink_batch_rows_max:
                record = self._queue.popleft()
                self._queue_bytes -= record.size_bytes
                rows += record.chunk.header.rows if record.chunk else 0
                records.append(record)
            metrics.gauge("headrace_sink_queue_bytes", *self._labels).set(self._queue_bytes)
            self._busy = bool(records)
            return records

    def _process(self, records: Sequence[FrameRecord]) -> None:
        frames = [frame for record in records for frame in self._accept(record)]
        resume = {partition: rule.resume_offset for partition, rule in self._rules.items()}
        if frames:
            self._applied_at = time.monotonic()
            applied = self._retry(lambda: self._apply(frames, resume))
            if applied is None:
                return
            if applied.behind:
                raise ReopenError(f"ranges of {self.name} changed")
            touched = {frame.header.partition for frame in frames}
            with self._changed:
                self._durable |= {partition: resume[partition] for partition in touched}
                self._position |= {partition: self._rules[partition].position for partition in touched}
                for frame in frames:
                    at_us = max(self._fresh[frame.header.partition], frame.header.receive_us)
                    self._fresh[frame.header.partition] = at_us
                ends = self._ends
            if ends is not None:
                self._see_level(*ends)
            self._on_applied(applied)

    def _accept(self, record: FrameRecord) -> Sequence[Frame]:
        rule = self._rules[record.partition]
        if record.chunk is None:
            rule.next_offset = record.offset + 1
            return ()
        outcome, frame = rule.feed(record.offset, record.chunk)
        count_outcome(outcome, "-".join(self._labels), record)
        if frame is None:
            return ()
        rule.fold_version = frame.header.fold_version
        return (frame,)

    def _apply(self, frames: Sequence[Frame], resume: Mapping[int, int]) -> Applied:
        started = time.monotonic()
        applied = self._store.apply(frames, resume)
        metrics.histogram("headrace_sink_seconds", self._labels[0]).observe(time.monotonic() - started)
        metrics.counter("headrace_sink_rows_total", *self._labels).inc(applied.rows)
        metrics.counter("headrace_sink_transactions_total", *self._labels, "committed").inc()
        return applied

    def _retry(self, work: Callable[[], Result]) -> Result | None:
        """Run `work` until it succeeds or the lane closes (None). Only what may pass by itself is tried again."""
        while not self._closing:
            try:
                result = work()
            except RetryableError as error:
                self._store.close()
                wait_s = self._backoff.next_s()
                metrics.counter("headrace_sink_transactions_total", *self._labels, "failed").inc()
                log.warning("store_retry", store=self.name, wait_s=round(wait_s, 2), error=str(error))
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, wait_s)
            else:
                self._backoff.reset()
                return result
        return None


def starting_rules(cursors: Sequence[Cursor], topic_id: str) -> dict[int, AcceptRule]:
    """The accept rule of each partition: it starts at the hindmost range that is not held. Pure."""
    rules: dict[int, AcceptRule] = {}
    for cursor in cursors:
        if cursor.hold:
            continue
        rule = rules.setdefault(cursor.partition, AcceptRule(cursor.applied_to, cursor.resume_at, topic_id=topic_id))
        rule.position = min(rule.position, cursor.applied_to)
        rule.next_offset = min(rule.next_offset, cursor.resume_at)
        rule.fold_version = rule.fold_version or cursor.fold_version or None
    return rules


def count_outcome(outcome: Outcome, reader: str, record: FrameRecord) -> None:
    """Count what became of a chunk; what may never happen is also logged: it is an alarm."""
    if outcome is Outcome.STALE:
        metrics.counter("headrace_frames_skipped_total", reader).inc()
    elif outcome in (Outcome.GAP, Outcome.OTHER_VERSION, Outcome.OTHER_INCARNATION):
        name = "headrace_frame_gaps_total" if outcome is Outcome.GAP else "headrace_frames_refused_total"
        labels = (reader,) if outcome is Outcome.GAP else (reader, outcome.value)
        metrics.counter(name, *labels).inc()
        header = record.chunk.header if record.chunk else None
        log.error(
            "frame_refused",
            reader=reader,
            reason=outcome.value,
            partition=record.partition,
            record_offset=record.offset,
            from_offset=header.from_offset if header else None,
            fold_version=header.fold_version if header else None,
        )
