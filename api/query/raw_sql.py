"""SQL over the raw events in ClickHouse. Pure: text with `{name:Type}` parameters, and their values.

Everything that a request brought travels as a bound parameter; the text is made of constants and numbers of ours.
`FINAL` collapses a batch that was inserted twice (rows are keyed by their position in the log).
"""

from dataclasses import dataclass, field
from typing import Any, Final

from api.query.filters import Filter, Leaf
from api.query.question import Question
from api.query.terms import QUANTILES, VALUE, Dimension, Metric

COLUMN: Final = {"event": "name"}
"""API's name of a dimension → the table's column, where they differ."""
COMPARISONS: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

EVENT_FIELDS: Final = (
    "message_id",
    "event",
    "type",
    "user_id",
    "anonymous_id",
    "timestamp",
    "properties",
    "path",
    "referrer_domain",
    "utm_source",
    "country",
    "device",
    "browser",
    "os",
    "value",
    "received_at",
)
"""Columns of an `events` answer."""

USERS: Final = "uniqExactIf(user_hash, user_hash != 0)"


@dataclass(slots=True)
class Parameters:
    """Bound values, each under a name of its own."""

    values: dict[str, Any] = field(default_factory=dict)

    def bind(self, value: Any, kind: str) -> str:
        """The placeholder of `value`."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL text with its bound parameters."""

    text: str
    values: dict[str, Any]


def totals(question: Question, customer_id: int) -> Statement:
    """One row: the measures."""
    bound = Parameters()
    where = _where(question, customer_id, bound)
    measures = ", ".join(_measure(metric, bound) for metric in question.metrics)
    return Statement(f"SELECT {measures} FROM events FINAL WHERE {where}", bound.values)


def breakdown(question: Question, customer_id: int) -> Statement:
    """Rows of the dimensions and measures, then: count of tuples, and the sum of each measure over all tuples."""
    bound = Parameters()
    where = _where(question, customer_id, bound)
    names = [f"d{i}" for i in range(len(question.dimensions))]
    dimensions = [f"{text(item, bound)} AS d{i}" for i, item in enumerate(question.dimensions)]
    measures = [f"{_measure(item, bound)} AS m{i}" for i, item in enumerate(question.metrics)]
    inner = (
        f"SELECT {', '.join([*dimensions, *measures])} FROM events FINAL WHERE {where} GROUP BY {', '.join(names)}"
    )
    sums = [f"sum(m{i}) OVER ()" for i, metric in enumerate(question.metrics) if metric.is_additive]
    columns = [*names, *(f"m{i}" for i in range(len(measures))), "count() OVER () AS tuples", *sums]
    limit = "" if question.tuples is not None else f" LIMIT {question.limit}"
    return Statement(f"SELECT {', '.join(columns)} FROM ({inner}) ORDER BY {_order(question)}{limit}", bound.values)


def timeseries(question: Question, customer_id: int, tuples: list[tuple[str, ...]] | None) -> Statement:
    """Rows of the bucket's start (microseconds), the dimensions and measures; `tuples` restricts the dimensions."""
    bound = Parameters()
    where = _where(question, customer_id, bound)
    edges = ",".join(str(bucket.from_us) for bucket in question.buckets)
    dimensions = [f"{text(item, bound)} AS d{i}" for i, item in enumerate(question.dimensions)]
    if tuples is not None:
        where += f" AND {_among(question, tuples, bound)}"
    measures = [_measure(metric, bound) for metric in question.metrics]
    bucket = f"roundDown(toUnixTimestamp64Micro(timestamp), [{edges}]) AS bucket"
    keys = ", ".join(["bucket", *(f"d{i}" for i in range(len(dimensions)))])
    return Statement(
        f"SELECT {', '.join([bucket, *dimensions, *measures])} FROM events FINAL WHERE {where} GROUP BY {keys}",
        bound.values,
    )


def events(question: Question, customer_id: int, from_us: int, limit: int) -> Statement:
    """Events from `from_us` on, before the range's end or cursor, newest first: EVENT_FIELDS, then their position."""
    bound = Parameters()
    where = _where(question, customer_id, bound, from_us=from_us)
    if question.cursor is not None:
        at = question.cursor
        where += (
            f" AND (toUnixTimestamp64Micro(timestamp), log_partition, log_offset)"
            f" < ({bound.bind(at.timestamp_us, 'Int64')}, {bound.bind(at.partition, 'UInt16')},"
            f" {bound.bind(at.last_offset, 'UInt64')})"
        )
    columns = {"event": "name", "value": "value_e6", "timestamp": "1", "received_at": _micros("received_at")}
    selected = ", ".join(columns.get(name, name) for name in EVENT_FIELDS)
    return Statement(
        f"SELECT {selected}, {_micros('timestamp')} AS at, log_partition, log_offset FROM events FINAL"
        f" WHERE {where} ORDER BY at DESC, log_partition DESC, log_offset DESC LIMIT {limit}",
        bound.values,
    )


def position(partition: int) -> Statement:
    """How far the raw sink has inserted a partition."""
    bound = Parameters()
    return Statement(
        "SELECT topic_id, next_offset, watermark_us, greatest(receive_us, complete_us) FROM sink_cursor FINAL"
        f" WHERE sink = 'events' AND log_partition = {bound.bind(partition, 'UInt16')}"
        " ORDER BY updated_at DESC LIMIT 1",
        bound.values,
    )


