"""When a partition's fold is written out whole, and what may then be deleted from `aggregates`.

The fold stands still from the last frame's acknowledgement until its state is taken: a snapshot never holds more
than the frames do. Its bytes are made beside the event loop, from what does not change any more. One partition at a
time; an idle partition is written too, once it has changed.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from headrace import kafka
from headrace.errors import RetryableError
from headrace.log import get_logger
from headrace.metrics import counter
from headrace.settings import Settings
from schemas.topics import Topics
from streams.assignment import Assignment
from streams.fold.snapshot import Snapshot
from streams.foreign_frames import settled_offset
from streams.held import Held
from streams.log_reader import LogReader
from streams.measures import Measures
from streams.snapshots import (
    KEPT,
    SnapshotManifest,
    delete_keys,
    delete_snapshot,
    find_orphans,
    split,
    write_snapshot,
)
from streams.trimming import trim
from streams.waiting import write_frame

log = get_logger(__name__)


class Snapshotter:
    """Takes snapshots of held partitions, one at a time. Used on the main event loop."""

    def __init__(self, settings: Settings, assignment: Assignment, measures: Measures) -> None:
        self._settings = settings
        self._topics = Topics(settings.topic_prefix)
        self._assignment = assignment
        self._measures = measures
        self._busy = False
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="snapshot")

    def is_due(self, held: Held, now_s: float) -> bool:
        """Whether to call `take` now."""
        newest = held.manifests[0].position if held.manifests else 0
        return not self._busy and now_s >= held.snapshot_due_s and held.position.next_offset > newest

    async def take(self, held: Held) -> None:
        """Write a snapshot, forget the oldest, trim the frames below. Raises FatalError when Kafka refuses it."""
        self._busy = True
        try:
            held.snapshot_due_s = time.monotonic() + self._settings.snapshot_interval_s
            manifest = await self._write(held)
            if manifest is None:
                return
            counter("headrace_snapshots_total", "written").inc()
            await self._forget_old(held, manifest)
            await self._forget_orphans(held)
            await self._trim(held)
        finally:
            self._busy = False

    async def _write(self, held: Held) -> SnapshotManifest | None:
        started = time.monotonic()
        await self._settle_log_offset(held)
        outbox = self._assignment.outbox
        if outbox is None or not self._is_ours(held):
            return None
        held.gate.clear()
        try:
            await write_frame(held, self._measures)
            if not self._is_ours(held):
                return None
            writer = held.writer
            assert held.fold.position == writer.durable_offset, "the fold must stand still"
            position, resume_offset, last_crc = writer.durable_offset, writer.log_offset, writer.last_crc
            taken = held.fold.snapshot()
        finally:
            held.gate.set()
        chunks = await asyncio.get_running_loop().run_in_executor(self._encoder, _chunks, taken)
        if not self._is_ours(held):
            return None
        context = writer.context

        def describe(snapshot_id: str, count: int, sha256: str, first_offset: int) -> SnapshotManifest:
            return SnapshotManifest(
                partition=held.partition,
                snapshot_id=snapshot_id,
                position=position,
                resume_offset=resume_offset,
                fold_version=context.fold_version,
                topic_id=context.topic_id,
                last_crc=last_crc,
                chunks=count,
                sha256=sha256,
                first_offset=first_offset,
            )

        manifest = await write_snapshot(outbox, self._topics.snapshots, chunks, describe)
        log.info(
            "snapshot_written",
            partition=held.partition,
            position=position,
            bytes=sum(map(len, chunks)),
            seconds=round(time.monotonic() - started, 3),
        )
        return manifest

    async def _settle_log_offset(self, held: Held) -> None:
        """When others wrote between our frames, look at what, so that the snapshot's readers may skip it."""
        writer = held.writer
        if writer.log_end_offset == writer.log_offset:
            return
        look = partial(
            settled_offset,
            self._settings,
            self._topics.aggregates,
            held.partition,
            writer.log_offset,
            writer.log_end_offset,
            writer.durable_offset,
        )
        try:
            writer.seen_to(await asyncio.to_thread(look))
        except RetryableError as error:
            log.warning("foreign_frames_unread", partition=held.partition, reason=str(error))

    async def _forget_old(self, held: Held, newest: SnapshotManifest) -> None:
        manifests = (newest, *held.manifests)
        held.manifests = manifests[:KEPT]
        outbox = self._assignment.outbox
        for manifest in manifests[KEPT:]:
            if outbox is not None and self._is_ours(held):
                await delete_snapshot(outbox, self._topics.snapshots, manifest)

    async def _forget_orphans(self, held: Held) -> None:
        """Once an assignment: delete what is older than our own snapshots, when there are as many as are kept."""
        held.snapshots_written += 1
        if held.snapshots_written != KEPT:
            return
        try:
            keys = await asyncio.to_thread(self._find_orphans, held.partition, held.manifests)
        except RetryableError as error:
            log.warning("snapshots_unread", partition=held.partition, reason=str(error))
            return
        outbox = self._assignment.outbox
        if keys and outbox is not None and self._is_ours(held):
            await delete_keys(outbox, self._topics.snapshots, held.partition, keys)
            log.info("snapshot_orphans_deleted", partition=held.partition, keys=len(keys))

    def _find_orphans(self, partition: int, kept: tuple[SnapshotManifest, ...]) -> list[bytes]:
        topic = self._topics.snapshots
        begin, _ = kafka.watermarks(self._settings, topic, [partition])[partition]
        return find_orphans(LogReader(self._settings), topic, begin, kept[-1].first_offset, kept)

    async def _trim(self, held: Held) -> None:
        if len(held.manifests) < KEPT or not self._is_ours(held):
            return
        safe = held.manifests[-1].resume_offset
        try:
            await asyncio.to_thread(trim, self._settings, self._topics.aggregates, held.partition, safe)
        except RetryableError as error:
            log.warning("aggregates_not_trimmed", partition=held.partition, reason=str(error))

    def _is_ours(self, held: Held) -> bool:
        return self._assignment.get(held.partition) is held


def _chunks(taken: Snapshot) -> list[bytes]:
    return split(taken.sections())
