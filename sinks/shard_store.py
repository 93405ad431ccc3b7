"""One shard's database as the sink sees it: cursors and rows, changed together.

Guarantees (docs/exactly-once.md, Sinks): rows and the cursors that speak of them change in one transaction that has
locked those cursors first, in the order (partition, range). The locked row decides what is applied, so repeated
frames, zombies and a commit whose answer was lost change nothing. A value is only replaced by a newer version.
Refuses cursors of another topic id. Blocking; one thread at a time.
"""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg
import pyarrow as pa

from headrace import metrics
from headrace.clock import Clock
from headrace.errors import FatalError, IncarnationError, UnavailableError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.address import ShardAddress, connect
from headrace.shards.map import key_bounds
from schemas.frame import Frame, FrameHeader
from sinks.copy_binary import copy_rows
from sinks.cursors import Applied, Cursor
from sinks.leaf_partitions import GRAINS, Leaf, create_leaves, existing_leaves, leaves_ahead, leaves_of
from sinks.versioned_rows import KEY, newest_rows

AHEAD_EVERY_S: Final = 3600.0
"""How often the partitions of the near future are looked after."""
LOCK_TIMEOUT_MS: Final = 30_000
"""Longest wait for a cursor that another sink or a mover has locked; then the transaction is tried again."""

KEY_TEXT_MAX: Final = 200
"""Characters of a refused row's dimensions that are shown."""

log = get_logger(__name__)

_STAGE = """
    CREATE TEMPORARY TABLE IF NOT EXISTS stage (
        customer_id int8, window_start int8, generation int8, ver int8, events int8, value_e6 int8, value_count int8,
        rollup int2, grain int2, part int2, open boolean, dims text COLLATE "C", users bytea, value_hist bytea
    ) ON COMMIT DELETE ROWS
"""
_COLUMNS = (
    "customer_id, window_start, generation, ver, events, value_e6, value_count, rollup, grain, part, open, dims, "
    "users, value_hist"
)
_COPY = f"COPY stage ({_COLUMNS}) FROM STDIN (FORMAT binary)"
_UPSERT = f"""
    INSERT INTO rollup_rows AS t ({_COLUMNS}) SELECT {_COLUMNS} FROM stage
    ON CONFLICT (customer_id, rollup, grain, window_start, dims, generation, part) DO UPDATE SET
        ver = excluded.ver, open = excluded.open, events = excluded.events, users = excluded.users,
        value_e6 = excluded.value_e6, value_count = excluded.value_count, value_hist = excluded.value_hist
    WHERE t.ver < excluded.ver
"""
_CURSOR_COLUMNS = (
    "partition, range_id, keys, topic_id, applied_to, resume_at, fold_version, hold, "
    "greatest(receive_us, complete_us)"
)
_LOCK = f"""
    SELECT {_CURSOR_COLUMNS} FROM range_cursor WHERE partition = ANY(%s) ORDER BY partition, range_id FOR UPDATE
"""
_ADVANCE = """
    UPDATE range_cursor c SET applied_to = n.applied_to, resume_at = greatest(c.resume_at, n.resume_at),
        fold_version = n.fold_version, watermark_us = n.watermark_us, prev_receive_us = c.receive_us,
        receive_us = n.receive_us, updated_at = now()
    FROM unnest(%s::int4[], %s::int8[], %s::int8[], %s::int8[], %s::text[], %s::int8[], %s::int8[])
        AS n (partition, range_id, applied_to, resume_at, fold_version, watermark_us, receive_us)
    WHERE c.partition = n.partition AND c.range_id = n.range_id
"""
_COMPLETE = """
    UPDATE range_cursor c SET complete_us = %s FROM unnest(%s::int4[], %s::int8[]) AS n (partition, events_end)
    WHERE c.partition = n.partition AND c.applied_to >= n.events_end AND c.complete_us < %s AND NOT c.hold
"""


_REFUSALS = (psycopg.errors.DataError, psycopg.errors.ProgramLimitExceeded)
"""What Postgres will answer to the same rows each time."""


class RowsRefusedError(FatalError):
    """A shard refuses a row for good; the shard stands still at it."""


