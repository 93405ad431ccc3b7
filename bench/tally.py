"""What the frames of a run amount to: read once more from their log, by the accept rule, as a sink would."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headrace import kafka
from headrace.settings import Settings
from schemas.accept import AcceptRule
from schemas.frame import decode_chunk
from schemas.topics import Topics

POLL_S = 1.0
IDLE_POLLS_MAX = 20
KEY = ["customer_id", "rollup", "grain", "window_start", "dims", "generation"]


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over a whole log of frames. `events`: in open rows of the totals rollup, so each counts once."""

    events: int
    duplicates: int
    rows: int
    value_e6: int


def tally(settings: Settings) -> Tally:
    """Read `aggregates` from its beginning and add up the newest value of every row."""
    topic = Topics(settings.topic_prefix).aggregates
    ends = kafka.watermarks(settings, topic, list(range(settings.events_partitions)))
    consumer = kafka.consumer(settings, "tally")
    consumer.assign([kafka.TopicPartition(topic, p, low) for p, (low, high) in ends.items() if high > low])
    rules = {partition: AcceptRule(next_offset=low) for partition, (low, _) in ends.items()}
    rows: dict[int, list[pa.RecordBatch]] = {partition: [] for partition in ends}
    duplicates, missing, idle = 0, sum(high - low for low, high in ends.values()), 0
    while missing:
        messages = consumer.consume(1000, POLL_S)
        idle = 0 if messages else idle + 1
        if idle > IDLE_POLLS_MAX:
            raise RuntimeError(f"{missing} records of {topic} cannot be read")
        for message in messages:
            _, frame = rules[message.partition()].feed(message.offset(), decode_chunk(message.value()))
            if frame is not None:
                rows[message.partition()].append(frame.rows())
                duplicates += len(frame.duplicates)
        missing -= len(messages)
    consumer.close()
    parts = [_newest(batches) for batches in rows.values() if batches]
    table = pa.concat_tables(parts)
    counted = table.filter(pc.and_(table["open"], pc.equal(table["rollup"], 0)))
    return Tally(
        pc.sum(counted["events"]).as_py() or 0, duplicates, table.num_rows, pc.sum(counted["value_e6"]).as_py() or 0
    )


def _newest(batches: list[pa.RecordBatch]) -> pa.Table:
    """The last value of each row."""
    tables = [pa.Table.from_batches([b]).append_column("at", pa.repeat(i, b.num_rows)) for i, b in enumerate(batches)]
    table = pa.concat_tables(tables)
    table = table.append_column("n", pa.array(range(table.num_rows)))
    last = table.group_by(KEY, use_threads=False).aggregate([("n", "max")])["n_max"]
    return table.take(last)
