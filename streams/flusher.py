"""The worker's clockwork: frames when they are due, lag, and the signs of life that the watchdog wants.

`tick` never waits: what it starts runs beside it, at most one frame and one snapshot a partition.
"""

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from faust.types import TP

from headrace.clock import Clock
from headrace.errors import FatalError, RetryableError
from headrace.log import get_logger
from headrace.memory import release_free_memory
from headrace.settings import Settings
from streams.assignment import Assignment
from streams.folder import SourceConsumer
from streams.frames import frame_interval_s
from streams.held import Held, StopProcess
from streams.log_ends import LogEnds
from streams.log_reader import LogReader
from streams.measures import Measures
from streams.position import check_incarnation
from streams.snapshotter import Snapshotter
from streams.waiting import write_frame
from streams.watchdog import Watchdog

TICK_S: Final = 0.05
MEASURE_INTERVAL_S: Final = 1.0
RELEASE_INTERVAL_S: Final = 20.0
"""How often memory that arrays have left is given back."""
LOOK_INTERVAL_S: Final = 5.0
"""How often the log's end and identity are asked beside the fetching."""
STANDSTILL_S: Final = 5.0
"""A tick that is so late means that the process stood still (SIGSTOP): waiting counts from then."""

log = get_logger(__name__)


class Flusher:
    """Starts frames and snapshots. Used on the main event loop."""

    def __init__(
        self,
        settings: Settings,
        assignment: Assignment,
        snapshotter: Snapshotter,
        measures: Measures,
        watchdog: Watchdog,
        clock: Clock,
        stop_process: StopProcess,
    ) -> None:
        self._settings = settings
        self._assignment = assignment
        self._snapshotter = snapshotter
        self._measures = measures
        self._watchdog = watchdog
        self._clock = clock
        self._stop_process = stop_process
        self._tasks: set[asyncio.Task[None]] = set()
        self._measured_s = 0.0
        self._events_measured = 0
        self._events_per_s = 0.0
        self._looked_s = 0.0
        self._released_s = 0.0
        self._looking = False
        self._log_ends = LogEnds(settings, assignment.topics.events)
        self._ticked_s = time.monotonic()
        self.consumer: SourceConsumer | None = None

    def tick(self) -> None:
        """Start what is due."""
        self._watchdog.touch("event loop")
        if self._assignment.closing:
            return
        now_s = time.monotonic()
        if now_s - self._ticked_s > STANDSTILL_S:
            for held in self._assignment.held.values():
                held.moved_s = now_s
        self._ticked_s = now_s
        for held in list(self._assignment.held.values()):
            self.flush_if_due(held, now_s)
            if self._snapshotter.is_due(held, now_s):
                self._start(self._snapshotter.take(held))
        if now_s - self._measured_s >= MEASURE_INTERVAL_S:
            events = self._measures.events_read
            self._events_per_s = (events - self._events_measured) / (now_s - self._measured_s)
            self._events_measured, self._measured_s = events, now_s
            self._measure(now_s)
        if now_s - self._released_s >= RELEASE_INTERVAL_S:
            self._released_s = now_s
            self._start(asyncio.to_thread(release_free_memory))
        if now_s - self._looked_s >= LOOK_INTERVAL_S and self._assignment.held and not self._looking:
            self._looked_s, self._looking = now_s, True
            self._start(self._look_at_log())

    def flush_if_due(self, held: Held, now_s: float) -> None:
        """Start a frame of this partition when its time has come and none is on its way."""
        writer = held.writer
        if writer.busy or not (held.waiting or writer.pending):
            return
        age_s = self._age_s(held)
        interval_s = frame_interval_s(
            caught_up=self._lag_records(held) == 0,
            events_per_s=self._events_per_s,
            age_s=age_s,
            interval_s=self._settings.frame_interval_s,
            interval_max_s=self._settings.frame_interval_max_s,
        )
        full = held.events_unframed >= self._settings.frame_events_max or writer.dead_full
        if full or now_s - writer.last_cut_s >= interval_s:
            self._start(write_frame(held, self._measures))

    def stop(self) -> None:
        """Give up what is under way: once the assignment is closed that is at most a snapshot."""
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            self._stop_process(error)

    def _lag_records(self, held: Held) -> int:
        tp = TP(held.log.topic, held.partition)
        fetched = self.consumer.end_offset(tp) if self.consumer is not None else None
        end = max(held.log.end_offset if fetched is None else fetched, held.end_offset)
        return max(0, end - held.position.next_offset)

    def _age_s(self, held: Held) -> float:
        if not held.receive_us:
            return self._settings.frame_interval_max_s
        return max(0.0, (self._clock.now_us() - held.receive_us) / 1e6)

    def _measure(self, now_s: float) -> None:
        for held in self._assignment.held.values():
            lag = self._lag_records(held)
            self._measures.on_lag(held.partition, lag, self._age_s(held) if lag and held.receive_us else 0.0)
            stats = held.fold.stats
            self._measures.on_state(held.partition, stats.open_rows, stats.dedupe_ids)
            if not lag:
                held.moved_s = now_s
            elif now_s - held.moved_s > self._settings.watchdog_s:
                held.moved_s = now_s
                self._start(self._look_for_records(held))

    async def _look_at_log(self) -> None:
        """Learn where the log ends. Raises FatalError when it is another one by now, or has other partitions."""
        held = dict(self._assignment.held)
        try:
            seen = await asyncio.to_thread(self._log_ends.look, sorted(held))
        except RetryableError as error:
            log.warning("log_ends_unknown", reason=str(error))
            return
        finally:
            self._looking = False
        for partition, one in held.items():
            if self._assignment.get(partition) is one and seen.topic_id is not None:
                check_incarnation(one.log, seen.topic_id)
                one.end_offset = seen.ends[partition]

    async def _look_for_records(self, held: Held) -> None:
        """Nothing came for a long time although the log goes on: does it hold a record, or only skipped offsets?"""
        source, next_offset = held.log, held.position.next_offset
        look = partial(LogReader(self._settings).first_from, source.topic, source.partition, next_offset)
        try:
            record = await asyncio.to_thread(look)
        except RetryableError as error:
            log.warning("log_unread", partition=held.partition, reason=str(error))
            return
        if record is None or self._assignment.get(held.partition) is not held:
            return
        if held.awaited_offset != next_offset or held.position.next_offset != next_offset:
            held.awaited_offset = next_offset  # it may just have arrived: it has as long again
            return
        raise FatalError(
            f"record {record.offset} of {source.topic} partition {source.partition} waits to be folded, but none "
            f"came for {self._settings.watchdog_s:.0f} s",
            remedy="the process stops; its supervisor starts it again",
        )
