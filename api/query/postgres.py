"""Answers from the rollup rows of the customer's shard.

Guarantees: one REPEATABLE READ snapshot per question, so rows, sketches and position belong together; the
customer is bound by row-level security (`headrace.customer_id`, set for the transaction) as well as in every
branch of the SQL. A shard that does not answer is refused quickly, for its own customers only.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg_pool import TooManyRequests

from api.problems import ProblemError
from api.query import rollup_sql
from api.query.planner import SKETCHED, RollupPlan
from api.query.question import Question
from api.query.result import OTHER, Group, Number, Position, Result
from api.query.terms import QUANTILES, Metric
from headrace.clock import Clock
from headrace.errors import ConfigurationError, UnavailableError
from headrace.log import get_logger
from headrace.shards.router import AsyncRouter
from schemas import sketches

PartitionOf = Callable[[int], int]
"""Customer id → partition of `events`."""

SHARD_REST_S: Final = 1.0
"""After a failure, requests for that shard are refused at once for this long."""
CANDIDATES_MAX: Final = 5_000
"""Tuples looked at when a breakdown is ordered by something that only sketches know."""
SKETCH_STEP: Final = 100
MERGE_INLINE_BYTES_MAX: Final = 64 * 1024
ESTIMATE_SLACK: Final = 1.10
"""A HyperLogLog estimate of n users (1.6 % standard error) is below 1.1 n, six deviations away."""

log = get_logger(__name__)


class MovedError(Exception):
    """The shard does not own the customer's range (any more): the map in hand is old."""


class NeedsRawError(Exception):
    """Only the raw events can answer this; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FoldedError(NeedsRawError):
    """A window the question needs has tuples folded into `(other)`: only the raw events know them."""

    def __init__(self) -> None:
        super().__init__("a window holds tuples folded into (other)")


class RollupSource:
    """Answers RollupPlans from the shard that the router names. Raises ProblemError when it is away."""

    def __init__(self, router: AsyncRouter, partition_of: PartitionOf, clock: Clock) -> None:
        self._router = router
        self._partition_of = partition_of
        self._clock = clock
        self._resting: dict[str, float] = {}

    async def position(self, customer_id: int) -> Position | None:
        """How far the customer's rows are."""
        async with self._snapshot(customer_id) as (_connection, position):
            return position

    async def answer(self, question: Question, plan: RollupPlan, customer_id: int, *, accept_folded: bool) -> Result:
        """Raises FoldedError unless `accept_folded`, NeedsRawError, ProblemError when the shard is away."""
        async with self._snapshot(customer_id) as (connection, position):
            reader = _Reader(connection, question, plan, customer_id, accept_folded)
            if question.kind == "totals":
                result = await reader.totals()
            elif question.kind == "breakdown":
                result = await reader.breakdown()
            else:
                result = await reader.timeseries()
            return replace(result, position=position)

    @asynccontextmanager
    async def _snapshot(
        self, customer_id: int
    ) -> AsyncIterator[tuple[psycopg.AsyncConnection[Any], Position | None]]:
        """A connection that sees one state of this customer's rows, and the position of that state."""
        shard_id = await self._shard_of(customer_id)
        try:
            async with AsyncExitStack() as stack:
                connection, position = await self._begin(customer_id, stack)
                yield connection, position
        except psycopg.errors.QueryCanceled as error:
            raise ProblemError(
                "query-too-expensive", "the query ran longer than the limit; ask for a shorter range"
            ) from error
        except UnavailableError as error:
            if not isinstance(error.__cause__, TooManyRequests):
                self._resting[shard_id] = self._clock.monotonic() + SHARD_REST_S
            log.warning("shard_away", shard=shard_id, error=str(error))
            raise _away(shard_id) from error

    async def _begin(
        self, customer_id: int, stack: AsyncExitStack
    ) -> tuple[psycopg.AsyncConnection[Any], Position | None]:
        """Raises UnavailableError when the shard is away, also one that rests after a failure."""
        for _attempt in range(2):
            shard_id = await self._shard_of(customer_id)
            if self._resting.get(shard_id, 0.0) > self._clock.monotonic():
                raise _away(shard_id)
            try:
                async with AsyncExitStack() as trial:
                    connection = await trial.enter_async_context(self._router.customer(customer_id))
                    position = await self._read_position(connection, customer_id)
                    await stack.enter_async_context(trial.pop_all())
                    return connection, position
            except MovedError:
                self._router.invalidate()
        raise _away(shard_id)

    async def _shard_of(self, customer_id: int) -> str:
        try:
            return await self._router.shard_of(customer_id)
        except (UnavailableError, ConfigurationError) as error:
            log.warning("shard_map_away", error=str(error))
            raise ProblemError("source-unavailable", "the shard map cannot be read for now") from error

    async def _read_position(self, connection: psycopg.AsyncConnection[Any], customer_id: int) -> Position | None:
        found = await connection.execute(
            """
            SELECT o.state, c.topic_id, c.applied_to, c.watermark_us, greatest(c.receive_us, c.complete_us)
            FROM range_owner o
            LEFT JOIN range_cursor c ON c.range_id = o.range_id AND c.partition = %s
            WHERE o.keys @> %s::int8 ORDER BY o.state = 'owned' DESC LIMIT 1
            """,
            (self._partition_of(customer_id), customer_id),
        )
        row = await found.fetchone()
        if row is None or row[0] != "owned":
            raise MovedError
        return None if row[1] is None else Position(row[1], row[2], row[3], row[4])


