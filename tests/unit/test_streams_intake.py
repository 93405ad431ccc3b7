"""From fetched records to columns: receive times, dead letters, and the partition a customer belongs to."""

import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.kafka import partition_for
from schemas.event import TIMESTAMP_US_MAX, TIMESTAMP_US_MIN, VALUE_E6_MAX, record_key
from schemas.intake import clamped
from sinks.clickhouse_events import EventRecord, EventSlice, EventTable
from sinks.clickhouse_store import InsertCursor
from streams.intake import LOG_APPEND_TIME, Decoder
from streams.position import record_crc
from tests.integration.streams_world import an_event, encode

PARTITIONS = 4
CREATE_TIME = 0


@dataclass(frozen=True)
class Fetched:
    offset: int
    value: bytes | None
    timestamp: int = 1_750_000_000_123
    timestamp_type: int = LOG_APPEND_TIME
    key: bytes | None = b"1"


def customer_of(partition: int) -> int:
    return next(c for c in range(1, 1000) if partition_for(record_key(c), PARTITIONS) == partition)


def values(count: int, customer_id: int) -> list[bytes]:
    rng = random.Random(1)
    return encode([an_event(rng, f"m{i}", customer_id, 1_750_000_000_000_000 + i) for i in range(count)])


def test_a_fetch_with_a_hole_and_poison_keeps_offsets_apart() -> None:
    good = values(3, customer_of(2))
    fetched = [
        Fetched(10, good[0]),
        Fetched(11, b"junk"),
        Fetched(14, good[1]),
        Fetched(15, None),
        Fetched(20, good[2]),
    ]
    intake = Decoder(2, PARTITIONS).decode(fetched)
    assert intake.batch.offsets.tolist() == [10, 14, 20]
    assert intake.batch.next_offset == 21
    assert intake.batch.last_crc == record_crc(good[2])
    assert [(letter.offset, letter.reason) for letter in intake.dead] == [(11, "not_avro"), (15, "not_avro")]


def test_an_event_in_the_wrong_partition_is_dead() -> None:
    here, elsewhere = values(2, customer_of(1)), values(1, customer_of(3))
    fetched = [Fetched(0, here[0]), Fetched(1, elsewhere[0]), Fetched(2, here[1])]
    intake = Decoder(1, PARTITIONS).decode(fetched)
    assert intake.batch.offsets.tolist() == [0, 2]
    assert [(letter.offset, letter.reason, letter.value) for letter in intake.dead] == [
        (1, "wrong_partition", elsewhere[0])
    ]


def test_receive_time_is_the_brokers_where_it_stamps_and_the_gateways_where_not() -> None:
    good = values(2, customer_of(0))
    decoder = Decoder(0, PARTITIONS)
    stamped = decoder.decode([Fetched(0, good[0], timestamp=1234), Fetched(1, good[1], timestamp=1235)])
    assert stamped.batch.receive_us.tolist() == [1_234_000, 1_235_000]
    claimed = decoder.decode([Fetched(0, good[0], timestamp_type=CREATE_TIME)])
    assert claimed.batch.receive_us.tolist() == [1_750_000_000_001_000]
    mixed = decoder.decode([Fetched(0, good[0], timestamp=5), Fetched(1, good[1], timestamp_type=CREATE_TIME)])
    assert mixed.batch.receive_us.tolist() == [5_000, 1_750_000_000_001_001]


def test_a_fetch_of_poison_only_still_moves_on() -> None:
    intake = Decoder(0, PARTITIONS).decode([Fetched(5, b""), Fetched(6, b"\x00\x00\x00\x00\x09x")])
    assert intake.batch.events.num_rows == 0
    assert intake.batch.next_offset == 7
    assert [letter.reason for letter in intake.dead] == ["not_avro", "unknown_schema_id"]


UNFIT: list[dict[str, object]] = [
    {"path": "x" * 256},
    {"path": "ä" * 128},
    {"country": "a\x00b"},
    {"utm_source": "a\x1fb"},
    {"timestamp_us": -(2**62)},
    {"timestamp_us": TIMESTAMP_US_MIN - 1},
    {"timestamp_us": TIMESTAMP_US_MAX},
    {"received_at_us": 2**62},
    {"value_e6": VALUE_E6_MAX + 1},
    {"value_e6": -VALUE_E6_MAX - 1},
]
FIT: list[dict[str, object]] = [
    {},
    {"path": "x" * 255, "name": "", "country": None},
    {"timestamp_us": TIMESTAMP_US_MIN},
    {"timestamp_us": TIMESTAMP_US_MAX - 1},
    {"value_e6": VALUE_E6_MAX},
    {"value_e6": -VALUE_E6_MAX},
    {"properties": '{"long": "' + "x\x00" * 500 + '"}', "message_id": "m\x1f"},
]


def test_events_that_no_store_could_hold_are_dead() -> None:
    rng = random.Random(2)
    base = an_event(rng, "m", customer_of(0), 1_750_000_000_000_000)
    changes = [*UNFIT, *FIT]
    rng.shuffle(changes)
    fetched = [Fetched(i, value) for i, value in enumerate(encode([{**base, **change} for change in changes]))]
    intake = Decoder(0, PARTITIONS).decode(fetched)
    unfit = [i for i, change in enumerate(changes) if change in UNFIT]
    assert [letter.offset for letter in intake.dead] == unfit
    assert {letter.reason for letter in intake.dead} == {"out_of_bounds"}
    assert intake.batch.offsets.tolist() == [i for i in range(len(changes)) if i not in unfit]


def test_what_is_unfit_does_not_depend_on_the_neighbours() -> None:
    rng = random.Random(3)
    base = an_event(rng, "m", customer_of(0), 1_750_000_000_000_000)
    for change in [*UNFIT, *FIT]:
        value = encode([{**base, **change}])[0]
        assert bool(Decoder(0, PARTITIONS).decode([Fetched(0, value)]).dead) is (change in UNFIT), change


def test_the_raw_store_keeps_exactly_what_is_folded() -> None:
    rng = random.Random(4)
    base = an_event(rng, "m", customer_of(0), 1_750_000_000_000_000)
    events = [{**base, **change} for change in [*UNFIT, *FIT]]
    events.append({**base, "customer_id": customer_of(1)})
    events.append({**base, "timestamp_us": 1_750_000_000_000_000 + 10**12})
    records = [Fetched(i, value) for i, value in enumerate([*encode(events), b"junk", None])]
    folded = Decoder(0, PARTITIONS).decode(records).batch
    raw = [EventRecord(record.offset, record.value, record.timestamp * 1000) for record in records]
    rows = EventTable(PARTITIONS, 300).rows(EventSlice(0, raw, np.empty(0, np.int64), InsertCursor(0)))
    assert rows.column("log_offset").to_pylist() == folded.offsets.tolist()
    stored = rows.column("stored_at").cast(pa.int64()).to_pylist()
    assert stored == folded.receive_us.tolist()
    times = clamped(folded.events.column("timestamp_us").to_numpy(), folded.receive_us, 300)
    assert rows.column("timestamp").cast(pa.int64()).to_pylist() == times.tolist()
