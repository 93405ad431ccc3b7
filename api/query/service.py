"""A question's way through: plan, source, comparison, answer. The one place that both sources meet."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from api.problems import ProblemError
from api.query import answer, completeness, planner
from api.query.clickhouse import RawSource
from api.query.completeness import Completeness
from api.query.planner import Plan, RawPlan, Retention, RollupPlan
from api.query.postgres import NeedsRawError, RollupSource
from api.query.question import Question
from api.query.result import Position, Result
from headrace import metrics
from headrace.clock import Clock

IN_FLIGHT_MAX: Final = 1000
"""Questions worked on or waiting in this process; the next is answered 429."""
CUSTOMER_IN_FLIGHT_MAX: Final = 200
"""The same for one customer: a dozen open pages that refresh at once."""
CUSTOMER_RUNNING_MAX: Final = 6
"""Questions of one customer that run at once; the others wait, so that one customer leaves room for the rest."""


@dataclass(frozen=True, slots=True)
class QueryRules:
    """What of the settings bears on answers."""

    retention: Retention
    grace_s: int


class QueryService:
    """Answers questions of one customer at a time."""

    def __init__(self, rollups: RollupSource, raw: RawSource | None, rules: QueryRules, clock: Clock) -> None:
        """`raw` is None where no ClickHouse is configured."""
        self._rollups = rollups
        self._raw = raw
        self._rules = rules
        self._clock = clock
        self._in_flight: dict[int, int] = {}
        self._running: dict[int, asyncio.Semaphore] = {}

    async def answer(self, question: Question, customer_id: int) -> dict[str, Any]:
        """The whole answer. Raises ProblemError."""
        started = self._clock.monotonic()
        source, outcome = "none", "cancelled"
        try:
            async with self._turn(customer_id):
                if question.kind == "events":
                    shaped, found = await self._events(question, customer_id)
                else:
                    shaped, found = await self._measured(question, customer_id)
            source, outcome = found.source, "answered"
            return shaped | {"meta": self._meta(found, question, started)}
        except ProblemError as problem:
            outcome = problem.slug
            raise
        finally:
            metrics.counter("headrace_queries_total", question.kind, source, outcome).inc()
            seconds = self._clock.monotonic() - started
            metrics.histogram("headrace_query_seconds", question.kind, source).observe(seconds)

    async def answers(self, questions: Sequence[Question], customer_id: int) -> list[dict[str, Any] | ProblemError]:
        """Several at once; a failed one is its problem, in its place."""

        async def one(question: Question) -> dict[str, Any] | ProblemError:
            try:
                return await self.answer(question, customer_id)
            except ProblemError as problem:
                return problem

        return list(await asyncio.gather(*(one(question) for question in questions)))

    def plan(self, question: Question) -> Plan:
        """Where the question would be answered from, were nothing folded."""
        return planner.plan(question, self._rules.retention, self._clock.now_us())

    async def positions(self, question: Question, customer_id: int) -> list[Position | None]:
        """How far the log is in every source that may answer: with the question, the key of a cached answer."""
        if not isinstance(self.plan(question), RollupPlan):
            return [await self._raw_source("raw").position(customer_id)]
        found = [await self._rollups.position(customer_id)]
        if self._raw is not None:
            # A rollup plan goes to the raw events where a window turns out to be folded.
            try:
                found.append(await self._raw.position(customer_id))
            except ProblemError:
                found.append(None)
        return found

    async def as_of_us(self, customer_id: int) -> int | None:
        """What the customer's rollup rows are complete to; None while nobody can tell."""
        try:
            position = await self._rollups.position(customer_id)
        except ProblemError:
            return None
        return position.as_of_us or None if position is not None else None

    async def _measured(self, question: Question, customer_id: int) -> tuple[dict[str, Any], Completeness]:
        result, found = await self._result(question, customer_id)
        cut = tuple(group.values for group in result.groups) if question.dimensions else None
        if cut is not None and question.kind == "timeseries":
            cut = tuple(dict.fromkeys(cut))
        then = question.compared(cut)
        if then is None:
            return answer.measured(question, result, None), found
        compared, found_then = await self._result(then, customer_id)
        shaped = answer.measured(question, result, compared)
        # The two ranges may come from different sources: each side says what it is, and only two exact sides are
        # an exact comparison.
        shaped["compare"]["meta"] = completeness.comparison_meta(found_then, self._rules.grace_s)
        return shaped, replace(found, exact=found.exact and found_then.exact)

    async def _result(self, question: Question, customer_id: int) -> tuple[Result, Completeness]:
        plan = self.plan(question)
        if isinstance(plan, RollupPlan):
            try:
                accept = self._raw is None
                result = await self._rollups.answer(question, plan, customer_id, accept_folded=accept)
                return result, _found("postgres", result)
            except NeedsRawError as error:
                plan = RawPlan(error.reason)
        result = await self._raw_source(plan.reason).answer(question, customer_id)
        return result, replace(_found("clickhouse", result), why=plan.reason)

    async def _events(self, question: Question, customer_id: int) -> tuple[dict[str, Any], Completeness]:
        page = await self._raw_source("events are kept raw only").events(question, customer_id)
        found = Completeness("clickhouse", page.position, exact=True, rows_read=page.rows_read, late_events=None)
        return answer.events(question, page), found

    def _meta(self, found: Completeness, question: Question, started: float) -> dict[str, Any]:
        return completeness.meta(
            found,
            question,
            now_us=self._clock.now_us(),
            grace_s=self._rules.grace_s,
            elapsed_s=self._clock.monotonic() - started,
        )

    def _raw_source(self, reason: str) -> RawSource:
        if self._raw is None:
            raise ProblemError(
                "not-answerable", f"this needs the raw events ({reason}), and no ClickHouse is configured"
            )
        return self._raw

    @asynccontextmanager
    async def _turn(self, customer_id: int) -> AsyncIterator[None]:
        """Wait for the customer's turn. Raises ProblemError 429 when too many wait."""
        mine = self._in_flight.get(customer_id, 0)
        if mine >= CUSTOMER_IN_FLIGHT_MAX or sum(self._in_flight.values()) >= IN_FLIGHT_MAX:
            raise ProblemError("too-many-requests", "too many queries are under way; try again", retry_after_s=1.0)
        self._in_flight[customer_id] = mine + 1
        try:
            async with self._running.setdefault(customer_id, asyncio.Semaphore(CUSTOMER_RUNNING_MAX)):
                yield
        finally:
            self._in_flight[customer_id] -= 1
            if not self._in_flight[customer_id]:
                del self._in_flight[customer_id], self._running[customer_id]


def _found(source: completeness.Source, result: Result) -> Completeness:
    return Completeness(source, result.position, result.exact, result.rows_read, result.late_events)
