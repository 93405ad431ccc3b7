"""Answers from the raw events in ClickHouse.

Guarantees: the customer is the first bound parameter and the first key column of every statement; time, rows and
memory of a statement are bounded by settings; at most STATEMENTS_MAX run at once for this process. Exact always:
users by their hash, percentiles by sorting.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import clickhouse_connect
import msgspec
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from api.problems import ProblemError
from api.query import raw_sql
from api.query.question import Question
from api.query.ranges import DAY_S, SECOND_US, rfc3339
from api.query.result import EventsPage, Group, Number, Position, Result
from api.query.terms import VALUE, Metric
from headrace.clickhouse import ClickHouseAddress
from headrace.log import get_logger

STATEMENTS_MAX: Final = 8
ROWS_READ_MAX: Final = 2_000_000_000
MEMORY_BYTES_MAX: Final = 2 * 1024**3
LOOK_BACK_DAYS: Final = (1, 8, 64, 512)
"""How far the newest events are looked for, step by step: a busy customer's page costs one day's rows."""

_TOO_EXPENSIVE: Final = {158, 159, 160, 241, 307, 396}
"""TOO_MANY_ROWS, TIMEOUT_EXCEEDED, TOO_SLOW, MEMORY_LIMIT_EXCEEDED, TOO_MANY_BYTES, TOO_MANY_ROWS_OR_BYTES."""
_BAD_PATTERN: Final = 427
_SYNTAX: Final = 62

log = get_logger(__name__)


class Client(Protocol):
    """The part of clickhouse_connect's async client that is used."""

    async def query(self, query: str, *, parameters: dict[str, Any], settings: dict[str, Any]) -> Any: ...

    async def close(self) -> None: ...


Connect = Callable[[], Awaitable[Client]]


def connector(address: ClickHouseAddress, timeout_s: float) -> Connect:
    """Makes the client of `address` when it is first needed."""

    async def connect() -> Client:
        arguments = address.client_arguments() | {
            "connect_timeout": 3,
            "send_receive_timeout": int(timeout_s) + 5,
            "query_limit": 0,
            "connector_limit": STATEMENTS_MAX,
        }
        client: Client = await clickhouse_connect.get_async_client(**arguments)
        return client

    return connect


class RawSource:
    """Answers any question."""

    def __init__(self, connect: Connect, partition_of: Callable[[int], int], *, timeout_s: float) -> None:
        """`partition_of`: customer id → partition of `events`."""
        self._connect = connect
        self._partition_of = partition_of
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(STATEMENTS_MAX)

    async def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            with suppress(ClickHouseError, OSError):
                await self._client.close()
            self._client = None

    async def position(self, customer_id: int) -> Position | None:
        """How far the log is in the raw events, for the customer's partition."""
        rows, _read = await self._run(raw_sql.position(self._partition_of(customer_id)))
        return Position(*rows[0]) if rows else None

    async def answer(self, question: Question, customer_id: int) -> Result:
        """Raises ProblemError when ClickHouse is away or the question too expensive."""
        # Before the data: what the answer claims to contain it contains for sure.
        position = await self.position(customer_id)
        if question.kind == "totals":
            return await self._totals(question, customer_id, position)
        if question.kind == "breakdown":
            return await self._breakdown(question, customer_id, position)
        return await self._timeseries(question, customer_id, position)

    async def events(self, question: Question, customer_id: int) -> EventsPage:
        """One page of events, newest first."""
        position = await self.position(customer_id)
        end_us = question.asked.to_us if question.cursor is None else question.cursor.timestamp_us + 1
        rows: list[Sequence[Any]] = []
        read = 0
        for from_us in _steps_back(question.asked.from_us, end_us):
            rows, more = await self._run(raw_sql.events(question, customer_id, from_us, question.limit + 1))
            read += more
            if len(rows) > question.limit:
                break
        width = len(raw_sql.EVENT_FIELDS)
        page = rows[: question.limit]
        last = (page[-1][width], page[-1][width + 1], page[-1][width + 2]) if page else None
        events = [_event(row) for row in page]
        return EventsPage(events, last, len(rows) > question.limit, position, read)

    async def values(self, statement: raw_sql.Statement) -> list[Sequence[Any]]:
        """Rows of a statement of another module (autocomplete)."""
        rows, _read = await self._run(statement)
        return rows

    async def _totals(self, question: Question, customer_id: int, position: Position | None) -> Result:
        rows, read = await self._run(raw_sql.totals(question, customer_id))
        measures = _measures(question.metrics, rows[0])
        return Result([Group(None, (), measures)], position, exact=True, rows_read=read)

    async def _breakdown(self, question: Question, customer_id: int, position: Position | None) -> Result:
        rows, read = await self._run(raw_sql.breakdown(question, customer_id))
        width = len(question.dimensions)
        groups = [Group(None, tuple(row[:width]), _measures(question.metrics, row[width:])) for row in rows]
        if question.tuples is not None:
            groups = _for_tuples(question, groups)
            return Result(groups, position, exact=True, rows_read=read)
        total_rows = rows[0][width + len(question.metrics)] if rows else 0
        other = None
        if total_rows > len(rows):
            sums = rows[0][width + len(question.metrics) + 1 :]
            other = _rest(question.metrics, groups, sums)
        return Result(groups, position, exact=True, rows_read=read, total_rows=total_rows, other=other)

    async def _timeseries(self, question: Question, customer_id: int, position: Position | None) -> Result:
        tuples = None
        total_rows = None
        ranked: dict[tuple[str, ...], int] = {(): 0}
        if question.dimensions:
            top = await self._breakdown(question, customer_id, position)
            total_rows = top.total_rows
            ranked = {group.values: rank for rank, group in enumerate(top.groups)}
            tuples = list(ranked)
        rows, read = await self._run(raw_sql.timeseries(question, customer_id, tuples))
        width = len(question.dimensions)
        places = {bucket.from_us: i for i, bucket in enumerate(question.buckets)}
        groups = [
            Group(places[row[0]], tuple(row[1 : 1 + width]), _measures(question.metrics, row[1 + width :]))
            for row in rows
            if tuple(row[1 : 1 + width]) in ranked
        ]
        groups.sort(key=lambda group: (ranked[group.values], group.bucket or 0))
        return Result(groups, position, exact=True, rows_read=read, total_rows=total_rows)

    async def _run(self, statement: raw_sql.Statement) -> tuple[list[Sequence[Any]], int]:
        """Rows, and how many rows ClickHouse read for them."""
        settings = {
            "max_execution_time": self._timeout_s,
            "max_rows_to_read": ROWS_READ_MAX,
            "max_memory_usage": MEMORY_BYTES_MAX,
            "do_not_merge_across_partitions_select_final": 1,
        }
        async with self._slots:
            try:
                client = await self._connected()
                answer = await client.query(statement.text, parameters=statement.values, settings=settings)
            except DatabaseError as error:
                raise _problem(error) from error
            except (ClickHouseError, OSError, TimeoutError) as error:
                log.warning("clickhouse_away", error=type(error).__name__)
                raise ProblemError("source-unavailable", "the store of raw events does not answer") from error
        return list(answer.result_rows), int(answer.summary.get("read_rows", 0))

    async def _connected(self) -> Client:
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._client = await self._connect()
        return self._client


