"""Frames that others wrote among ours: zombies, or a predecessor's last words."""

from headrace.settings import Settings
from schemas.accept import AcceptRule, Outcome
from schemas.frame import decode_chunk
from streams.log_reader import LogReader


def settled_offset(
    settings: Settings, topic: str, partition: int, start_offset: int, end_offset: int, position: int
) -> int:
    """The greatest `aggregates` offset up to `end_offset` at which a reader may go on that holds the state at
    `position`; at least `start_offset`, at which it may.

    It stops before the first chunk of a frame that would bring the reader further. Blocking. Raises
    UnavailableError.
    """
    rule = AcceptRule(position=position, next_offset=start_offset)
    for record in LogReader(settings).read(topic, partition, start_offset, end_offset):
        before = rule.resume_offset
        outcome, _ = rule.feed(record.offset, decode_chunk(record.value))
        if outcome in (Outcome.ACCEPTED, Outcome.GAP):
            return before
    return rule.resume_offset
