"""A query with its words made definite: what planner and sources work on. Pure.

`resolve` fixes the time, the interval and its buckets, the comparison's range, the order; what it gives is the
`query` member of the answer (`written`) and, with the data's position, the key of its ETag.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from api.problems import Fault, ProblemError, did_you_mean
from api.query import filters, ranges
from api.query.filters import Filter
from api.query.model import AnyQuery, BreakdownQuery, EventsQuery, OtherRange, TimeseriesQuery, TotalsQuery
from api.query.ranges import Bucket, RangeError, TimeRange, TooManyBucketsError
from api.query.terms import Dimension, Metric

YEAR_MONTHS: Final = 12


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page of events ended: everything strictly older comes next."""

    timestamp_us: int
    partition: int
    last_offset: int


@dataclass(frozen=True, slots=True)
class Question:
    """One query, definite. `order_by` names columns of this question; `buckets` is empty but for a timeseries."""

    kind: str
    asked: TimeRange
    metrics: tuple[Metric, ...] = ()
    dimensions: tuple[Dimension, ...] = ()
    filters: Filter | None = None
    interval: str | None = None
    buckets: tuple[Bucket, ...] = ()
    compare: TimeRange | None = None
    order_by: tuple[tuple[str, str], ...] = ()
    limit: int = 0
    cursor: Cursor | None = None
    exact: bool = False
    tuples: tuple[tuple[str, ...], ...] | None = None
    """Restricts a breakdown to these dimension values: the comparison of an answer's rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of dimensions, then of metrics."""
        return (*(d.name for d in self.dimensions), *(m.name for m in self.metrics))

    def compared(self, tuples: tuple[tuple[str, ...], ...] | None = None) -> "Question | None":
        """The same question over the comparison's range; None without one."""
        if self.compare is None:
            return None
        buckets = ranges.buckets(self.compare, self.interval) if self.interval else ()
        return replace(self, asked=self.compare, buckets=buckets, compare=None, tuples=tuples)

    def written(self) -> dict[str, Any]:
        """The normalised query, as a request could send it again to get the same answer."""
        asked = {
            "from": ranges.rfc3339(self.asked.from_us),
            "to": ranges.rfc3339(self.asked.to_us),
            "tz": self.asked.tz,
        }
        out: dict[str, Any] = {"kind": self.kind, "range": asked}
        if self.kind != "events":
            out["metrics"] = [metric.name for metric in self.metrics]
            out["exact"] = self.exact
        if self.kind in ("timeseries", "breakdown"):
            out["dimensions"] = [dimension.name for dimension in self.dimensions]
            out["order_by"] = [list(order) for order in self.order_by]
        if self.kind != "totals":
            out["limit"] = self.limit
        if self.interval:
            out["interval"] = self.interval
        if self.filters is not None:
            out["filters"] = filters.written(self.filters)
        if self.compare is not None:
            out["compare"] = {
                "from": ranges.rfc3339(self.compare.from_us),
                "to": ranges.rfc3339(self.compare.to_us),
            }
        if self.cursor is not None:
            out["cursor"] = encode_cursor(self.cursor, self)
        return out

    def fingerprint(self) -> str:
        """A short stable hash of the question without its cursor."""
        plain = replace(self, cursor=None).written()
        return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()[:16]


