"""What others wrote among our frames: zombies, a predecessor's last words, and records that are no frames at all."""

from headrace import metrics
from headrace.errors import PoisonError
from headrace.log import get_logger
from headrace.settings import Settings
from schemas.accept import AcceptRule, Outcome
from schemas.frame import FrameChunk, decode_chunk
from streams.log_reader import LogReader, LogRecord

log = get_logger(__name__)


def chunk_of(record: LogRecord, rule: AcceptRule, topic: str, partition: int) -> FrameChunk | None:
    """The chunk in a record of `aggregates`; None for one that is no frame: it is counted, named and passed over, as
    by every reader. (Were it a frame that was damaged, a gap would show behind it.)"""
    try:
        return decode_chunk(record.value)
    except PoisonError as error:
        metrics.counter("headrace_frames_unreadable_total", "streams").inc()
        log.error("frame_unreadable", topic=topic, partition=partition, record_offset=record.offset, error=str(error))
        rule.next_offset = record.offset + 1
        return None


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
        chunk = chunk_of(record, rule, topic, partition)
        if chunk is None:
            continue
        outcome, _ = rule.feed(record.offset, chunk)
        if outcome in (Outcome.ACCEPTED, Outcome.GAP):
            return before
    return rule.resume_offset
