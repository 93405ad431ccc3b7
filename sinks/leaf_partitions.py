"""The leaf partitions of `rollup_rows`: one for each grain and span of generations.

They are made before rows need them, by CREATE TABLE … LIKE and ATTACH: CREATE … PARTITION OF would queue behind any
open snapshot and block every read and write of the shard meanwhile.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

DAY_S: Final = 86_400
CREATE_LOCK: Final = 0x4845_4144_0002
"""Advisory lock of whoever makes, attaches, detaches or drops a partition ("HEAD", 2)."""


@dataclass(frozen=True, slots=True)
class GrainTable:
    """How the rows of one grain are cut. `span_s` divides the time line from the epoch on."""

    grain: int
    table: str
    span_s: int
    fillfactor: int


GRAINS: Final = (
    # Minutes are kept for days: whole days go. They are rewritten most, so they have the most room for HOT updates.
    GrainTable(0, "rollup_rows_minute", DAY_S, 60),
    # Hours are kept for about a year, days for ever: few enough partitions that planning stays cheap.
    GrainTable(1, "rollup_rows_hour", 32 * DAY_S, 80),
    GrainTable(2, "rollup_rows_day", 512 * DAY_S, 80),
)


@dataclass(frozen=True, slots=True, order=True)
class Leaf:
    """The partition of one grain that holds the generations `[number * span, (number + 1) * span)`."""

    grain: int
    number: int

    @property
    def name(self) -> str:
        """The table's name; negative numbers (before 1970) do not occur: the door rejects such times."""
        return f"{GRAINS[self.grain].table}_{self.number}"


def leaves_of(grains: npt.NDArray[np.int64], generations: npt.NDArray[np.int64]) -> set[Leaf]:
    """The leaves that rows of these grains and generations (epoch seconds) lie in."""
    out = set()
    for table in GRAINS:
        numbers = np.unique(generations[grains == table.grain] // table.span_s)
        out |= {Leaf(table.grain, int(number)) for number in numbers}
    return out


def leaves_ahead(now_s: int) -> set[Leaf]:
    """The leaves of now and the next ones, to be made before they are needed."""
    return {Leaf(table.grain, now_s // table.span_s + step) for table in GRAINS for step in (0, 1)}


def existing_leaves(connection: psycopg.Connection[Any]) -> set[Leaf]:
    """The attached leaves of a shard."""
    rows = connection.execute(
        """
        SELECT parent.relname, child.relname FROM pg_inherits
        JOIN pg_class parent ON parent.oid = inhparent JOIN pg_class child ON child.oid = inhrelid
        WHERE parent.relname = ANY(%s) AND parent.relkind = 'p' AND NOT inhdetachpending
        """,
        ([table.table for table in GRAINS],),
    )
    grain_of = {table.table: table.grain for table in GRAINS}
    return {Leaf(grain_of[parent], int(child.rpartition("_")[2])) for parent, child in rows}


def stray_leaves(connection: psycopg.Connection[Any]) -> set[Leaf]:
    """Tables that are leaves by name and attached to nothing: a detachment or a drop was cut short."""
    rows = connection.execute(
        """
        SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        AND relname ~ '^rollup_rows_(minute|hour|day)_[0-9]+$' AND oid NOT IN (SELECT inhrelid FROM pg_inherits)
        """
    )
    grain_of = {table.table: table.grain for table in GRAINS}
    names = [name.rpartition("_") for (name,) in rows]
    return {Leaf(grain_of[parent], int(number)) for parent, _, number in names}


def create_leaves(connection: psycopg.Connection[Any], wanted: Iterable[Leaf]) -> None:
    """Make and attach what is missing. On an autocommit connection, outside any other transaction."""
    for leaf in sorted(wanted):
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (CREATE_LOCK,))
            if leaf in existing_leaves(connection):
                continue
            table = GRAINS[leaf.grain]
            connection.execute(
                sql.SQL(
                    "CREATE TABLE IF NOT EXISTS {leaf} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS "
                    "INCLUDING INDEXES INCLUDING STORAGE) WITH (fillfactor = {fillfactor})"
                ).format(
                    leaf=sql.Identifier(leaf.name),
                    parent=sql.Identifier(table.table),
                    fillfactor=sql.Literal(table.fillfactor),
                )
            )
            attach(connection, leaf)


def attach(connection: psycopg.Connection[Any], leaf: Leaf) -> None:
    """Attach a leaf's table. Whoever attaches, detaches or drops one holds CREATE_LOCK."""
    table = GRAINS[leaf.grain]
    connection.execute(
        sql.SQL("ALTER TABLE {parent} ATTACH PARTITION {leaf} FOR VALUES FROM ({start}) TO ({end})").format(
            parent=sql.Identifier(table.table),
            leaf=sql.Identifier(leaf.name),
            start=sql.Literal(leaf.number * table.span_s),
            end=sql.Literal((leaf.number + 1) * table.span_s),
        )
    )
