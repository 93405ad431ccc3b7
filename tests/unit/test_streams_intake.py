"""From fetched records to columns: receive times, dead letters, and the partition a customer belongs to."""

import random
from dataclasses import dataclass

from headrace.kafka import partition_for
from schemas.event import record_key
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
