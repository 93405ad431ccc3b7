"""One who applies `aggregates`, by the accept rule that recovery and sinks really use, or by a mutant of it."""

from schemas.accept import AcceptRule, Outcome
from tests.model.fold import Fold
from tests.model.guards import RULE_MUTATIONS, MutantRule
from tests.model.messages import Claim, Message, ModelChunk


class Violation(Exception):
    """The protocol broke: a state differs, a gap where none may be, or a run that does not end."""


class Reader:
    """Applies `aggregates` to a fold: a sink, or a recovery. `alarm`: a gap is a violation."""

    def __init__(self, mutation: str, *, alarm: bool, fold: Fold | None = None, next_offset: int = 0) -> None:
        self.mutation = mutation
        self.alarm = alarm
        self.fold = fold or Fold()
        self.gaps = 0
        self._rule = self._new_rule(next_offset)

    @property
    def next_offset(self) -> int:
        return self._rule.next_offset

    @next_offset.setter
    def next_offset(self, offset: int) -> None:
        self._rule.next_offset = offset

    @property
    def resume_offset(self) -> int:
        """Where a restart that holds `fold` must begin."""
        return self._rule.resume_offset

    def feed(self, offset: int, message: Message) -> bool:
        """Take the record at `offset`; True when it moved the fold."""
        if isinstance(message, Claim):
            self._on_claim(offset, message)
            return False
        rule = self._rule
        if isinstance(rule, MutantRule):
            outcome, chunks = rule.feed(offset, message)
        else:
            outcome, frame = rule.feed(offset, message)
            chunks = [c for c in frame.chunks if isinstance(c, ModelChunk)] if frame is not None else []
        if outcome is Outcome.GAP:
            self.gaps += 1
            if self.alarm or self.mutation == "stopgap":
                raise Violation(f"gap: from {message.header.from_offset} > position {self.fold.position}")
        if outcome is not Outcome.ACCEPTED:
            return False
        self._apply(chunks)
        return True

    def _apply(self, chunks: list[ModelChunk]) -> None:
        fold = self.fold
        for chunk in chunks:
            payload = chunk.payload
            for row, value in payload.rows.items():
                fold.rows[row] = fold.rows.get(row, 0) + value if self.mutation == "delta" else value
            fold.seen.update(payload.seen)
            fold.slots.update(payload.slots)
            fold.watermark, fold.receive_time = payload.watermark, payload.receive_time
        fold.position = self._rule.position

    def _on_claim(self, offset: int, claim: Claim) -> None:
        """Compare and set in the log: it takes effect only if nobody moved the position since it was written."""
        fold = self.fold
        self._rule.next_offset = offset + 1
        if claim.version <= fold.version:
            return
        if self.mutation == "noversion":
            fold.version, fold.switched_at = claim.version, claim.position
        elif claim.position == fold.position or self.mutation == "blindclaim":
            fold.version, fold.switched_at = claim.version, claim.position
            self._rule = self._new_rule(offset + 1)

    def _new_rule(self, next_offset: int) -> AcceptRule | MutantRule:
        position, version = self.fold.position, str(self.fold.version)
        if self.mutation in RULE_MUTATIONS:
            return MutantRule(self.mutation, position, next_offset, version)
        return AcceptRule(position=position, next_offset=next_offset, fold_version=version)