def resolve(query: AnyQuery, now_us: int, *, at: str = "") -> Question:
    """The question a request means at `now_us`. `at`: JSON pointer of the query in the body. Raises ProblemError."""
    try:
        asked = ranges.resolve(query.range.from_, query.range.to, query.range.tz, now_us)
    except RangeError as error:
        raise _range_problem(error, f"{at}/range/{error.field}") from error
    if isinstance(query, EventsQuery):
        plain = Question(kind="events", asked=asked, filters=query.filters, limit=query.limit)
        if query.cursor is None:
            return plain
        return replace(plain, cursor=decode_cursor(query.cursor, plain, at))
    question = Question(
        kind=query.kind,
        asked=asked,
        metrics=_distinct(query.metrics, f"{at}/metrics"),
        filters=query.filters,
        compare=_compare(query, asked, now_us, at),
        exact=query.exact,
    )
    if isinstance(query, TotalsQuery):
        return question
    question = replace(question, dimensions=_distinct(query.dimensions, f"{at}/dimensions"), limit=query.limit)
    question = replace(question, order_by=_order(query, question, f"{at}/order_by"))
    if isinstance(query, BreakdownQuery):
        return question
    interval = ranges.auto_interval(asked) if query.interval == "auto" else query.interval
    try:
        found = ranges.buckets(asked, interval)
        if question.compare is not None:
            ranges.buckets(question.compare, interval)
    except TooManyBucketsError as error:
        raise ProblemError("too-many-buckets", str(error), errors=[Fault(f"{at}/interval", str(error))]) from error
    return replace(question, interval=interval, buckets=found)


def encode_cursor(cursor: Cursor, question: Question) -> str:
    """An opaque text that only continues the same question."""
    parts = [cursor.timestamp_us, cursor.partition, cursor.last_offset, question.fingerprint()]
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).rstrip(b"=").decode()


def decode_cursor(text: str, question: Question, at: str = "") -> Cursor:
    """The cursor that encode_cursor made. Raises ProblemError on any other text.

    A cursor grants nothing: the customer is bound separately, so a forged one only names another place in the
    caller's own events.
    """
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        parts = msgspec.json.decode(
            base64.b64decode(padded, altchars=b"-_", validate=True), type=tuple[int, int, int, str]
        )
        timestamp_us, partition, last_offset, fingerprint = parts
        if not (ranges.EARLIEST_US <= timestamp_us <= ranges.LATEST_US):
            raise ValueError("timestamp")
        if not (0 <= partition < 2**16 and 0 <= last_offset < 2**63):
            raise ValueError("position")
    except (UnicodeEncodeError, binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise ProblemError(
            "invalid-cursor",
            "the cursor is not one that this API gave out; start again without it",
            errors=[Fault(f"{at}/cursor", "not a cursor")],
        ) from error
    if fingerprint != question.fingerprint():
        raise ProblemError(
            "invalid-cursor",
            "the cursor belongs to another query: keep range (absolute times), filters and limit the same, as in "
            "the answer's `query`",
            errors=[Fault(f"{at}/cursor", "belongs to another query")],
        )
    return Cursor(timestamp_us, partition, last_offset)


def _distinct(items: list[Any], at: str) -> tuple[Any, ...]:
    names = [item.name for item in items]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ProblemError(
                "invalid-query", f"{name!r} is asked for twice", errors=[Fault(f"{at}/{i}", "asked for twice")]
            )
    return tuple(items)


def _compare(
    query: TotalsQuery | TimeseriesQuery | BreakdownQuery, asked: TimeRange, now_us: int, at: str
) -> TimeRange | None:
    try:
        if query.compare is None:
            return None
        if isinstance(query.compare, OtherRange):
            return ranges.resolve(query.compare.from_, query.compare.to, asked.tz, now_us)
        if query.compare == "previous_period":
            return ranges.previous_period(asked)
        return ranges.previous_year(asked)
    except RangeError as error:
        raise _range_problem(error, f"{at}/compare") from error


def _order(query: TimeseriesQuery | BreakdownQuery, question: Question, at: str) -> tuple[tuple[str, str], ...]:
    if not query.order_by:
        return ((question.metrics[0].name, "desc"),)
    for i, (name, _direction) in enumerate(query.order_by):
        if name not in question.columns:
            raise ProblemError(
                "invalid-query",
                f"order_by names {name[:80]!r}, which is no column of this query"
                + did_you_mean(name, question.columns),
                errors=[Fault(f"{at}/{i}/0", f"not a column{did_you_mean(name, question.columns)}")],
            )
    return tuple(query.order_by)


def _range_problem(error: RangeError, at: str) -> ProblemError:
    return ProblemError("invalid-query", str(error), errors=[Fault(at, str(error))])
