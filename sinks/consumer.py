"""The loop that reads the log for a sink: assignment, positions, back-pressure, lag.

Positions come from the store that the sink fills, never from the consumer group; the group only shares partitions out
and holds the resume positions for lag monitoring and for trimming. A reader that cannot take more pauses its
partitions; nothing is buffered here beyond one fetch. An offset outside the log raises GapError: no silent jump.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from headrace import kafka, metrics
from headrace.errors import FatalError, GapError, PoisonError, RetryableError
from headrace.kafka import KafkaError, Message, TopicPartition
from headrace.log import get_logger
from headrace.settings import Settings
from schemas.frame import FrameChunk, decode_chunk
from sinks.backoff import Backoff

FRAMES_FETCHED_MAX: Final = 128
"""Records of `aggregates` taken at once; each is at most about 1 MiB."""
QUEUED_KBYTES_MAX: Final = 16 * 1024
"""What the client fetches ahead, for all partitions together."""
POLL_S: Final = 0.05
BLOCKED_WAIT_S: Final = 0.01
PAUSE_AFTER_S: Final = 1.0
"""A block shorter than this does not pause the client, which would throw away what it has fetched."""
COMMIT_EVERY_S: Final = 2.0
ENDS_EVERY_S: Final = 1.0
"""How often readers are told where the log ends."""
GROUP_SETTINGS: Final = {
    # a sink that is gone is replaced within seconds; Tansu's joins take as long as the session time-out
    "session_timeout_ms": 6000,
    "heartbeat_interval_ms": 500,
    # some frames at a time: a fetch for each cost the broker a third more
    "fetch_min_bytes": 128 * 1024,
    "fetch_wait_max_ms": 100,
}

Place: TypeAlias = tuple[str, int]
"""A topic and a partition of it."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """A decoded record of `aggregates`. `chunk` is None for a record that is no frame (counted where decoded)."""

    partition: int
    offset: int
    chunk: FrameChunk | None
    size_bytes: int


class Reader(Protocol):
    """What takes the records of one assignment. Used by one thread; not used after `close`."""

    def start_offsets(self) -> Mapping[Place, int]:
        """Where to read each assigned partition from."""

    def paused(self) -> Collection[Place]:
        """The partitions that nothing may be read from now. Called often; also moves on what waits."""

    def take(self, messages: Sequence[Message]) -> None:
        """Take one fetch. Does not block for a store."""

    def resume_offsets(self) -> Mapping[Place, int]:
        """What is durable: where a restart would read on from."""

    def see_ends(self, ends: Mapping[Place, int]) -> None:
        """Told about every second: the next offsets of the logs, as the last fetches showed them."""

    def check(self) -> None:
        """Raise what has gone wrong in the background, if anything."""

    def close(self) -> None:
        """Finish what is under way and let go. May block for one transaction."""


class ReopenError(Exception):
    """Raised by `Reader.check`: the world changed; close the reader and open one anew."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to read: topics with equal partition counts, and the group that shares them out.

    With `partitions`, exactly these are read and no group is joined.
    """

    topics: tuple[str, ...]
    group: str
    partitions: tuple[int, ...] | None = None
    fetch_records_max: int = FRAMES_FETCHED_MAX


OpenReader: TypeAlias = Callable[[Sequence[int]], Reader]


class ConsumerLoop:
    """Reads until `stopping` is set; `ready` tells whether partitions are assigned."""

    def __init__(
        self, settings: Settings, subscription: Subscription, open_reader: OpenReader, stopping: threading.Event
    ) -> None:
        self._subscription = subscription
        self._open_reader = open_reader
        self._stopping = stopping
        self._consumer = kafka.consumer(
            settings, subscription.group, queued_max_messages_kbytes=QUEUED_KBYTES_MAX, **GROUP_SETTINGS
        )
        self._backoff = Backoff(settings.retry_backoff_s, settings.retry_backoff_max_s)
        self._reader: Reader | None = None
        self._assigned: list[int] | None = None  # given to us, not yet opened
        self._places: set[Place] = set()
        self._paused: set[Place] = set()
        self._blocked_since: float | None = None
        self._committed: dict[Place, int] = {}
        self._commit_at = 0.0
        self._ends_at = 0.0

    @property
    def ready(self) -> bool:
        """Whether a reader has partitions."""
        return self._reader is not None

    def run(self) -> None:
        """Loop until told to stop. Raises FatalError, GapError, IncarnationError, ConfigurationError."""
        if self._subscription.partitions is None:
            self._consumer.subscribe(
                list(self._subscription.topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
        else:
            self._assigned = list(self._subscription.partitions)
        try:
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._close_reader(commit=True)
            self._consumer.close()

    def _turn(self) -> None:
        if self._assigned is not None:
            partitions, self._assigned = self._assigned, None
            self._open_or_wait(partitions)
        if self._reader is None:
            self._poll(POLL_S)
            return
        try:
            self._reader.check()
        except ReopenError as reason:
            log.info("sink_reopens", reason=str(reason))
            partitions = sorted({partition for _, partition in self._places})
            self._close_reader(commit=False)
            self._assigned = partitions
            return
        if self._apply_pauses(set(self._reader.paused()) & self._places):
            messages = self._poll(POLL_S)
            if messages and self._reader is not None:
                self._reader.take(messages)
        self._show_ends()
        self._commit()

    def _poll(self, timeout_s: float) -> list[Message]:
        """The records at hand; waits for the first one. Raises on a position outside the log."""
        first = self._consumer.poll(timeout_s)
        fetched = (
            [] if first is None else [first, *self._consumer.consume(self._subscription.fetch_records_max - 1, 0)]
        )
        good = []
        for message in fetched:
            error = message.error()
            if error is None:
                # a fetch may hold records of a partition that a callback in between has taken away
                if (message.topic(), message.partition()) in self._places:
                    good.append(message)
            else:
                judge(error, message)
        return good

    def _apply_pauses(self, wanted: set[Place]) -> bool:
        """Pause and resume as the reader wants; returns whether there is anything to poll for."""
        if wanted == self._places and wanted:
            now = time.monotonic()
            self._blocked_since = self._blocked_since or now
            if now - self._blocked_since < PAUSE_AFTER_S:
                self._stopping.wait(BLOCKED_WAIT_S)
                return False
        else:
            self._blocked_since = None
        if wanted - self._paused:
            self._consumer.pause([TopicPartition(*place) for place in wanted - self._paused])
        if self._paused - wanted:
            self._consumer.resume([TopicPartition(*place) for place in self._paused - wanted])
        self._paused = wanted
        return True

    def _open_or_wait(self, partitions: Sequence[int]) -> None:
        """Open a reader; when something it needs is away, wait a little and leave it to the next turn."""
        try:
            self._open(partitions)
            self._backoff.reset()
        except RetryableError as error:
            wait_s = self._backoff.next_s()
            log.warning("sink_waits", group=self._subscription.group, wait_s=round(wait_s, 2), error=error.message)
            self._stopping.wait(wait_s)
            if self._assigned is None:
                self._assigned = list(partitions)

    def _open(self, partitions: Sequence[int]) -> None:
        self._reader = self._open_reader(partitions)
        offsets = self._reader.start_offsets()
        self._places = set(offsets)
        self._paused = set()
        self._blocked_since = None
        self._committed = {}
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])
        self._consumer.resume([TopicPartition(*place) for place in offsets])  # the pause outlives the assignment
        log.info("sink_assigned", group=self._subscription.group, partitions=list(partitions))

    def _close_reader(self, *, commit: bool) -> None:
        reader, self._reader = self._reader, None
        if reader is None:
            return
        reader.close()
        if commit and self._subscription.partitions is None:
            self._store_offsets(reader, wait=True)
        self._places = set()

    def _show_ends(self) -> None:
        if time.monotonic() - self._ends_at < ENDS_EVERY_S or self._reader is None:
            return
        self._ends_at = time.monotonic()
        ends = {}
        for place in self._places:
            # what a fetch has shown, not what a question would: Tansu answers that with too small an offset
            _, end = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
            if end >= 0:
                ends[place] = end
        self._reader.see_ends(ends)

    def _commit(self) -> None:
        if time.monotonic() - self._commit_at >= COMMIT_EVERY_S and self._reader is not None:
            self._commit_at = time.monotonic()
            self._store_offsets(self._reader, wait=False)

    def _store_offsets(self, reader: Reader, *, wait: bool) -> None:
        resume = {place: offset for place, offset in reader.resume_offsets().items() if place in self._places}
        changed = {place: offset for place, offset in resume.items() if self._committed.get(place) != offset}
        if not changed:
            return
        try:
            self._consumer.commit(
                offsets=[TopicPartition(*place, offset) for place, offset in changed.items()], asynchronous=not wait
            )
            self._committed |= changed
        except kafka.KafkaException as error:
            # monitoring alone: the truth stays in the store
            log.warning("resume_position_not_committed", error=str(error))

    def _on_assign(self, consumer: kafka.Consumer, partitions: Sequence[TopicPartition]) -> None:
        # Nothing is fetched until the reader has said where from; nothing is asked for either, whose answer could
        # come after that and move a partition past records that were never read.
        consumer.assign([])
        self._assigned = sorted({item.partition for item in partitions}) or None

    def _on_revoke(self, _consumer: kafka.Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._assigned = None
        self._close_reader(commit=True)


class FrameDecoder:
    """Decodes records of `aggregates`; one that is no frame is counted and passed over."""

    def __init__(self, reader: str) -> None:
        self._reader = reader

    def decode(self, messages: Sequence[Message]) -> list[FrameRecord]:
        """In the order of the log."""
        out = []
        for message in messages:
            value = message.value()
            chunk: FrameChunk | None = None
            try:
                chunk = decode_chunk(value)
            except PoisonError as error:
                metrics.counter("headrace_frames_unreadable_total", self._reader).inc()
                log.error(
                    "frame_unreadable",
                    reader=self._reader,
                    partition=message.partition(),
                    record_offset=message.offset(),
                    error=str(error),
                )
            out.append(FrameRecord(message.partition(), message.offset(), chunk, len(value or b"")))
        return out


def judge(error: KafkaError, message: Message) -> None:
    """Tell the world being away (librdkafka retries by itself) from a position that is no more."""
    where = f"{message.topic()} partition {message.partition()}"
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise GapError(
            f"{where} does not hold the offset that the store is to be read on from: {error.str()}",
            remedy="rebuild the store by replay, or restore the log; see docs/how-to/rebuild.md",
        )
    if error.fatal():
        raise FatalError(f"the Kafka client of {where} failed for good: {error.str()}", remedy="start the sink again")
    if error.code() != KafkaError._PARTITION_EOF:
        log.warning("kafka_read", topic=message.topic(), partition=message.partition(), error=error.str())
