"""Frames out: what changed in one partition, one frame at a time.

A FrameWriter lives for one assignment of one partition, under a writer id of its own. It guarantees: the next frame
is cut only after the previous one is acknowledged, and what changed is taken inside the same lock (a timer that cut
a second frame while the first waited once lost 13,000 of 2,000,000 events); dead letters are acknowledged before the
frame that covers them; a frame that is not acknowledged ends the process (FatalError), never a retry.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from schemas.frame import FrameHeader, encode_frame
from schemas.topics import Topics
from streams.dead import DeadLetter
from streams.fold import FrameContent, PartitionFold
from streams.outbox import OutgoingRecord, Sender

LAG_FRACTION: Final = 1 / 3
"""Under lag a frame spans a third of the lag's age: it grows with the backlog and shrinks as that is worked off."""
BUSY_EVENTS_PER_S: Final = 8_000
BUSY_FACTOR: Final = 3
"""A worker that folds so many cuts so much less often: a frame has a price of its own, here and in every sink."""

DEAD_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of dead letters that force a frame before its time, and hold up reading while one is on its way."""
LETTER_BYTES: Final = 200
"""About what a dead letter takes beside its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameContext:
    """What all frames of a worker's assignment share."""

    topics: Topics
    topic_id: str
    fold_version: str


@dataclass(frozen=True, slots=True)
class SentFrame:
    """An acknowledged frame, for metrics. The three times: to fold what was pending and read what changed, to encode
    it, to have it acknowledged (dead letters included)."""

    content: FrameContent
    dead: int
    chunks: int
    bytes: int
    cut_s: float
    encode_s: float
    acknowledge_s: float


@dataclass(slots=True)
class FrameWriter:
    """Writes the frames of one assignment of one partition.

    `durable_offset`: next source offset whose effects are all in the log; `last_crc`: CRC of the record before it.
    `log_offset`: the aggregates offset up to
    which nothing is in the log but what this assignment read or wrote, in order; a reader that holds the state at
    `durable_offset` may go on there.
    """

    fold: PartitionFold
    partition: int
    context: FrameContext
    outbox: Sender
    durable_offset: int
    log_offset: int
    last_crc: int
    clock: Callable[[], float]
    last_cut_s: float = 0.0
    writer: str = field(default_factory=lambda: uuid.uuid4().hex)
    _closed: bool = False
    _seq: int = 0
    _log_end: int = 0
    _dead: list[DeadLetter] = field(default_factory=list)
    _dead_bytes: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.last_cut_s = self.clock()

    @property
    def busy(self) -> bool:
        """A frame is on its way."""
        return self._lock.locked()

    @property
    def pending(self) -> bool:
        """Something is folded or set aside that no frame holds yet."""
        pending: bool = self.fold.position > self.durable_offset
        return pending

    @property
    def log_end_offset(self) -> int:
        """The aggregates offset behind our last acknowledged chunk; past `log_offset` when others wrote between."""
        return max(self._log_end, self.log_offset)

    @property
    def dead_full(self) -> bool:
        """So many dead letters wait that a frame should take them along before more are read."""
        return self._dead_bytes >= DEAD_BYTES_MAX

    def add_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Records set aside; sent with the next frame."""
        self._dead.extend(letters)
        self._dead_bytes += sum(LETTER_BYTES + len(letter.value or b"") for letter in letters)

    def close(self) -> None:
        """Write nothing any more: the fold may go on under another writer."""
        self._closed = True

    async def idle(self) -> None:
        """Wait until no frame is on its way."""
        async with self._lock:
            pass

    async def flush(self) -> SentFrame | None:
        """Cut, send and await one frame; None when there is nothing new, or after `close`.

        Waits for a frame on its way first. Raises FatalError when a record is not acknowledged.
        """
        async with self._lock:
            if self._closed:
                return None
            self.last_cut_s = self.clock()
            dead, self._dead, self._dead_bytes = self._dead, [], 0
            began_s = self.last_cut_s
            content = self.fold.cut()
            if content is None:
                assert not dead, "a dead letter moves the position"
                return None
            cut_s = self.clock()
            chunks = self._encode(content, len(dead))
            encoded_s = self.clock()
            if dead:
                topics = self.context.topics
                await self.outbox.send([d.record(topics.dead, topics.events, self.partition) for d in dead])
            offsets = await self.outbox.send(
                [OutgoingRecord(self.context.topics.aggregates, c, partition=self.partition) for c in chunks]
            )
            self._on_acknowledged(content, offsets)
            return SentFrame(
                content,
                len(dead),
                len(chunks),
                sum(map(len, chunks)),
                cut_s - began_s,
                encoded_s - cut_s,
                self.clock() - encoded_s,
            )

    def seen_to(self, log_offset: int) -> None:
        """Everything below `log_offset` was read and brings nothing past `durable_offset`."""
        self.log_offset = max(self.log_offset, log_offset)

    def _encode(self, content: FrameContent, dead: int) -> list[bytes]:
        self._seq += 1
        header = FrameHeader(
            partition=self.partition,
            from_offset=content.from_offset,
            to_offset=content.to_offset,
            writer=self.writer,
            seq=self._seq,
            fold_version=self.context.fold_version,
            topic_id=self.context.topic_id,
            watermark_us=content.watermark_us,
            receive_us=content.receive_us,
            last_crc=content.last_crc,
            late=content.late,
            dead=dead,
        )
        return encode_frame(header, content.rows, content.dedupe, content.duplicates)

    def _on_acknowledged(self, content: FrameContent, offsets: Sequence[int]) -> None:
        self.durable_offset, self.last_crc = content.to_offset, content.last_crc
        self.fold.acknowledge()
        if list(offsets) == list(range(self.log_offset, self.log_offset + len(offsets))):
            self.log_offset += len(offsets)
        self._log_end = max(self._log_end, offsets[-1] + 1)


def frame_interval_s(
    *, caught_up: bool, events_per_s: float, age_s: float, interval_s: float, interval_max_s: float
) -> float:
    """Time between frames of a partition in a worker that folds `events_per_s`: `interval_s` when it is caught up,
    BUSY_FACTOR times that when it is busy, and up to `interval_max_s` as the newest record ages.

    A longer frame holds fewer changed rows an event: 50 k events/s made 36-55 k changed minute rows/s with frames
    of one second, 6-12 k with ten.
    """
    if events_per_s >= BUSY_EVENTS_PER_S:
        interval_s = min(interval_max_s, interval_s * BUSY_FACTOR)
    if caught_up:
        return interval_s
    return min(interval_max_s, max(interval_s, age_s * LAG_FRACTION))