class _RefusedError(Exception):
    def __init__(self, table: pl.DataFrame) -> None:
        super().__init__(table.height)
        self.table = table


class _MissingLeavesError(Exception):
    def __init__(self, leaves: set[Leaf]) -> None:
        super().__init__(sorted(leaves))
        self.leaves = leaves


@dataclass(slots=True)
class _Plan:
    """What a transaction will write: rows of frames, and the cursors that move."""

    rows: list[tuple[FrameHeader, pa.RecordBatch]]
    moved: dict[tuple[int, int], tuple[Cursor, Frame]]
    frames_skipped: int = 0
    behind: bool = False


class ShardStore:
    """A connection to one shard, made when needed and again after any failure. A `lane.FrameStore`."""

    name = "postgres"

    def __init__(
        self,
        settings: Settings,
        shard_id: str,
        address: ShardAddress,
        clock: Clock,
        ranges: Collection[int] = (),
    ) -> None:
        """`ranges`: what the shard map places here; the shard must know each of them."""
        self._settings = settings
        self.part = shard_id
        self._address = address
        self._clock = clock
        self._ranges = frozenset(ranges)
        self._connection: psycopg.Connection[Any] | None = None
        self._leaves: set[Leaf] = set()
        self._ahead_at = -math.inf

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cursors(self, partitions: Sequence[int], topic_id: str) -> list[Cursor]:
        """The cursors of these partitions, new ones at zero for every range that this shard owns.

        Raises IncarnationError when a cursor speaks of another topic, UnavailableError; also when the map places a
        range here that the shard has not been told of (a migration was cut short): served so, its customers' frames
        would be passed over in silence.
        """
        with self._failing():
            found = self._cursors(self._connected(), partitions, topic_id)
        unknown = self._ranges - {cursor.range_id for cursor in found}
        if unknown and partitions:
            raise UnavailableError(
                f"shard {self.part} at {self._address} does not know its ranges {sorted(unknown)[:5]} "
                f"({len(unknown)} of {len(self._ranges)})",
                remedy="run `headrace migrate` again; the sink then goes on by itself",
            )
        for cursor in found:
            self._check_incarnation(cursor, topic_id)
        return found

    def apply(self, frames: Sequence[Frame], resume_at: Mapping[int, int]) -> Applied:
        """Write what these accepted frames, in the order of their log, bring this shard's ranges.

        `resume_at`: for each partition, where in `aggregates` to read on from once they are applied. On any error
        nothing is changed, or all of it is and a repetition changes nothing. Raises UnavailableError, and
        RowsRefusedError for a row that Postgres will never take.
        """
        with self._failing():
            connection = self._connected()
            if time.monotonic() - self._ahead_at > AHEAD_EVERY_S:
                self._create(leaves_ahead(self._clock.now_us() // 1_000_000))
                self._ahead_at = time.monotonic()
            try:
                try:
                    return self._transaction(connection, frames, resume_at)
                except _MissingLeavesError as missing:
                    self._create(missing.leaves)
                return self._transaction(connection, frames, resume_at)
            except _RefusedError as refused:
                raise self._refusal(connection, refused.table, refused.__cause__) from refused.__cause__

    def complete(self, event_ends: Mapping[int, int], at_us: int) -> None:
        """Note that cursors at or past these ends of `events` hold all that there was at `at_us`.

        Raises UnavailableError.
        """
        with self._failing():
            self._connected().execute(_COMPLETE, (at_us, list(event_ends), list(event_ends.values()), at_us))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Any other error of Postgres may pass by itself, or by its operator's hand: a full disk, a lock, a restart,
        a missing table. The shard lags meanwhile, alone, and says why."""
        try:
            yield
        except psycopg.errors.DiskFull as error:
            reason = str(error).strip().split("\n")[0]
            raise UnavailableError(
                f"shard {self.part} at {self._address} has no room left: {reason}",
                remedy="make room on that server's disk; nothing is lost and the sink goes on by itself",
            ) from error
        except psycopg.Error as error:
            reason = str(error).strip().split("\n")[0]
            raise UnavailableError(f"shard {self.part} failed ({type(error).__name__}): {reason}") from error

    def _cursors(self, connection: psycopg.Connection[Any], partitions: Sequence[int], topic_id: str) -> list[Cursor]:
        with connection.transaction():
            connection.execute(
                """
                INSERT INTO range_cursor (partition, range_id, keys, topic_id)
                SELECT p, range_id, keys, %s FROM range_owner, unnest(%s::int4[]) AS p WHERE state = 'owned'
                ON CONFLICT DO NOTHING
                """,
                (topic_id, list(partitions)),
            )
            rows = connection.execute(
                f"SELECT {_CURSOR_COLUMNS} FROM range_cursor WHERE partition = ANY(%s) ORDER BY partition, range_id",
                (list(partitions),),
            ).fetchall()
        return [_cursor(row) for row in rows]

    def _transaction(
        self, connection: psycopg.Connection[Any], frames: Sequence[Frame], resume_at: Mapping[int, int]
    ) -> Applied:
        partitions = sorted({frame.header.partition for frame in frames})
        with connection.transaction():
            cursors = [_cursor(row) for row in connection.execute(_LOCK, (partitions,))]
            cuts = dict(connection.execute("SELECT grain, generation_min FROM retention_cut").fetchall())
            plan = _plan(frames, cursors)
            kept = _within_retention(newest_rows(plan.rows), cuts, self._leaves)
            missing = leaves_of(kept["grain"].to_numpy().astype(np.int64), kept["generation"].to_numpy())
            if missing - self._leaves:
                raise _MissingLeavesError(missing - self._leaves)
            if kept.height:
                try:
                    self._write(connection, kept)
                except _REFUSALS as error:
                    raise _RefusedError(kept) from error
            if plan.moved:
                connection.execute(_ADVANCE, _advance_arguments(plan.moved.values(), resume_at))
        changed = dict(kept.group_by("customer_id").len().iter_rows())
        receive_us = max((frame.header.receive_us for _, frame in plan.moved.values()), default=0)
        return Applied(kept.height, plan.frames_skipped, changed, receive_us, plan.behind)

    def _write(self, connection: psycopg.Connection[Any], table: pl.DataFrame) -> None:
        with connection.cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                copy.write(encode_rows(table))
            cursor.execute(_UPSERT)

    def _refusal(
        self, connection: psycopg.Connection[Any], table: pl.DataFrame, cause: BaseException | None
    ) -> RowsRefusedError:
        """Find a row that is refused by writing halves that are rolled back; count it and say which it is."""
        while table.height > 1:
            half = table.head(table.height // 2)
            try:
                with connection.transaction(force_rollback=True):
                    self._write(connection, half)
                table = table.tail(table.height - half.height)
            except _REFUSALS:
                table = half
        key = {name: str(value)[:KEY_TEXT_MAX] for name, value in table.select(KEY).row(0, named=True).items()}
        reason = str(cause).strip().split("\n")[0]
        metrics.counter("headrace_sink_transactions_total", self.name, self.part, "refused").inc()
        log.error("row_refused", store=self.part, error=reason, **key)
        return RowsRefusedError(
            f"shard {self.part} refuses a row for good ({type(cause).__name__}: {reason}): {key}",
            remedy="the shard stands still at this row and the others go on; report it, with the row's key",
        )

    def _create(self, wanted: set[Leaf]) -> None:
        connection = self._connected()
        create_leaves(connection, wanted - self._leaves)
        self._leaves = existing_leaves(connection)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is not None and (self._connection.closed or self._connection.broken):
            self.close()
        if self._connection is None:
            what = f"shard {self.part} at {self._address}"
            connection: psycopg.Connection[Any] = connect(self._address.writer_dsn(self._settings), what)
            connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
            connection.execute(_STAGE)
            self._leaves = existing_leaves(connection)
            self._connection = connection
        return self._connection

    def _check_incarnation(self, cursor: Cursor, topic_id: str) -> None:
        if cursor.topic_id != topic_id:
            raise IncarnationError(
                f"shard {self.part} holds rows of the events topic {cursor.topic_id or '(no id)'}, "
                f"but the broker's has the id {topic_id or '(no id)'}",
                remedy="point the sink at the broker that the shard was filled from, or rebuild the shard by replay",
            )


def encode_rows(table: pl.DataFrame) -> bytes:
    """Rows (ROWS_ARROW's columns, `ver` and `part`) as binary COPY of the staging table."""
    fixed: list[tuple[str, npt.NDArray[Any]]] = [
        (">i8", table[name].to_numpy())
        for name in ("customer_id", "window_start", "generation", "ver", "events", "value_e6", "values")
    ]
    fixed += [(">i2", table[name].to_numpy()) for name in ("rollup", "grain", "part")]
    fixed += [("?", table["open"].to_numpy())]
    varying = [
        table["dims"].to_arrow().cast(pa.string()),
        table["users"].to_arrow().cast(pa.binary()),
        table["value_hist"].to_arrow().cast(pa.binary()),
    ]
    return copy_rows(fixed, varying)


def _plan(frames: Sequence[Frame], cursors: Sequence[Cursor]) -> _Plan:
    """Which rows of which frames go to which range, by the locked cursors. Pure."""
    plan = _Plan([], {})
    by_partition: dict[int, list[Cursor]] = {}
    for cursor in cursors:
        by_partition.setdefault(cursor.partition, []).append(cursor)
    for frame in frames:
        header = frame.header
        own = by_partition.get(header.partition, [])
        if not own:
            plan.behind = True  # the ranges were split or moved away: read the cursors again
        taking = []
        for index, cursor in enumerate(own):
            if cursor.hold or header.to_offset <= cursor.applied_to:
                continue
            if header.from_offset > cursor.applied_to:
                plan.behind = True
                continue
            own[index] = replace(cursor, applied_to=header.to_offset, fold_version=header.fold_version)
            plan.moved[cursor.partition, cursor.range_id] = own[index], frame
            taking.append(cursor)
        if taking:
            plan.rows.append((header, _rows_of(frame, taking)))
        else:
            plan.frames_skipped += 1
    return plan


def _rows_of(frame: Frame, cursors: Sequence[Cursor]) -> pa.RecordBatch:
    """The frame's rows of these ranges. Decodes only the segments that touch one."""
    batches = []
    for chunk in frame.chunks:
        segments = tuple(
            segment
            for segment in chunk.segments
            if any(segment.customer_min < cursor.end and cursor.start <= segment.customer_max for cursor in cursors)
        )
        batches.append(replace(chunk, segments=segments).rows())
    rows = pa.concat_batches(batches)
    customers = rows.column(0).to_numpy()
    mask = np.zeros(len(customers), dtype=np.bool_)
    for cursor in cursors:
        mask |= (customers >= cursor.start) & (customers <= cursor.end - 1)
    return rows if mask.all() else rows.filter(pa.array(mask))


def _within_retention(table: pl.DataFrame, cuts: Mapping[int, int], leaves: set[Leaf]) -> pl.DataFrame:
    """Leaves out what is no longer kept: rows below their grain's cut whose partition is gone.

    Only rows that are added to their coarser row: an open one is counted nowhere else. And while the partition is
    there, its rows are written: one that is stored as open must become `added`, or it would count twice. Pure.
    """
    for grain, generation_min in cuts.items():
        old = (pl.col("grain") == grain) & (pl.col("generation") < generation_min) & ~pl.col("open")
        present = [leaf.number for leaf in leaves if leaf.grain == grain]
        gone = ~(pl.col("generation") // GRAINS[grain].span_s).is_in(present)
        table = table.filter(~(old & gone))
    return table


def _advance_arguments(moved: Iterable[tuple[Cursor, Frame]], resume_at: Mapping[int, int]) -> tuple[list[Any], ...]:
    rows = [
        (
            cursor.partition,
            cursor.range_id,
            cursor.applied_to,
            resume_at[cursor.partition],
            cursor.fold_version,
            frame.header.watermark_us,
            frame.header.receive_us,
        )
        for cursor, frame in moved
    ]
    return tuple(list(column) for column in zip(*rows, strict=True))


def _cursor(row: tuple[Any, ...]) -> Cursor:
    partition, range_id, keys, *rest = row
    return Cursor(partition, range_id, *key_bounds(keys), *rest)