def _problem(error: DatabaseError) -> ProblemError:
    text = str(error)
    code = _code(text)
    if code in _TOO_EXPENSIVE:
        return ProblemError("query-too-expensive", "the query reached a limit; ask for a shorter range or fewer cuts")
    if code == _SYNTAX and "Max query size" in text:
        return ProblemError("query-too-large", "the query's filters and dimensions make too long a statement")
    if code == _BAD_PATTERN:
        return ProblemError("invalid-query", "a pattern of `matches` is not a valid RE2 expression")
    log.error("clickhouse_refused", code=code, error=text[:500])
    return ProblemError("source-unavailable", f"the store of raw events refused the query (code {code})")


def _code(text: str) -> int:
    for marker in ("error code ", "Code: "):
        _before, found, after = text.partition(marker)
        digits = after[: len(after) - len(after.lstrip("0123456789"))]
        if found and digits:
            return int(digits)
    return 0


def _measures(metrics: Sequence[Metric], row: Sequence[Any]) -> tuple[Number, ...]:
    return tuple(_scaled(metric, value) for metric, value in zip(metrics, row, strict=False))


def _scaled(metric: Metric, value: Any) -> Number:
    if value is None or value != value:  # noqa: PLR0124 — NaN, of an average over nothing
        return None
    if metric.field == VALUE and metric.function != "count":
        return float(value) / 1_000_000 if isinstance(value, float) else int(value) / 1_000_000
    number: Number = value
    return number


def _rest(metrics: Sequence[Metric], groups: list[Group], sums: Sequence[Any]) -> tuple[Number, ...]:
    """The whole minus the groups, for what adds up; None for the rest."""
    wholes = iter(sums)
    rest: list[Number] = []
    for i, metric in enumerate(metrics):
        if not metric.is_additive:
            rest.append(None)
            continue
        whole = _scaled(metric, next(wholes))
        left = (whole or 0) - sum(group.measures[i] or 0 for group in groups)
        rest.append(round(left, 6) if isinstance(left, float) else left)
    return tuple(rest)


def _for_tuples(question: Question, groups: list[Group]) -> list[Group]:
    """The groups of `question.tuples`, in their order; one that has no event measures nothing."""
    nothing = tuple(0 if metric.is_count else None for metric in question.metrics)
    found = {group.values: group for group in groups}
    return [found.get(values, Group(None, values, nothing)) for values in question.tuples or ()]


def _event(row: Sequence[Any]) -> dict[str, Any]:
    event: dict[str, Any] = dict(zip(raw_sql.EVENT_FIELDS, row, strict=False))
    event["timestamp"] = rfc3339(row[len(raw_sql.EVENT_FIELDS)])
    event["received_at"] = rfc3339(event["received_at"])
    event["value"] = None if event["value"] is None else event["value"] / 1_000_000
    event["properties"] = _document(event["properties"])
    return {name: None if value == "" else value for name, value in event.items()}


def _document(text: str) -> Any:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {"_unreadable": text}


def _steps_back(from_us: int, end_us: int) -> list[int]:
    """Starts of ever longer ranges that end at `end_us`; the last one is `from_us`."""
    starts = [end_us - days * DAY_S * SECOND_US for days in LOOK_BACK_DAYS]
    return [*(start for start in starts if start > from_us), from_us]
