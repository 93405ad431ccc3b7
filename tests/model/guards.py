"""The protocol's guards by name, and the accept rule with single ones left out. Each *mutation* must be caught."""

from dataclasses import dataclass, field
from typing import Final

from schemas.accept import Outcome
from tests.model.messages import ModelChunk

MUTATIONS: Final = {
    "nowriter": "chunks of all writers are assembled together",
    "keywriter": "chunks are assembled per writer, in strict order",
    "procid": "the writer id is per process, not per assignment",
    "nochunks": "a frame is applied at its first chunk",
    "acceptany": "frames that end below the position are applied",
    "delta": "rows are increments, not absolute values",
    "ackless": "a writer goes on after a failed send",
    "ackless+nofrom": "as before, and readers apply frames that start past their position",
    "naiveresume": "a restart resumes at the next offset, past half-read frames",
    "blindtrim": "frames are trimmed without asking snapshots and sinks",
    "nocut": "a batch is not cut where the monotone receive hour changes",
    "evictearly": "final rows leave memory before their frame is acknowledged",
    "noslots": "frames do not carry the cardinality slots",
    "nort": "frames do not carry the monotone receive time",
    "noversion": "frames of any fold version are applied",
    "blindclaim": "a new version's claim takes effect wherever the position is",
}
UNCLEAN_MUTATIONS: Final = {
    "stopgap": "a reader stops at a gap instead of reading on",
    "nofrom": "readers apply frames that start past their position",
}


@dataclass(slots=True)
class _Part:
    """A half-read frame of the mutant rule."""

    first_offset: int
    seq: int
    chunks: dict[int, ModelChunk] = field(default_factory=dict)


@dataclass(slots=True)
class MutantRule:
    """The accept rule written once more, plainly, so that single guards can be left out."""

    mutation: str
    position: int
    next_offset: int
    fold_version: str | None
    _parts: dict[tuple[object, ...], _Part] = field(default_factory=dict)

    @property
    def resume_offset(self) -> int:
        if self.mutation == "naiveresume":
            return self.next_offset
        return min([self.next_offset, *(part.first_offset for part in self._parts.values())])

    def feed(self, record_offset: int, chunk: ModelChunk) -> tuple[Outcome, list[ModelChunk]]:
        self.next_offset = record_offset + 1
        header, mutation = chunk.header, self.mutation
        if mutation != "noversion" and header.fold_version != self.fold_version:
            return Outcome.OTHER_VERSION, []
        if mutation != "acceptany" and header.to_offset <= self.position:
            return Outcome.STALE, []
        key = self._key(chunk)
        part = self._part(key, record_offset, chunk)
        if part is None:
            return Outcome.INCOMPLETE, []
        part.chunks[header.chunk] = chunk
        if mutation != "nochunks" and len(part.chunks) < header.chunks:
            return Outcome.INCOMPLETE, []
        del self._parts[key]
        got = list(part.chunks.values())
        if got[0].header.from_offset > self.position and not mutation.endswith("nofrom"):
            return Outcome.GAP, []
        self.position = max(c.header.to_offset for c in got)
        self._parts = {k: p for k, p in self._parts.items() if _end(p) > self.position}
        return Outcome.ACCEPTED, got

    def _key(self, chunk: ModelChunk) -> tuple[object, ...]:
        if self.mutation == "nowriter":
            return ()
        if self.mutation == "keywriter":
            return (chunk.header.writer,)
        if self.mutation == "procid":
            return (chunk.process, chunk.header.seq)
        return (chunk.header.writer, chunk.header.seq)

    def _part(self, key: tuple[object, ...], record_offset: int, chunk: ModelChunk) -> _Part | None:
        header = chunk.header
        if self.mutation != "keywriter":
            return self._parts.setdefault(key, _Part(record_offset, header.seq))
        if header.chunk == 0:
            self._parts[key] = _Part(record_offset, header.seq)
        part = self._parts.get(key)
        if part is None or part.seq != header.seq or len(part.chunks) != header.chunk:
            self._parts.pop(key, None)
            return None
        return part


def _end(part: _Part) -> int:
    return next(iter(part.chunks.values())).header.to_offset if part.chunks else 0


RULE_MUTATIONS: Final = frozenset(
    [
        "nowriter",
        "keywriter",
        "procid",
        "nochunks",
        "acceptany",
        "naiveresume",
        "noversion",
        "nofrom",
        "ackless+nofrom",
    ]
)
