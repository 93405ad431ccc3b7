"""The shard map: which range of customer ids lies on which shard.

Guarantees: ranges do not overlap and cover all of int8 (`ShardMap` refuses anything else), so every customer id
has exactly one shard. A change is a compare-and-set on the range's epoch and takes the map's next epoch.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.types.range import Int8Range

from headrace.errors import ConfigurationError, FatalError, UsageError
from headrace.shards.address import ShardAddress

INT8_MIN = -(2**63)
INT8_END = 2**63
"""One past the greatest customer id."""

CHANNEL = "headrace_shard_map"
"""What the control database notifies on, at every change of the map."""

_SELECT = """
    SELECT m.range_id, m.keys, m.shard_id, m.epoch, s.address
    FROM shard_map m JOIN shards s USING (shard_id)
"""
_CHANGE_LOCK = 0x4845_4144_0001
"""Advisory lock that serialises changes of the map ("HEAD", 1)."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Customer ids `[start, end)` and the shard they lie on."""

    range_id: int
    start: int
    end: int
    shard_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ShardMap:
    """One state of the map. Immutable; `epoch` orders the states."""

    ranges: Sequence[KeyRange]
    addresses: Mapping[str, ShardAddress]
    epoch: int
    _starts: Sequence[int]

    @classmethod
    def of(cls, ranges: Iterable[KeyRange], addresses: Mapping[str, ShardAddress]) -> "ShardMap":
        """Check and index. Raises FatalError when an id would have no shard or two."""
        ordered = tuple(sorted(ranges, key=lambda item: item.start))
        expected = INT8_MIN
        for item in ordered:
            if item.start != expected or item.end <= item.start:
                raise FatalError(
                    f"the shard map has a hole or an overlap at customer id {expected} (range {item.range_id})",
                    remedy="repair the table shard_map of the control database; nothing is routed until then",
                )
            if item.shard_id not in addresses:
                raise FatalError(f"range {item.range_id} lies on {item.shard_id!r}, which has no address")
            expected = item.end
        if expected != INT8_END:
            raise ConfigurationError(
                "the shard map is empty" if not ordered else f"the shard map ends at customer id {expected}",
                remedy="run `headrace migrate --shard NAME=HOST:PORT/DATABASE` once for each shard",
            )
        epoch = max(item.epoch for item in ordered)
        return cls(ordered, MappingProxyType(dict(addresses)), epoch, tuple(item.start for item in ordered))

    def range_of(self, customer_id: int) -> KeyRange:
        """The range that holds `customer_id` (any int8)."""
        assert INT8_MIN <= customer_id < INT8_END, customer_id
        return self.ranges[bisect_right(self._starts, customer_id) - 1]

    def shard_of(self, customer_id: int) -> str:
        """The shard that holds `customer_id`."""
        return self.range_of(customer_id).shard_id

    def ranges_of(self, shard_id: str) -> list[KeyRange]:
        """The ranges on `shard_id`, in order of their keys."""
        return [item for item in self.ranges if item.shard_id == shard_id]


def load_map(connection: psycopg.Connection[Any]) -> ShardMap:
    """Read the map. Raises ConfigurationError when it is empty, FatalError when it is broken."""
    return _build(connection.execute(_SELECT).fetchall())


async def load_map_async(connection: psycopg.AsyncConnection[Any]) -> ShardMap:
    """Read the map. Raises as `load_map`."""
    return _build(await (await connection.execute(_SELECT)).fetchall())


def shard_addresses(connection: psycopg.Connection[Any]) -> dict[str, ShardAddress]:
    """Every known shard, also one that holds no range yet."""
    rows = connection.execute("SELECT shard_id, address FROM shards ORDER BY shard_id").fetchall()
    return {shard_id: ShardAddress.parse(address) for shard_id, address in rows}


def reassign(connection: psycopg.Connection[Any], range_id: int, shard_id: str, *, epoch: int) -> int:
    """Give a range to another shard if its epoch is still `epoch`; returns the new epoch.

    The only commit point of a move. Raises UsageError when someone else changed the range meanwhile.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CHANGE_LOCK,))
        row = connection.execute(
            """
            UPDATE shard_map SET shard_id = %s, epoch = (SELECT max(epoch) + 1 FROM shard_map)
            WHERE range_id = %s AND epoch = %s RETURNING epoch
            """,
            (shard_id, range_id, epoch),
        ).fetchone()
    if row is None:
        raise UsageError(
            f"range {range_id} is no longer at epoch {epoch}", remedy="read the map again and decide anew"
        )
    new_epoch: int = row[0]
    return new_epoch


def key_bounds(keys: Int8Range) -> tuple[int, int]:
    """`[start, end)` of an int8range in Postgres' canonical form; an open side is int8's own."""
    return (
        INT8_MIN if keys.lower is None else keys.lower,
        INT8_END if keys.upper is None else keys.upper,
    )


def _build(rows: Sequence[tuple[int, Int8Range, str, int, str]]) -> ShardMap:
    ranges = [KeyRange(range_id, *key_bounds(keys), shard_id, epoch) for range_id, keys, shard_id, epoch, _ in rows]
    return ShardMap.of(ranges, {shard_id: ShardAddress.parse(address) for _, _, shard_id, _, address in rows})