def _micros(column: str) -> str:
    return f"toUnixTimestamp64Micro({column})"


def _instant(us: int, bound: Parameters) -> str:
    return f"fromUnixTimestamp64Micro({bound.bind(us, 'Int64')}, 'UTC')"


def _where(question: Question, customer_id: int, bound: Parameters, *, from_us: int | None = None) -> str:
    start_us = question.asked.from_us if from_us is None else from_us
    parts = [
        f"customer_id = {bound.bind(customer_id, 'Int64')}",
        f"timestamp >= {_instant(start_us, bound)}",
        f"timestamp < {_instant(question.asked.to_us, bound)}",
    ]
    if question.filters is not None:
        parts.append(_filter(question.filters, bound))
    if question.tuples is not None:
        parts.append(_among(question, list(question.tuples), bound))
    return " AND ".join(parts)


def _among(question: Question, tuples: list[tuple[str, ...]], bound: Parameters) -> str:
    if not tuples:
        return "false"
    texts = [text(item, bound) for item in question.dimensions]
    if len(texts) == 1:
        return f"{texts[0]} IN ({', '.join(bound.bind(value[0], 'String') for value in tuples)})"
    listed = ", ".join("(" + ", ".join(bound.bind(item, "String") for item in value) + ")" for value in tuples)
    return f"({', '.join(texts)}) IN ({listed})"


def _order(question: Question) -> str:
    names = [dimension.name for dimension in question.dimensions]
    metrics = [metric.name for metric in question.metrics]
    terms = []
    for name, direction in question.order_by:
        column = f"d{names.index(name)}" if name in names else f"m{metrics.index(name)}"
        terms.append(f"{column} {direction.upper()} NULLS LAST")
    return ", ".join([*terms, *(f"d{i}" for i in range(len(names)))])


def text(dimension: Dimension, bound: Parameters) -> str:
    """A dimension as text; unset is the empty string. A property that is no string is its JSON."""
    name = dimension.property_name
    if name is None:
        return f"toString({COLUMN.get(dimension.name, dimension.name)})"
    key = bound.bind(name, "String")
    return (
        f"multiIf(JSONType(properties, {key}) = 'String', JSONExtractString(properties, {key}),"
        f" JSONType(properties, {key}) = 'Null', '', JSONExtractRaw(properties, {key}))"
    )


def _number(field_name: str, bound: Parameters) -> str:
    """`value` in millionths or a numeric property; NULL where it is none."""
    if field_name == VALUE:
        return "value_e6"
    key = bound.bind(Dimension(field_name).property_name, "String")
    return f"JSONExtract(properties, {key}, 'Nullable(Float64)')"


def _measure(metric: Metric, bound: Parameters) -> str:
    """An aggregate; one over `value` is in millionths but for counts."""
    function = metric.function
    if function == "events":
        return "count()"
    if function == "users":
        return USERS
    if function == "sessions":
        return "uniqExactIf(session_id, session_id != '')"
    if function == "events_per_user":
        return f"count() / nullIf({USERS}, 0)"
    assert metric.field is not None
    number = _number(metric.field, bound)
    if function == "count":
        return f"count({number})"
    if function == "sum":
        return f"ifNull(sum({number}), 0)"
    if function == "avg":
        return f"sum({number}) / nullIf(count({number}), 0)"
    if function in ("min", "max"):
        return f"{function}({number})"
    # The value of rank floor(q * (n - 1)), as the histograms define it; quantileExact takes floor(q * n).
    rank = f"toUInt64(floor({QUANTILES[function]} * (count({number}) - 1)))"
    return f"if(count({number}) = 0, NULL, arraySort(groupArray({number}))[1 + {rank}])"


def _filter(tree: Filter, bound: Parameters) -> str:
    if isinstance(tree, Leaf):
        return _leaf(tree, bound)
    items = [_filter(item, bound) for item in tree.items]
    if tree.combiner == "not":
        return f"NOT ({items[0]})"
    return "(" + (" AND " if tree.combiner == "and" else " OR ").join(items) + ")"


def _leaf(leaf: Leaf, bound: Parameters) -> str:
    operator = leaf.operator
    if operator in COMPARISONS:
        (number,) = leaf.values
        assert isinstance(number, float)
        limit = bound.bind(number * 1_000_000 if leaf.dimension.name == VALUE else number, "Float64")
        return f"ifNull({_number(leaf.dimension.name, bound)} {COMPARISONS[operator]} {limit}, false)"
    if leaf.dimension.name == VALUE:
        return f"value_e6 IS {'NOT ' if operator == 'set' else ''}NULL"
    place = text(leaf.dimension, bound)
    if operator in ("set", "not_set"):
        return f"{place} {'!=' if operator == 'set' else '='} ''"
    values = [bound.bind(value, "String") for value in leaf.values]
    match operator:
        case "is":
            return f"{place} IN ({', '.join(values)})"
        case "is_not":
            return f"{place} NOT IN ({', '.join(values)})"
        case "contains":
            return f"arrayExists(v -> position({place}, v) > 0, [{', '.join(values)}])"
        case "not_contains":
            return f"NOT arrayExists(v -> position({place}, v) > 0, [{', '.join(values)}])"
        case "matches":
            return "(" + " OR ".join(f"match({place}, {value})" for value in values) + ")"
        case other:
            raise AssertionError(other)
