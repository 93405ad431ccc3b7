"""The shape of answers: columns, rows, comparison, completeness. Pure.

The pydantic models at the end are what openapi.json shows; a test holds real answers against them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.query import raw_sql
from api.query.question import Cursor, Question, encode_cursor
from api.query.ranges import rfc3339
from api.query.result import EventsPage, Number, Result
from api.query.terms import Metric

_EVENT_TYPES = {"timestamp": "time", "received_at": "time", "properties": "object", "value": "number"}


def measured(question: Question, result: Result, compared: Result | None) -> dict[str, Any]:
    """The answer of totals, timeseries or breakdown, without `meta`."""
    answer: dict[str, Any] = {"columns": _columns(question), "rows": _rows(question, result)}
    if question.kind == "breakdown":
        answer["total_rows"] = result.total_rows
        answer["other"] = None if result.other is None else [*(None for _ in question.dimensions), *result.other]
    answer["compare"] = None
    if compared is not None:
        then = question.compared()
        assert then is not None
        answer["compare"] = {"range": then.written()["range"], "rows": _rows(then, compared)}
    answer["next_cursor"] = None
    answer["query"] = question.written()
    return answer


def events(question: Question, page: EventsPage) -> dict[str, Any]:
    """The answer of events, without `meta`."""
    following = Cursor(*page.last) if page.more and page.last else None
    return {
        "columns": [{"name": name, "type": _EVENT_TYPES.get(name, "string")} for name in raw_sql.EVENT_FIELDS],
        "rows": [[event[name] for name in raw_sql.EVENT_FIELDS] for event in page.events],
        "compare": None,
        "next_cursor": encode_cursor(following, question) if following else None,
        "query": question.written(),
    }


def _columns(question: Question) -> list[dict[str, str]]:
    columns = [{"name": "time", "type": "time"}] if question.kind == "timeseries" else []
    columns += [{"name": dimension.name, "type": "string"} for dimension in question.dimensions]
    return columns + [{"name": metric.name, "type": _type(metric)} for metric in question.metrics]


def _type(metric: Metric) -> str:
    return "integer" if metric.function in ("events", "users", "sessions", "count") else "number"


def _rows(question: Question, result: Result) -> list[list[Any]]:
    if question.kind != "timeseries":
        return [[*_shown(group.values), *group.measures] for group in result.groups]
    nothing: tuple[Number, ...] = tuple(0 if metric.is_count else None for metric in question.metrics)
    series: dict[tuple[str, ...], dict[int, tuple[Number, ...]]] = {} if question.dimensions else {(): {}}
    for group in result.groups:
        assert group.bucket is not None
        series.setdefault(group.values, {})[group.bucket] = group.measures
    zone = question.asked.zone
    times = [rfc3339(bucket.start_us, zone) for bucket in question.buckets]
    return [
        [time, *_shown(values), *found.get(i, nothing)]
        for values, found in series.items()
        for i, time in enumerate(times)
    ]


def _shown(values: tuple[str, ...]) -> list[str | None]:
    """Unset is null outside, the empty string inside."""
    return [value or None for value in values]


class Column(BaseModel):
    """A column of `rows`."""

    name: str
    type: str = Field(description="time (RFC 3339), string, integer, number or object")


class OpenBucket(BaseModel):
    """An interval that is not final and whole."""

    time: str
    state: str = Field(description="incomplete, provisional or clipped")


class Meta(BaseModel):
    """How complete the answer is."""

    model_config = ConfigDict(extra="forbid")

    as_of: str | None = Field(description="every event received by then is in the answer; null: nothing stored yet")
    freshness_s: float | None = Field(description="now minus as_of")
    final_until: str | None = Field(description="intervals that end by then are final")
    late_events: int | None = Field(description="events counted after their window was final, where known")
    exact: bool = Field(description="false where a sketch or a folded tuple had a part in it, or in its comparison")
    users: str = Field(description="unstitched: user_id, else anonymous_id")
    partial_shards: list[str]
    source: str = Field(description="postgres (rollups) or clickhouse (raw events)")
    source_reason: str | None = Field(default=None, description="why the raw events were asked")
    cached: bool
    elapsed_ms: float
    rows_read: int
    open_buckets: list[OpenBucket] = Field(default=[], description="a timeseries' intervals that are not final")


class ComparisonMeta(BaseModel):
    """How complete the compared rows are; they may come from another source than the answer's own."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="postgres (rollups) or clickhouse (raw events)")
    exact: bool
    as_of: str | None
    final_until: str | None


class Comparison(BaseModel):
    """The same over the range compared with; a breakdown's rows are of the same tuples, in the same order."""

    range: dict[str, str]
    rows: list[list[Any]]
    meta: ComparisonMeta


class Answer(BaseModel):
    """The answer of one query."""

    model_config = ConfigDict(extra="forbid")

    columns: list[Column]
    rows: list[list[Any]] = Field(description="arrays in the order of `columns`")
    total_rows: int | None = Field(default=None, description="tuples of a breakdown, whatever its limit")
    other: list[Any] | None = Field(default=None, description="what a breakdown's limit cut off, where it adds up")
    compare: Comparison | None
    next_cursor: str | None
    query: dict[str, Any] = Field(description="the query as it was understood, with absolute times")
    meta: Meta


class AnswerBatch(BaseModel):
    """Answers in the order of `queries`; one that failed is `{"error": problem}` in its place."""

    answers: list[Answer | dict[str, Any]]
