"""State of a partition from the logs alone: snapshot, frames since, checks.

Blocking; runs in threads. What it returns is the fold of [0, position) of this very source log, or it raises: a
position outside the log, another incarnation, frames of another fold version and a last record that is not the one
that was folded are all refused with the remedy, and nothing is ever read again silently.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace import kafka, metrics
from headrace.errors import FatalError, GapError, PoisonError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.topics import events_topic_id
from schemas.accept import AcceptRule, Outcome
from schemas.frame import Frame
from schemas.topics import Topics
from streams.fold import FoldRules, FrameContent, PartitionFold
from streams.foreign_frames import chunk_of
from streams.log_reader import LogReader, LogRecord
from streams.position import (
    REMEDY,
    SourceLog,
    check_begin,
    check_incarnation,
    check_last_record,
    past_end,
)
from streams.snapshots import SnapshotManifest, find_manifests, read_snapshot

log = get_logger(__name__)

Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LogBounds:
    """First and next offset of one partition in each of the worker's logs; the next ones may be short (Tansu)."""

    source: SourceLog
    aggregates: Bounds
    snapshots: Bounds


@dataclass(frozen=True, slots=True)
class Restored:
    """A partition's state. `log_offset`: everything below it in `aggregates` is in `fold` or brings nothing to it.
    `last_crc`: CRC of record position-1. `manifests`: usable snapshots, newest first."""

    fold: PartitionFold
    log_offset: int
    last_crc: int
    manifests: tuple[SnapshotManifest, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """How a recovery went, for the log line."""

    frames: int
    gaps: int
    seconds: float
    origin: str


def log_bounds(settings: Settings, topics: Topics, partitions: list[int]) -> Mapping[int, LogBounds]:
    """Ids and ends of all logs for these partitions. Raises UnavailableError, ConfigurationError."""
    topic_id = events_topic_id(settings)
    snapshots = kafka.watermarks(settings, topics.snapshots, partitions)
    aggregates = kafka.watermarks(settings, topics.aggregates, partitions)
    # Last, as frames may cover events that are newer than an end asked for earlier.
    events = kafka.watermarks(settings, topics.events, partitions)
    return {
        p: LogBounds(SourceLog(topics.events, topic_id, p, *events[p]), aggregates[p], snapshots[p])
        for p in partitions
    }


@dataclass(frozen=True, slots=True)
class Recovery:
    """Restores partitions. `on_progress` is called as records come in, so that a watchdog sees life."""

    settings: Settings
    topics: Topics
    rules: FoldRules
    on_progress: Callable[[], None]

    def restore(self, bounds: LogBounds, kept: Restored | None) -> tuple[Restored, Replay]:
        """The state of one partition; `kept` is what this process still holds of it from its last assignment.

        Raises FatalError when the logs and the state do not belong together, UnavailableError when Kafka is away.
        """
        started = time.monotonic()
        reader = LogReader(self.settings)
        if kept is not None and kept.log_offset < bounds.aggregates[0]:
            # We were away (frozen, or cut off) while others went on and trimmed: their snapshot is what goes on.
            log.warning("kept_state_out_of_reach", partition=bounds.source.partition, position=kept.fold.position)
            kept = None
        base = kept or self._from_snapshot(reader, bounds) or self._from_nothing(bounds)
        rule = AcceptRule(
            position=base.fold.position,
            next_offset=base.log_offset,
            fold_version=self.rules.version,
            topic_id=bounds.source.topic_id,
        )
        last_crc, frames, gaps = self._replay(reader, bounds, rule, base)
        restored = Restored(base.fold, rule.resume_offset, last_crc, base.manifests)
        self._check(reader, bounds.source, restored)
        origin = "memory" if kept else ("snapshot" if base.manifests else "log")
        return restored, Replay(frames, gaps, time.monotonic() - started, origin)

    def _from_nothing(self, bounds: LogBounds) -> Restored:
        begin = bounds.aggregates[0]
        if begin > 0:
            raise GapError(
                f"{self.topics.aggregates} partition {bounds.source.partition} begins at {begin} "
                "and no snapshot reaches back that far",
                remedy=REMEDY,
            )
        return Restored(PartitionFold(self.rules, bounds.source.partition), 0, 0, ())

    def _from_snapshot(self, reader: LogReader, bounds: LogBounds) -> Restored | None:
        partition = bounds.source.partition
        manifests = find_manifests(reader, self.topics.snapshots, partition, *bounds.snapshots)
        for i, manifest in enumerate(manifests):
            check_incarnation(bounds.source, manifest.topic_id)
            self._check_version(partition, manifest.fold_version)
            if manifest.resume_offset < bounds.aggregates[0]:
                log.warning("snapshot_out_of_reach", partition=partition, snapshot=manifest.snapshot_id)
                continue
            try:
                chunks = read_snapshot(reader, self.topics.snapshots, manifest)
            except PoisonError as error:
                log.warning("snapshot_unusable", partition=partition, reason=str(error))
                continue
            self.on_progress()
            fold = PartitionFold.restore(self.rules, partition, chunks)
            assert fold.position == manifest.position, "a snapshot's bytes and its manifest disagree"
            return Restored(fold, manifest.resume_offset, manifest.last_crc, tuple(manifests[i:]))
        return None

    def _replay(self, reader: LogReader, bounds: LogBounds, rule: AcceptRule, base: Restored) -> tuple[int, int, int]:
        """Apply the frames from `base.log_offset` to the log's end; gives (last crc, frames applied, gaps)."""
        last_crc, frames, gaps = base.last_crc, 0, 0
        partition = bounds.source.partition
        for record in reader.read(self.topics.aggregates, partition, base.log_offset):
            chunk = chunk_of(record, rule, self.topics.aggregates, partition)
            if chunk is None:
                continue
            outcome, frame = rule.feed(record.offset, chunk)
            if frame is not None:
                base.fold.merge(content_of(frame))
                last_crc = frame.header.last_crc
                frames += 1
            elif outcome is Outcome.GAP:
                gaps += 1
                metrics.counter("headrace_frame_gaps_total", "streams").inc()
                log.error("frame_gap", partition=partition, from_offset=chunk.header.from_offset, at=rule.position)
            elif outcome is Outcome.STALE:
                metrics.counter("headrace_frames_skipped_total", "streams").inc()
                if chunk.header.to_offset == rule.position:
                    last_crc = chunk.header.last_crc
            elif outcome is Outcome.OTHER_VERSION:
                self._check_version(partition, chunk.header.fold_version)
            elif outcome is Outcome.OTHER_INCARNATION:
                check_incarnation(bounds.source, chunk.header.topic_id)
            self.on_progress()
        assert base.fold.position == rule.position, "the fold and the accept rule disagree"
        return last_crc, frames, gaps

    def _check(self, reader: LogReader, source: SourceLog, restored: Restored) -> None:
        position = restored.fold.position
        check_begin(source, position)
        if position > source.begin_offset:
            last = record_before(reader, source, position)
            check_last_record(source, position, last.value, restored.last_crc)

    def _check_version(self, partition: int, fold_version: str) -> None:
        if fold_version != self.rules.version:
            raise FatalError(
                f"the aggregates of partition {partition} are of fold version {fold_version}, "
                f"this worker folds version {self.rules.version}",
                remedy="run the release and the fold settings they were made with, or " + REMEDY,
            )


def record_before(reader: LogReader, source: SourceLog, next_offset: int) -> LogRecord:
    """The record before our position. Raises GapError when the log does not reach it any more."""
    try:
        last = reader.first_from(source.topic, source.partition, next_offset - 1, next_offset)
    except GapError as error:
        raise past_end(source, next_offset) from error
    if last is None:
        raise past_end(source, next_offset)
    return last


def content_of(frame: Frame) -> FrameContent:
    """A frame as the fold takes it."""
    header = frame.header
    return FrameContent(
        from_offset=header.from_offset,
        to_offset=header.to_offset,
        rows=frame.rows(),
        dedupe=list(frame.dedupe),
        duplicates=frame.duplicates,
        late=header.late,
        watermark_us=header.watermark_us,
        receive_us=header.receive_us,
        last_crc=header.last_crc,
    )
