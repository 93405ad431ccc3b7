"""Which partitions this worker holds: letting go when they are revoked, restoring when they are assigned.

Faust's eager protocol takes all partitions away at every join. So what was held is kept until the next assignment,
and a partition that comes back only catches up from its place in `aggregates`. On revocation a last frame is written,
so that what is kept is exactly the state at a position that the log covers.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from faust.types import TP

from headrace.errors import RetryableError
from headrace.log import get_logger
from headrace.settings import Settings
from schemas.topics import Topics
from streams.fold import FoldRules
from streams.frames import FrameContext, FrameWriter
from streams.held import Held
from streams.intake import Decoder
from streams.measures import Measures
from streams.outbox import Outbox
from streams.position import SourcePosition
from streams.recovery import LogBounds, Recovery, Replay, Restored, log_bounds
from streams.waiting import write_frame
from streams.watchdog import Watchdog

RESTORES_AT_ONCE: Final = 4
"""Partitions restored together; each needs a Kafka client of its own."""
ATTEMPTS_MAX: Final = 10
REBALANCE_LIMIT_S: Final = 300.0
"""From revocation to the next assignment; a broker that is slow to let others join takes a session's time."""

T = TypeVar("T")

log = get_logger(__name__)


class Assignment:
    """The worker's partitions. Used on the main event loop; restores run in threads."""

    def __init__(self, settings: Settings, rules: FoldRules, measures: Measures, watchdog: Watchdog) -> None:
        self.settings = settings
        self.topics = Topics(settings.topic_prefix)
        self.rules = rules
        self.held: dict[int, Held] = {}
        self.outbox: Outbox | None = None
        self.restored_once = False
        self.closing = False
        self._measures = measures
        self._watchdog = watchdog
        self._kept: dict[int, Restored] = {}
        self._generation = 0
        self._threads = ThreadPoolExecutor(RESTORES_AT_ONCE, thread_name_prefix="restore")

    # What the transport asks

    def durable_offset(self, tp: TP) -> int | None:
        """See transport.Progress."""
        held = self._of(tp)
        return held.writer.durable_offset if held is not None else None

    def next_offset(self, tp: TP) -> int | None:
        """See transport.Progress."""
        held = self._of(tp)
        return held.position.next_offset if held is not None else None

    def on_stale(self, _tp: TP, records: int) -> None:
        """See transport.Progress."""
        self._measures.on_stale(records)

    def get(self, partition: int) -> Held | None:
        """The partition, while it is ours and the worker is not closing."""
        return None if self.closing else self.held.get(partition)

    # What Faust tells

    async def on_revoked(self) -> None:
        """Write last frames and let go of everything. Raises FatalError when a frame is not acknowledged."""
        self._generation += 1
        self._watchdog.touch("rebalance", limit_s=REBALANCE_LIMIT_S)
        held, self.held = self.held, {}
        outbox, self.outbox = self.outbox, None
        if held:
            await self._write_last_frames(list(held.values()))
            for one in held.values():
                one.writer.close()
            self._kept = {p: self._keep(h) for p, h in held.items()}
        if outbox is not None:
            outbox.close()
        for partition in held:
            self._measures.on_lag(partition, 0, 0.0)

    async def on_assigned(self, partitions: set[int]) -> None:
        """Restore these partitions and hold them. Raises FatalError when logs and state do not belong together."""
        generation = self._generation
        started = time.monotonic()
        self._watchdog.touch("rebalance", limit_s=REBALANCE_LIMIT_S)
        kept, self._kept = self._kept, {}
        restored, bounds = await self._restore_all(sorted(partitions), kept)
        self._watchdog.done("rebalance")
        if generation != self._generation or self.closing:
            self._kept = restored
            log.info("assignment_superseded", partitions=sorted(partitions))
            return
        self.outbox = Outbox(self.settings)
        self.held = {p: self._hold(bounds[p], state, self.outbox) for p, state in restored.items()}
        self.restored_once = True
        log.info(
            "partitions_assigned",
            positions={p: h.position.next_offset for p, h in self.held.items()},
            seconds=round(time.monotonic() - started, 3),
        )

    async def close(self) -> None:
        """Take nothing more, and write what is folded. Raises FatalError when a frame is not acknowledged."""
        self.closing = True
        await self._write_last_frames(list(self.held.values()))
        self._threads.shutdown(wait=False, cancel_futures=True)

    # Inside

    def _of(self, tp: TP) -> Held | None:
        return self.held.get(tp.partition) if tp.topic == self.topics.events else None

    async def _write_last_frames(self, held: list[Held]) -> None:
        await asyncio.gather(*(write_frame(one, self._measures) for one in held))

    def _keep(self, held: Held) -> Restored:
        assert held.fold.position == held.writer.durable_offset, "a last frame covers all that is folded"
        return Restored(held.fold, held.writer.log_offset, held.writer.last_crc, held.manifests)

    def _hold(self, bounds: LogBounds, state: Restored, outbox: Outbox) -> Held:
        position = state.fold.position
        writer = FrameWriter(
            fold=state.fold,
            partition=bounds.source.partition,
            context=FrameContext(
                topics=self.topics, topic_id=bounds.source.topic_id, fold_version=self.rules.version
            ),
            outbox=outbox,
            durable_offset=position,
            log_offset=state.log_offset,
            last_crc=state.last_crc,
            clock=time.monotonic,
        )
        return Held(
            fold=state.fold,
            log=bounds.source,
            position=SourcePosition(position),
            decoder=Decoder(bounds.source.partition, self.settings.events_partitions),
            writer=writer,
            manifests=state.manifests,
            snapshot_due_s=time.monotonic() + self.settings.snapshot_interval_s * random.uniform(0.5, 1.0),  # noqa: S311 (spreads work; no secret)
        )

    async def _restore_all(
        self, partitions: list[int], kept: Mapping[int, Restored]
    ) -> tuple[dict[int, Restored], Mapping[int, LogBounds]]:
        if not partitions:
            return {}, {}
        bounds = await self._patiently(partial(log_bounds, self.settings, self.topics, partitions))
        states = await asyncio.gather(*[self._restore(bounds[p], kept.get(p)) for p in partitions])
        return dict(zip(partitions, states, strict=True)), bounds

    async def _restore(self, bounds: LogBounds, kept: Restored | None) -> Restored:
        recovery = Recovery(
            self.settings,
            self.topics,
            self.rules,
            on_progress=lambda: self._watchdog.touch("rebalance", limit_s=REBALANCE_LIMIT_S),
        )
        restored, replay = await self._patiently(partial(recovery.restore, bounds, kept))
        self._measures.on_recovered(replay.seconds)
        _log_replay(bounds, restored, replay)
        return restored

    async def _patiently(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a thread; again, with growing pauses, while Kafka is away."""
        loop = asyncio.get_running_loop()
        pause_s = self.settings.retry_backoff_s
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return await loop.run_in_executor(self._threads, call)
            except RetryableError as error:
                if attempt == ATTEMPTS_MAX:
                    raise
                log.warning("restore_retried", attempt=attempt, reason=str(error))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, no secret)
                pause_s = min(pause_s * 2, self.settings.retry_backoff_max_s)
        raise AssertionError("unreachable")


def _log_replay(bounds: LogBounds, restored: Restored, replay: Replay) -> None:
    log.info(
        "partition_restored",
        partition=bounds.source.partition,
        position=restored.fold.position,
        origin=replay.origin,
        frames=replay.frames,
        gaps=replay.gaps,
        seconds=round(replay.seconds, 3),
    )
