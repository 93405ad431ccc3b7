"""The accept rule: which frames a reader of `aggregates` applies, and where it may resume.

One implementation for recovery and for every sink. Chunks are collected by (writer, seq), by index; a repeated
chunk changes nothing. A complete frame whose end is not past our position is skipped; one that starts after it is
not applied (a recovering writer will send the missing span again); any other is accepted and moves the position to
its end. Whoever wrote it: a zombie's frame is stale or correct (docs/exactly-once.md).
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from schemas.frame import Frame, FrameChunk

INCOMPLETE_MAX: Final = 1024
"""Half-read frames held per partition. Each writer has at most one in flight, and frames at or below the position
are forgotten, so more than a few means that something else writes to the topic."""


class Outcome(Enum):
    """What became of a chunk."""

    ACCEPTED = "accepted"
    INCOMPLETE = "incomplete"
    STALE = "stale"
    GAP = "gap"
    OTHER_VERSION = "other_version"
    OTHER_INCARNATION = "other_incarnation"


@dataclass(slots=True)
class _Incomplete:
    first_offset: int
    to_offset: int
    chunks: dict[int, FrameChunk] = field(default_factory=dict)


@dataclass(slots=True)
class AcceptRule:
    """State of one reader for one partition.

    `position`: the next source offset; the reader's state is the fold of [0, position). `next_offset`: the next
    record of `aggregates` to read. With `fold_version` or `topic_id` set, frames of another are refused.
    """

    position: int = 0
    next_offset: int = 0
    fold_version: str | None = None
    topic_id: str | None = None
    _incomplete: dict[tuple[str, int], _Incomplete] = field(default_factory=dict)

    @property
    def resume_offset(self) -> int:
        """Where in `aggregates` a restart must begin: a half-read frame is read again from its first chunk."""
        return min([self.next_offset, *(frame.first_offset for frame in self._incomplete.values())])

    def feed(self, record_offset: int, chunk: FrameChunk) -> tuple[Outcome, Frame | None]:
        """Take the chunk at `record_offset` of `aggregates`; gives the frame when this one completes it."""
        self.next_offset = record_offset + 1
        header = chunk.header
        if self.fold_version is not None and header.fold_version != self.fold_version:
            return Outcome.OTHER_VERSION, None
        if self.topic_id is not None and header.topic_id != self.topic_id:
            return Outcome.OTHER_INCARNATION, None
        if header.to_offset <= self.position:
            return Outcome.STALE, None
        key = (header.writer, header.seq)
        part = self._incomplete.setdefault(key, _Incomplete(record_offset, header.to_offset))
        part.chunks.setdefault(header.chunk, chunk)
        if len(part.chunks) < header.chunks:
            assert len(self._incomplete) <= INCOMPLETE_MAX, (
                "too many half-written frames: does another program write here?"
            )
            return Outcome.INCOMPLETE, None
        del self._incomplete[key]
        if header.from_offset > self.position:
            return Outcome.GAP, None
        frame = Frame(header, tuple(part.chunks[i] for i in range(header.chunks)))
        self.advance(header.to_offset)
        return Outcome.ACCEPTED, frame

    def advance(self, position: int) -> None:
        """Move the position on and forget half-read frames that bring nothing new."""
        assert position >= self.position
        self.position = position
        self._incomplete = {k: part for k, part in self._incomplete.items() if part.to_offset > position}
