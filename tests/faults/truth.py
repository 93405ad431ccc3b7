"""What the stores must hold: an independent fold of the log, record by record."""

from collections import defaultdict
from typing import Any

import psycopg

from headrace import clickhouse, kafka
from headrace.settings import Settings
from schemas.codec import decode_events
from schemas.topics import Topics
from tests.reference_fold import Key, ReferenceFold, ReferenceRules

POLL_S = 1.0
BATCH = 10_000
IDLE_POLLS_MAX = 30

Stored = tuple[int, bytes, int, int, bytes, bool]
Log = dict[int, list[tuple[int, int, bytes]]]
"""Partition → (offset, receive time in µs, value), in order."""


def read_log(settings: Settings) -> Log:
    """Every record of `events`."""
    topic = Topics(settings.topic_prefix).events
    ends = kafka.watermarks(settings, topic, list(range(settings.events_partitions)))
    consumer = kafka.consumer(settings, "truth")
    consumer.assign([kafka.TopicPartition(topic, p, low) for p, (low, high) in ends.items() if high > low])
    log: Log = defaultdict(list)
    missing, idle = sum(high - low for low, high in ends.values()), 0
    while missing:
        messages = consumer.consume(BATCH, POLL_S)
        idle = 0 if messages else idle + 1
        assert idle < IDLE_POLLS_MAX, f"{missing} records cannot be read"
        for message in messages:
            assert not message.error(), message.error()
            log[message.partition()].append((message.offset(), message.timestamp()[1] * 1000, message.value()))
        missing -= len(messages)
    consumer.close()
    return log


def fold_log(log: Log, rules: ReferenceRules) -> dict[int, ReferenceFold]:
    """The reference fold of each partition."""
    folds = {}
    for partition, records in log.items():
        fold = folds[partition] = ReferenceFold(rules)
        decoded = decode_events([value for _, _, value in records])
        assert not decoded.poison
        for event, (offset, receive_us, _) in zip(decoded.events.to_pylist(), records, strict=True):
            fold.record(event, offset, receive_us)
    return folds


def message_ids(log: Log) -> list[tuple[int, str]]:
    """(customer, message id) of every record, repeats included."""
    out = []
    for records in log.values():
        events = decode_events([value for _, _, value in records]).events
        out += list(
            zip(events.column("customer_id").to_pylist(), events.column("message_id").to_pylist(), strict=True)
        )
    return out


def stored_rows(dsn: str) -> dict[tuple[Key, int], Stored]:
    """Every rollup row of a shard: (key, partition) → values."""
    query = """
        SELECT customer_id, rollup, grain, window_start, dims, generation, part,
               events, users, value_e6, value_count, value_hist, open
        FROM rollup_rows"""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(query).fetchall()
    return {
        (Key(*row[:6]), row[6]): (row[7], bytes(row[8]), row[9], row[10], bytes(row[11]), row[12]) for row in rows
    }


def cursors(dsn: str) -> dict[int, int]:
    """Partition → the lowest position of a shard's cursors."""
    with psycopg.connect(dsn) as connection:
        rows: list[Any] = connection.execute(
            "SELECT partition, min(applied_to) FROM range_cursor GROUP BY partition"
        ).fetchall()
    return dict(rows)


def reaches_end(positions: dict[int, int], log: Log) -> bool:
    """Whether positions by partition stand at the end of the log, or past it."""
    return all(positions.get(partition, 0) > records[-1][0] for partition, records in log.items())


def clickhouse_rows(url: str) -> dict[tuple[Key, int], Stored]:
    """Every rollup row of ClickHouse, as `stored_rows`."""
    rows = _ask_clickhouse(
        url,
        """
        SELECT customer_id, rollup, grain, window_start, dims, generation, part,
               events, hex(users), value_e6, value_count, hex(value_hist), open
        FROM rollup_rows FINAL""",
    )
    stored = {
        (Key(*row[:6]), row[6]): (row[7], bytes.fromhex(row[8]), row[9], row[10], bytes.fromhex(row[11]), row[12])
        for row in rows
    }
    assert len(stored) == len(rows), "FINAL gives a key twice"
    return stored


def clickhouse_events(url: str) -> list[tuple[int, int]]:
    """(partition, offset) of every raw event of ClickHouse."""
    return _ask_clickhouse(url, "SELECT log_partition, log_offset FROM events FINAL")


def clickhouse_caught_up(url: str, log: Log) -> bool:
    """Whether ClickHouse's cursors, of events and of rollup rows, stand at the end of the log."""
    rows = _ask_clickhouse(url, "SELECT sink, log_partition, next_offset FROM sink_cursor FINAL")
    return all(
        reaches_end({partition: at for name, partition, at in rows if name == sink}, log)
        for sink in ("events", "rollups")
    )


def _ask_clickhouse(url: str, query: str) -> list[Any]:
    client = clickhouse.connect(Settings(clickhouse=url))
    try:
        return list(client.query(query).result_rows)
    finally:
        client.close()


def assert_equal(expected: dict[int, ReferenceFold], stored: dict[tuple[Key, int], Stored]) -> None:
    """Every row that should be there is, with every value, and no other."""
    wanted = {(key, partition): row for partition, fold in expected.items() for key, row in fold.table().items()}
    missing = wanted.keys() - stored.keys()
    surplus = stored.keys() - wanted.keys()
    different = [key for key in wanted.keys() & stored.keys() if wanted[key] != stored[key]]
    assert not (missing or surplus or different), (
        f"{len(missing)} rows missing, such as {sorted(missing)[:3]}; {len(surplus)} too many, such as "
        f"{sorted(surplus)[:3]}; {len(different)} differ, such as "
        f"{[(key, wanted[key], stored[key]) for key in sorted(different)[:2]]}"
    )
