"""Customers: who they are and how they get their ids.

Ids are dealt round-robin over the ranges of the shard map, so that the newest customers do not all land on one
shard; within a range they count up. The turn is taken in the transaction that makes the customer, so that a failed
creation takes none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from headrace.errors import UsageError
from headrace.shards.map import INT8_END, KeyRange, ShardMap, load_map

NAME_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant, with the shard its rows lie on at the time of reading."""

    customer_id: int
    name: str
    created_at: datetime
    shard_id: str


def create_customer(connection: psycopg.Connection[Any], name: str, *, shard_id: str | None = None) -> Customer:
    """Make a customer. `shard_id` restricts the deal to one shard's ranges (for tests, demos, data residency).

    Raises UsageError for an empty or overlong name and an unknown shard.
    """
    if not name.strip() or len(name) > NAME_CHARS_MAX:
        raise UsageError(f"a customer's name has 1 to {NAME_CHARS_MAX} characters, not {len(name.strip())}")
    with connection.transaction():
        row = connection.execute("UPDATE customer_deal SET turn = turn + 1 RETURNING turn - 1").fetchone()
        assert row is not None, "customer_deal has one row from its migration on"
        shard_map = load_map(connection)
        customer_id, home = _next_id(connection, shard_map, row[0], shard_id)
        made = connection.execute(
            "INSERT INTO customers (customer_id, name) VALUES (%s, %s) RETURNING created_at", (customer_id, name)
        ).fetchone()
        assert made is not None
    return Customer(customer_id, name, made[0], home)


def list_customers(connection: psycopg.Connection[Any]) -> list[Customer]:
    """All customers, by id."""
    shard_map = load_map(connection)
    rows = connection.execute("SELECT customer_id, name, created_at FROM customers ORDER BY customer_id")
    return [Customer(number, name, created_at, shard_map.shard_of(number)) for number, name, created_at in rows]


def deal(ranges: Sequence[KeyRange], turn: int) -> list[KeyRange]:
    """The ranges in the order in which turn `turn` tries them: its own first, then the following ones."""
    assert ranges
    start = turn % len(ranges)
    return [*ranges[start:], *ranges[:start]]


def _next_id(
    connection: psycopg.Connection[Any], shard_map: ShardMap, turn: int, shard_id: str | None
) -> tuple[int, str]:
    positive = [item for item in shard_map.ranges if item.end > 1 and shard_id in (None, item.shard_id)]
    if not positive:
        known = ", ".join(sorted(shard_map.addresses))
        raise UsageError(f"shard {shard_id!r} holds no range of customers", remedy=f"shards with ranges: {known}")
    for item in deal(positive, turn):
        row = connection.execute(
            "SELECT max(customer_id) FROM customers WHERE customer_id >= %s AND customer_id <= %s",
            (item.start, item.end - 1),
        ).fetchone()
        assert row is not None
        candidate = max(item.start, 1) if row[0] is None else int(row[0]) + 1
        if candidate < min(item.end, INT8_END):
            return candidate, item.shard_id
    raise UsageError("every range of customer ids is full", remedy="split a range first")
