"""Records that wait to be decoded together, and the frame that takes them along.

Decoding has a price per call, and a busy partition's records come in many small fetches: they wait until the next
frame of their partition, or until WAITING_RECORDS_MAX of them or WAITING_BYTES_MAX are there. What waits is not
folded: a worker that dies or loses the partition leaves it to its successor, as it does with what it never fetched.
"""

from collections.abc import Sequence
from typing import Final

from headrace.log import get_logger
from streams.held import Held
from streams.intake import LOG_APPEND_TIME, FetchedRecord
from streams.measures import Measures

WAITING_RECORDS_MAX: Final = 4096
"""So many are folded at once, whenever the next frame is: past it a call's price is spread thin enough."""
WAITING_BYTES_MAX: Final = 4 * 1024 * 1024
"""The same in bytes, so that large records fill no memory: a fetch takes as much of one partition."""

log = get_logger(__name__)


def admit(held: Held, records: Sequence[FetchedRecord], measures: Measures) -> None:
    """Let these wait, records from the position on; fold what waits when it is enough. Never awaits."""
    held.waiting += records
    held.waiting_bytes += sum([len(record.value or b"") for record in records])
    last = records[-1]
    held.position.next_offset = last.offset + 1
    held.events_unframed += len(records)
    if last.timestamp_type == LOG_APPEND_TIME:  # else decoding tells it
        held.receive_us = max(held.receive_us, last.timestamp * 1000)
    if len(held.waiting) >= WAITING_RECORDS_MAX or held.waiting_bytes >= WAITING_BYTES_MAX:
        fold_waiting(held, measures)


def fold_waiting(held: Held, measures: Measures) -> None:
    """Decode and fold what waits. Never awaits."""
    records, held.waiting, held.waiting_bytes = held.waiting, [], 0
    if not records:
        return
    with measures.stage("decode"):
        intake = held.decoder.decode(records)
    with measures.stage("fold"):
        held.fold.apply(intake.batch)
    if intake.dead:
        held.writer.add_dead(intake.dead)
        measures.on_dead(intake.dead)
        log.warning("dead_letters", partition=held.partition, count=len(intake.dead), first=intake.dead[0].reason)
    if len(intake.batch.receive_us):
        held.receive_us = max(held.receive_us, int(intake.batch.receive_us[-1]))
    measures.on_events(intake.batch.events.num_rows)


async def write_frame(held: Held, measures: Measures) -> None:
    """One frame with all that has come so far; none when nothing has. Raises FatalError when it is not
    acknowledged."""
    fold_waiting(held, measures)
    events, held.events_unframed = held.events_unframed, 0
    sent = await held.writer.flush()
    if sent is not None:
        measures.on_frame(sent, events)