def _away(shard_id: str) -> ProblemError:
    return ProblemError("shard-unavailable", f"shard {shard_id} does not answer; only its own customers are affected")


class _Reader:
    """One question in one snapshot."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        question: Question,
        plan: RollupPlan,
        customer_id: int,
        accept_folded: bool,
    ) -> None:
        self._connection = connection
        self._question = question
        self._plan = plan
        self._customer_id = customer_id
        self._accept_folded = accept_folded
        functions = {metric.function for metric in question.metrics}
        self._users = bool(functions & {"users", "events_per_user"})
        self._histograms = bool(functions & QUANTILES.keys())
        self._folded = False
        # Nobody can tell which of the folded events a filter would keep: the answer says that it is not exact.
        self._keeps_folded = question.filters is None
        self._width = len(question.dimensions)

    async def totals(self) -> Result:
        rows = await self._rows(by_bucket=False, users=self._users, histograms=self._histograms)
        plain = [row for row in rows if not row.folded]
        whole = plain[0] if plain else _Sums.nothing(self._width)
        return self._result([Group(None, (), self._measures(whole))], rows)

    async def timeseries(self) -> Result:
        tuples: list[tuple[str, ...]] | None = None
        ranked: dict[tuple[str, ...], int] = {(): 0}
        if self._width:
            top = await self.breakdown()
            ranked = {group.values: rank for rank, group in enumerate(top.groups)}
            tuples = list(ranked)
        rows = await self._rows(by_bucket=True, users=self._users, histograms=self._histograms, tuples=tuples)
        kept = [row for row in rows if row.values in ranked and not (row.folded and not self._width)]
        kept.sort(key=lambda row: (ranked[row.values], row.bucket or 0))
        groups = [Group(row.bucket, row.values, self._measures(row)) for row in kept]
        result = self._result(groups, rows)
        if not self._width:
            return result
        # Of all tuples, as for the other kinds, not of those alone that the limit left.
        return replace(
            result,
            total_rows=top.total_rows,
            rows_read=top.rows_read + result.rows_read,
            late_events=top.late_events,
        )

    async def breakdown(self) -> Result:
        question = self._question
        if question.tuples is not None:
            return await self._named(question.tuples)
        order = rollup_sql.order_terms(question.order_by, question)
        if order is None:
            return await self._breakdown_by_sketch()
        rows = await self._rows(by_bucket=False, users=False, histograms=False, top=(order, question.limit + 1))
        chosen = self._placed(rows)[: question.limit]
        if self._users or self._histograms:
            chosen = await self._with_sketches(chosen)
        return self._ranked(rows, chosen)

    async def _named(self, tuples: Sequence[tuple[str, ...]]) -> Result:
        """The tuples of another answer, for a comparison."""
        rows = await self._rows(by_bucket=False, users=self._users, histograms=self._histograms, tuples=list(tuples))
        by_values = {row.values: row for row in rows}
        found = [(values, by_values.get(values, _Sums.nothing(self._width))) for values in tuples]
        return self._result([Group(None, values, self._measures(row)) for values, row in found], rows)

    async def _breakdown_by_sketch(self) -> Result:
        """Order by users or a percentile. Users need few sketches: a tuple never has more users than events.

        Raises NeedsRawError where there are more tuples than candidates and one of the others may belong into the
        answer.
        """
        question = self._question
        order = rollup_sql.order_terms((("events", "desc"),), question)
        assert order is not None
        rows = await self._rows(by_bucket=False, users=False, histograms=False, top=(order, CANDIDATES_MAX))
        # The folded tuple comes first, whatever its events: `rest` below is then ordered by them.
        candidates = [row for row in rows if not row.folded or self._keeps_folded]
        by_users = question.order_by[0] == ("users", "desc")
        whole = rows[0].whole if rows else None
        cut_off = whole is not None and whole.groups > len(rows)
        if cut_off and not by_users:
            raise _too_many_tuples()
        seen: list[_Sums] = []
        while len(seen) < len(candidates):
            step = candidates[len(seen) : len(seen) + max(SKETCH_STEP, 2 * question.limit)]
            seen += await self._with_sketches(step)
            seen.sort(key=lambda row: row.values)
            for name, direction in reversed(question.order_by):
                seen.sort(key=lambda row: self._sort_value(row, name), reverse=direction == "desc")
            rest = candidates[len(seen) :]
            if not by_users or len(seen) < question.limit or not (rest or cut_off):
                continue
            worst = _users(seen[question.limit - 1])
            # Whoever is not among the candidates has at most the events of the last one.
            if (rest or candidates[-1:])[0].events * ESTIMATE_SLACK < worst:
                break
        else:
            if cut_off:
                raise _too_many_tuples()
        return self._ranked(rows, seen[: question.limit])

    def _sort_value(self, row: "_Sums", name: str) -> Any:
        question = self._question
        names = [dimension.name for dimension in question.dimensions]
        if name in names:
            return row.values[names.index(name)]
        metric = next(metric for metric in question.metrics if metric.name == name)
        value = _measure(metric, row)
        return float("-inf") if value is None else value

    def _ranked(self, rows: "list[_Sums]", chosen: "list[_Sums]") -> Result:
        """The chosen tuples, with what the limit cut off."""
        groups = [Group(None, row.values, self._measures(row)) for row in chosen]
        if not rows:
            return replace(self._result(groups, rows), total_rows=0)
        whole = rows[0].whole
        assert whole is not None
        for row in rows:
            if row.folded and not self._keeps_folded:
                whole.leave_out(row)
        total_rows = whole.groups
        other: tuple[Number, ...] | None = None
        if total_rows > len(chosen):
            rest = _Sums.nothing(0)
            rest.events = whole.events - sum(row.events for row in chosen)
            rest.value_e6 = whole.value_e6 - sum(row.value_e6 for row in chosen)
            rest.value_count = whole.value_count - sum(row.value_count for row in chosen)
            other = tuple(_measure(metric, rest) if metric.is_additive else None for metric in self._question.metrics)
        result = self._result(groups, rows)
        return replace(result, total_rows=total_rows, other=other, rows_read=whole.rows, late_events=whole.late)

    def _placed(self, rows: "list[_Sums]") -> "list[_Sums]":
        """Rows in the order asked for: the folded tuple, which SQL puts first, goes to the end."""
        plain = [row for row in rows if not row.folded]
        return plain + [row for row in rows if row.folded and self._keeps_folded]

    async def _with_sketches(self, rows: "list[_Sums]") -> "list[_Sums]":
        if not rows:
            return rows
        found = await self._rows(
            by_bucket=False,
            users=self._users,
            histograms=self._histograms,
            tuples=[row.values for row in rows if not row.folded],
        )
        by_values = {row.values: row for row in found}
        return [by_values[row.values] for row in rows]

    async def _rows(
        self,
        *,
        by_bucket: bool,
        users: bool,
        histograms: bool,
        tuples: list[tuple[str, ...]] | None = None,
        top: tuple[str, int] | None = None,
    ) -> "list[_Sums]":
        if not self._plan.pieces:
            return []
        statement = rollup_sql.grouped(
            self._question,
            self._plan,
            self._customer_id,
            by_bucket=by_bucket,
            users=users,
            histograms=histograms,
            tuples=tuples,
            top=top,
        )
        found = await self._connection.execute(statement.text, statement.values)
        # An aggregate without GROUP BY keys always gives a row; with them an empty range gives none.
        rows = [_Sums.of(row, self._width) for row in await found.fetchall()]
        if any(row.folded for row in rows):
            if not self._accept_folded:
                raise FoldedError
            self._folded = True
        # Large merges take their time beside the event loop, not on it.
        if sum(row.sketch_bytes for row in rows) > MERGE_INLINE_BYTES_MAX:
            await asyncio.to_thread(_merge, rows)
        else:
            _merge(rows)
        return rows

    def _measures(self, row: "_Sums") -> tuple[Number, ...]:
        return tuple(_measure(metric, row) for metric in self._question.metrics)

    def _result(self, groups: list[Group], rows: "Iterable[_Sums]") -> Result:
        sketched = any(metric.function in SKETCHED for metric in self._question.metrics)
        rows = list(rows)
        return Result(
            groups=groups,
            position=None,
            exact=not sketched and not self._folded,
            rows_read=sum(row.rows for row in rows),
            late_events=sum(row.late for row in rows),
        )


def _too_many_tuples() -> NeedsRawError:
    return NeedsRawError(f"more than {CANDIDATES_MAX} tuples, and the order is known to their sketches alone")


class _Whole:
    """Sums over all tuples of a breakdown, whatever its limit."""

    __slots__ = ("events", "groups", "late", "rows", "value_count", "value_e6")

    def __init__(self, row: Sequence[Any]) -> None:
        self.groups: int = row[0]
        self.events: int = row[1]
        self.value_e6 = _integer(row[2])
        self.value_count: int = row[3]
        self.rows: int = row[4]
        self.late: int = row[5]

    def leave_out(self, row: "_Sums") -> None:
        """Take a tuple out again."""
        self.groups -= 1
        self.events -= row.events
        self.value_e6 -= row.value_e6
        self.value_count -= row.value_count


class _Sums:
    """One row of rollup_sql.grouped."""

    __slots__ = (
        "bucket", "events", "folded", "hists", "late", "rows", "users", "value_count", "value_e6", "values", "whole",
    )  # fmt: skip

    def __init__(self) -> None:
        self.folded = False
        self.bucket: int | None = None
        self.values: tuple[str, ...] = ()
        self.events = self.value_e6 = self.value_count = self.late = self.rows = 0
        self.users: list[bytes] = []  # one, once merged
        self.hists: list[bytes] = []
        self.whole: _Whole | None = None

    @property
    def sketch_bytes(self) -> int:
        return sum(map(len, self.users)) + sum(map(len, self.hists))

    @classmethod
    def nothing(cls, width: int) -> "_Sums":
        sums = cls()
        sums.values = ("",) * width
        return sums

    @classmethod
    def of(cls, row: Sequence[Any], width: int) -> "_Sums":
        sums = cls()
        sums.folded, sums.bucket = row[0], row[1]
        sums.values = (OTHER,) * width if sums.folded else tuple(row[2 : 2 + width])
        events, value_e6, sums.value_count, sums.late, sums.rows, users, hists = row[2 + width : 9 + width]
        sums.events, sums.value_e6 = events, _integer(value_e6)
        sums.users, sums.hists = users or [], hists or []
        if len(row) > 9 + width:
            sums.whole = _Whole(row[9 + width :])
        return sums


def _merge(rows: list[_Sums]) -> None:
    for row in rows:
        row.users = [sketches.hll_merge(row.users)] if row.users else []
        row.hists = [sketches.hist_merge(row.hists)] if row.hists else []


def _measure(metric: Metric, row: _Sums) -> Number:
    function = metric.function
    if function == "events":
        return row.events
    if function == "count":
        return row.value_count
    if function == "sum":
        return row.value_e6 / 1_000_000
    if function == "avg":
        return row.value_e6 / row.value_count / 1_000_000 if row.value_count else None
    if function == "users":
        return _users(row)
    if function == "events_per_user":
        users = _users(row)
        return row.events / users if users else None
    if not row.value_count:
        return None
    quantile = sketches.hist_quantile(row.hists[0], QUANTILES[function]) if row.hists else None
    return None if quantile is None else quantile / 1_000_000


def _users(row: _Sums) -> int:
    return round(sketches.hll_estimate(row.users[0])) if row.users else 0


def _integer(value: Decimal | int | None) -> int:
    return int(value or 0)
