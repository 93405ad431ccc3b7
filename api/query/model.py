"""What `POST /v1/query` takes: one discriminated union over `kind`, or several under `queries`.

Owns the shape alone (pydantic, so that openapi.json says it); what the words mean at a given time is
question.py's. Unknown fields are errors with a suggestion. A further kind is a further class in `Query`.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from api.problems import Fault, ProblemError, did_you_mean, pointer
from api.query import filters
from api.query.terms import DIMENSIONS, FUNCTIONS, SIMPLE_METRICS, Dimension, Metric, TermError

METRICS_MAX: Final = 20
DIMENSIONS_MAX: Final = 4
LIMIT_MAX: Final = 1000
CURSOR_CHARS_MAX: Final = 400


def _metric(text: object) -> Metric:
    try:
        return Metric.parse(text)
    except TermError as error:
        raise PydanticCustomError("metric", "{detail}", {"detail": str(error)}) from error


def _dimension(text: object) -> Dimension:
    try:
        return Dimension.parse(text)
    except TermError as error:
        raise PydanticCustomError("dimension", "{detail}", {"detail": str(error)}) from error


def _filter(tree: object) -> filters.Filter:
    try:
        return filters.parse(tree)
    except filters.FilterError as error:
        raise PydanticCustomError("filter", "{detail}", {"detail": str(error), "pointer": error.pointer}) from error


def _order(item: object) -> tuple[str, str]:
    if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str) or item[1] not in ("asc", "desc"):
        raise PydanticCustomError("order", 'an order is [column, "asc" or "desc"]')
    return item[0], item[1]


MetricField = Annotated[
    Metric,
    PlainValidator(_metric),
    WithJsonSchema(
        {
            "type": "string",
            "description": f"{', '.join(SIMPLE_METRICS)}, or FUNCTION(value) or FUNCTION(props.NAME) "
            f"with one of {', '.join(FUNCTIONS)}",
            "examples": ["events", "users", "sum(value)", "p95(props.duration)"],
        }
    ),
]
DimensionField = Annotated[
    Dimension,
    PlainValidator(_dimension),
    WithJsonSchema(
        {
            "type": "string",
            "description": f"{', '.join(DIMENSIONS)}, or props.NAME",
            "examples": ["event", "country", "props.plan"],
        }
    ),
]
FilterField = Annotated[
    filters.Filter,
    PlainValidator(_filter),
    WithJsonSchema(
        {
            "type": "array",
            "description": '["and", [f, …]], ["or", [f, …]], ["not", f] or [operator, dimension, values]; operators: '
            + ", ".join(filters.OPERATORS),
            "minItems": 2,
            "maxItems": 3,
            "items": {},
            "examples": [["and", [["is", "event", ["signup"]], ["set", "country"]]]],
        }
    ),
]
OrderField = Annotated[
    tuple[str, str],
    PlainValidator(_order),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "string"},
            "description": "[metric or dimension of this query, asc or desc]",
            "examples": [["users", "desc"]],
        }
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Range(_Strict):
    """A half-open range of time: RFC 3339, local dates, or relative forms that snap to their unit."""

    from_: str = Field(alias="from", examples=["-7d", "2026-01-01", "2026-01-01T00:00:00Z"], max_length=40)
    to: str = Field(default="now", max_length=40)
    tz: str = Field(default="UTC", max_length=64, examples=["UTC", "Europe/Paris"])


class OtherRange(_Strict):
    """A range to compare with, in the query's own time zone."""

    from_: str = Field(alias="from", max_length=40)
    to: str = Field(max_length=40)


def _compare(value: object) -> object:
    if isinstance(value, str) and value not in ("previous_period", "previous_year"):
        raise PydanticCustomError(
            "compare",
            "{detail}",
            {
                "detail": f"compare is previous_period, previous_year or a range, not {value[:40]!r}"
                + did_you_mean(value, ("previous_period", "previous_year"))
            },
        )
    return value


Compare = Annotated[Literal["previous_period", "previous_year"] | OtherRange, BeforeValidator(_compare)]


class _Base(_Strict):
    range: Range
    filters: FilterField | None = None


class _Measured(_Base):
    metrics: list[MetricField] = Field(default=[Metric("events")], min_length=1, max_length=METRICS_MAX)
    compare: Compare | None = None
    exact: bool = Field(default=False, description="forbid sketches: every number is exact")


class TotalsQuery(_Measured):
    """The headline numbers of a range: one row."""

    kind: Literal["totals"]


class TimeseriesQuery(_Measured):
    """Numbers by interval, zero-filled; with dimensions, one series for each of the top `limit` tuples."""

    kind: Literal["timeseries"]
    interval: Literal["auto", "minute", "hour", "day", "week", "month"] = "auto"
    dimensions: list[DimensionField] = Field(default=[], max_length=DIMENSIONS_MAX)
    order_by: list[OrderField] = Field(default=[], max_length=4)
    limit: int = Field(default=10, ge=1, le=100)


