"""Drops the rollup rows that a grain no longer keeps.

A row may go once it has been added to its coarser row and its generation is older than the grain keeps; an open row
is counted nowhere else and stays, however old. So a partition is dropped when none of its rows is open; otherwise its
added rows are deleted. The cut is stored first, so that sinks do not bring a dropped partition back. Days are kept
for ever. Time is what the clock says, but never past the newest record stored: a clock that is ahead deletes nothing.
Partitions leave by DETACH CONCURRENTLY, which blocks no reader and no sink; what was cut short half-way is attached
again first.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from headrace.clock import Clock
from headrace.errors import HeadraceError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.address import connect
from headrace.shards.router import Router
from sinks.leaf_partitions import CREATE_LOCK, DAY_S, GRAINS, Leaf, attach, existing_leaves, stray_leaves

EVERY_S: Final = 1800.0
FIRST_AFTER_S: Final = 300.0
"""The first round, so that a restarting sink catches up first, and one that restarts often still tidies."""
RETENTION_LOCK: Final = 0x4845_4144_0003
"""Advisory lock: one process at a time tidies a shard ("HEAD", 3)."""
WAIT_MS: Final = 20_000
"""Longest wait for readers that hold a partition; the next round finishes what is left. Shorter than a sink's own."""

log = get_logger(__name__)


def cuts(settings: Settings, now_s: int) -> dict[int, int]:
    """Generations below these are no longer kept, by grain. Pure."""
    return {0: now_s - settings.minute_retention_h * 3600, 1: now_s - settings.hour_retention_d * DAY_S}


def safe_now_s(connection: psycopg.Connection[Any], clock_s: int) -> int | None:
    """The time that one shard's cuts may be taken from: no clock of ours may run ahead of the newest record that the
    shard holds, by the broker's stamp; what is deleted does not come back. None: it holds nothing yet."""
    row = connection.execute("SELECT max(receive_us) FROM range_cursor").fetchone()
    newest_us = row[0] if row else None
    return min(clock_s, newest_us // 1_000_000) if newest_us else None


def expired(leaves: set[Leaf], below: Mapping[int, int]) -> list[Leaf]:
    """The leaves that lie below the cut of their grain as a whole. Pure."""
    return sorted(
        leaf
        for leaf in leaves
        if leaf.grain in below and (leaf.number + 1) * GRAINS[leaf.grain].span_s <= below[leaf.grain]
    )


def tidy(connection: psycopg.Connection[Any], below: Mapping[int, int]) -> list[Leaf]:
    """Drop or thin out what lies below the cuts of one shard; the dropped leaves. `connection`: autocommit."""
    if connection.execute("SELECT pg_try_advisory_lock(%s)", (RETENTION_LOCK,)).fetchone() != (True,):
        return []
    try:
        connection.execute(f"SET lock_timeout = {WAIT_MS}")
        for grain, generation_min in below.items():
            connection.execute(
                """
                INSERT INTO retention_cut AS c (grain, generation_min) VALUES (%s, %s) ON CONFLICT (grain)
                DO UPDATE SET generation_min = greatest(c.generation_min, excluded.generation_min)
                """,
                (grain, generation_min),
            )
        with _leaves_locked(connection):
            _finish_detachments(connection)
        return [leaf for leaf in expired(existing_leaves(connection), below) if _drop_or_thin(connection, leaf)]
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (RETENTION_LOCK,))


def _drop_or_thin(connection: psycopg.Connection[Any], leaf: Leaf) -> bool:
    name = sql.Identifier(leaf.name)
    connection.execute(sql.SQL("DELETE FROM {} WHERE NOT open").format(name))
    if _has_rows(connection, leaf):
        log.info("partition_kept", leaf=leaf.name, reason="it has open rows")
        return False
    with _leaves_locked(connection):
        parent = sql.Identifier(GRAINS[leaf.grain].table)
        connection.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY").format(parent, name))
        if _has_rows(connection, leaf):  # a sink stored an open row between the look and the detachment
            attach(connection, leaf)
            return False
        connection.execute(sql.SQL("DROP TABLE {}").format(name))
    log.info("partition_dropped", leaf=leaf.name)
    return True


def _has_rows(connection: psycopg.Connection[Any], leaf: Leaf) -> bool:
    return bool(connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(leaf.name))).fetchone())


def _finish_detachments(connection: psycopg.Connection[Any]) -> None:
    """Bring what was cut short to its end and attach it again; it then expires like any other leaf."""
    rows = connection.execute(
        """
        SELECT parent.relname, child.relname FROM pg_inherits
        JOIN pg_class parent ON parent.oid = inhparent JOIN pg_class child ON child.oid = inhrelid
        WHERE inhdetachpending AND parent.relname = ANY(%s)
        """,
        ([table.table for table in GRAINS],),
    ).fetchall()
    for parent, child in rows:
        connection.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(
                sql.Identifier(parent), sql.Identifier(child)
            )
        )
    for leaf in sorted(stray_leaves(connection)):
        attach(connection, leaf)


@contextmanager
def _leaves_locked(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Sinks that want a new partition wait meanwhile, holding no lock that a detachment waits for."""
    connection.execute("SELECT pg_advisory_lock(%s)", (CREATE_LOCK,))
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (CREATE_LOCK,))


class Retention(threading.Thread):
    """Tidies every shard of the map about twice an hour; a shard that is down is left for the next round."""

    def __init__(self, settings: Settings, router: Router, clock: Clock) -> None:
        super().__init__(name="retention", daemon=True)
        self._settings = settings
        self._router = router
        self._clock = clock
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until told to stop."""
        wait_s = FIRST_AFTER_S
        while not self._stopping.wait(wait_s):
            wait_s = EVERY_S
            shard_map = self._router.latest()
            for shard_id, address in shard_map.addresses.items() if shard_map else ():
                try:
                    with connect(address.writer_dsn(self._settings), f"shard {shard_id}") as connection:
                        now_s = safe_now_s(connection, self._clock.now_us() // 1_000_000)
                        if now_s is not None:
                            tidy(connection, cuts(self._settings, now_s))
                except (HeadraceError, psycopg.Error) as error:
                    log.warning("retention_failed", shard=shard_id, error=str(error).split("\n")[0])

    def stop(self) -> None:
        """End after the statement under way."""
        self._stopping.set()
