"""The first deal: registers shards, cuts all of int8 into ranges and deals them over the shards.

Happens once, when the map is empty; after that ranges arise only by split and change shards only by a move.
Afterwards each shard is told which ranges it owns (`range_owner`), which the sink takes its cursors from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from headrace.errors import UsageError
from headrace.shards.address import ShardAddress
from headrace.shards.map import INT8_END, INT8_MIN, KeyRange, ShardMap

RANGES_PER_SHARD = 4
"""Ranges of the first deal for each shard: enough to move load in quarters. Each costs a cursor per partition."""
RANGE_KEYS = 100_000
"""Customer ids in a range of the first deal; the first and the last reach to int8's ends."""


def first_deal(shard_ids: Sequence[str], range_count: int) -> list[KeyRange]:
    """Cut int8 into `range_count` ranges, dealt round-robin: 1 to 100,000 on the first shard, and so on."""
    assert shard_ids and range_count >= len(shard_ids)
    starts = [INT8_MIN, *(1 + RANGE_KEYS * index for index in range(1, range_count))]
    ends = [*starts[1:], INT8_END]
    return [
        KeyRange(index + 1, start, end, shard_ids[index % len(shard_ids)], epoch=1)
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def register_shards(
    connection: psycopg.Connection[Any], shards: Mapping[str, ShardAddress], *, range_count: int | None = None
) -> bool:
    """Make `shards` known; deal the ranges if there are none yet. Returns whether this was the first deal.

    A known shard keeps its place; its address may change (a restored backup on another host). A shard added to a
    dealt map holds nothing until a range is moved to it. Raises UsageError when there is no shard at all.
    """
    with connection.transaction():
        connection.execute("LOCK TABLE shard_map IN SHARE ROW EXCLUSIVE MODE")
        for shard_id, address in shards.items():
            connection.execute(
                """
                INSERT INTO shards (shard_id, address) VALUES (%s, %s)
                ON CONFLICT (shard_id) DO UPDATE SET address = excluded.address
                WHERE shards.address <> excluded.address
                """,
                (shard_id, str(address)),
            )
        if connection.execute("SELECT 1 FROM shard_map LIMIT 1").fetchone():
            return False
        known = [row[0] for row in connection.execute("SELECT shard_id FROM shards ORDER BY shard_id")]
        if not known:
            raise UsageError(
                "there is no shard to deal customers to",
                remedy="run `headrace migrate --shard NAME=HOST:PORT/DATABASE` once for each shard",
            )
        for item in first_deal(known, range_count or RANGES_PER_SHARD * len(known)):
            connection.execute(
                "INSERT INTO shard_map (range_id, keys, shard_id, epoch) VALUES (%s, int8range(%s, %s), %s, %s)",
                (item.range_id, *open_ends(item), item.shard_id, item.epoch),
            )
    return True


def announce_owner(connection: psycopg.Connection[Any], shard_map: ShardMap, shard_id: str) -> None:
    """Tell a shard, on its own connection, which ranges it owns. What it knows already stays as it is."""
    with connection.transaction():
        for item in shard_map.ranges_of(shard_id):
            connection.execute(
                """
                INSERT INTO range_owner (range_id, state, keys) VALUES (%s, 'owned', int8range(%s, %s))
                ON CONFLICT (range_id) DO NOTHING
                """,
                (item.range_id, *open_ends(item)),
            )


def open_ends(item: KeyRange) -> tuple[int | None, int | None]:
    """The bounds of an int8range: int8's own ends become open sides."""
    return (None if item.start == INT8_MIN else item.start, None if item.end == INT8_END else item.end)