class BreakdownQuery(_Measured):
    """Numbers by dimension values: the top `limit` tuples, the rest as `other`, and how many there are."""

    kind: Literal["breakdown"]
    dimensions: list[DimensionField] = Field(min_length=1, max_length=DIMENSIONS_MAX)
    order_by: list[OrderField] = Field(default=[], max_length=4)
    limit: int = Field(default=10, ge=1, le=LIMIT_MAX)


class EventsQuery(_Base):
    """The events themselves, newest first, page by page with `cursor`."""

    kind: Literal["events"]
    limit: int = Field(default=50, ge=1, le=LIMIT_MAX)
    cursor: str | None = Field(default=None, max_length=CURSOR_CHARS_MAX)


AnyQuery = TotalsQuery | TimeseriesQuery | BreakdownQuery | EventsQuery
Query = Annotated[AnyQuery, Field(discriminator="kind")]
KINDS: Final = ("totals", "timeseries", "breakdown", "events")
ONE: Final[TypeAdapter[Any]] = TypeAdapter(Query)


class QueryBatch(_Strict):
    """Several queries at once, a page's cards; the answers come in the same order."""

    queries: list[Query] = Field(min_length=1)


BATCH: Final = TypeAdapter(QueryBatch)


def parse_body(body: bytes, *, batch_max: int) -> list[AnyQuery] | AnyQuery:
    """A single query, or the list of a batch. Raises ProblemError with a pointer for every fault."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError("invalid-json", f"the body is not JSON: {error}") from error
    return parse(document, batch_max=batch_max)


def parse(document: object, *, batch_max: int) -> list[AnyQuery] | AnyQuery:
    """As parse_body, of decoded JSON."""
    if not isinstance(document, dict):
        raise ProblemError("invalid-query", 'the body is an object with "kind", or with "queries"')
    if "queries" in document:
        queries = document["queries"]
        if isinstance(queries, list) and len(queries) > batch_max:
            raise ProblemError(
                "invalid-query",
                f"a request has at most {batch_max} queries, this one has {len(queries)}",
                errors=[Fault("/queries", f"at most {batch_max}")],
            )
        queries = _validated(BATCH, document).queries
        assert isinstance(queries, list)
        return queries
    one: AnyQuery = _validated(ONE, document)
    return one


def _validated(adapter: TypeAdapter[Any], document: object) -> Any:
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=True)
        faults = [_fault(details) for details in found[:20]]
        raise ProblemError(
            "invalid-query",
            f"{len(found)} fault{'s' if len(found) > 1 else ''} in the query; first, at "
            f"{faults[0].pointer or 'the top'}: {faults[0].detail}",
            errors=faults,
        ) from error


def _fault(details: ErrorDetails) -> Fault:
    # The discriminator's tag stands in pydantic's path but not in the document.
    at = [part for i, part in enumerate(details["loc"]) if not _is_tag(details["loc"], i)]
    where = pointer(at)
    message = details["msg"]
    kind = details["type"]
    if kind == "extra_forbidden":
        message = f"unknown field{did_you_mean(str(at[-1]), _known_fields(details['loc']))}"
    elif kind == "union_tag_invalid":
        tag = str(details.get("ctx", {}).get("tag", ""))
        message = f"unknown kind {tag[:40]!r}{did_you_mean(tag, KINDS)}; known: {', '.join(KINDS)}"
        where += "/kind"
    elif kind == "union_tag_not_found":
        message = f"`kind` is missing; known: {', '.join(KINDS)}"
        where += "/kind"
    elif kind == "literal_error":
        expected = str(details.get("ctx", {}).get("expected", ""))
        words = expected.replace("'", "").replace(" or ", ", ").split(", ")
        message = f"{message}{did_you_mean(str(details.get('input'))[:40], words)}"
    return Fault(where + str(details.get("ctx", {}).get("pointer", "")), message)


_MODELS: Final[dict[str, type[BaseModel]]] = {
    "totals": TotalsQuery,
    "timeseries": TimeseriesQuery,
    "breakdown": BreakdownQuery,
    "events": EventsQuery,
}


def _is_tag(loc: tuple[int | str, ...], index: int) -> bool:
    part = loc[index]
    if part in ("OtherRange", "literal['previous_period','previous_year']"):
        return True
    if part not in _MODELS:
        return False
    return index == 0 or (index == 2 and loc[0] == "queries")


def _known_fields(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] | None = QueryBatch
    for part in loc[:-1]:
        if str(part) in _MODELS:
            model = _MODELS[str(part)]
        elif part == "range":
            model = Range
        elif part == "OtherRange":
            model = OtherRange
    assert model is not None
    return [field.alias or name for name, field in model.model_fields.items()]
