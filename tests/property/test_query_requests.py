"""Whatever is sent as a query is understood or the caller's fault; what is understood is so the same again."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from api.problems import ProblemError
from api.query import filters, model, question
from api.query.question import Cursor
from api.query.terms import DIMENSIONS

NOW_US = 1_774_952_430_000_000

text = st.text(max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
dimensions = st.sampled_from(DIMENSIONS) | text.map(lambda name: f"props.{name}")
leaves = st.one_of(
    st.tuples(st.sampled_from(filters.TEXT_OPERATORS), dimensions, st.lists(text, min_size=1, max_size=3)),
    st.tuples(st.sampled_from(filters.NUMBER_OPERATORS), st.just("value"), st.floats(allow_nan=False)),
    st.tuples(st.sampled_from(filters.PRESENCE_OPERATORS), dimensions),
).map(list)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(("and", "or")), st.lists(inner, min_size=1, max_size=3)).map(list),
        inner.map(lambda item: ["not", item]),
    ),
    max_leaves=8,
)
metrics = st.sampled_from(["events", "users", "sum(value)", "p95(props.x)", "sessions", "events_per_user"]) | text
times = st.sampled_from(["-7d", "-24h", "-1y", "today", "now", "2026-01-01", "2026-01-01T00:00:00Z"]) | text
near_queries = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([*model.KINDS, "funnel"]),
        "range": st.fixed_dictionaries(
            {"from": times}, optional={"to": times, "tz": st.sampled_from(["UTC", "Europe/Paris"]) | text}
        ),
    },
    optional={
        "metrics": st.lists(metrics, max_size=3) | json_values,
        "dimensions": st.lists(dimensions, max_size=3) | json_values,
        "filters": trees | json_values,
        "interval": st.sampled_from(["auto", "day", "month", "minute"]) | json_values,
        "compare": st.sampled_from(["previous_period", "previous_year"]) | json_values,
        "order_by": st.lists(st.tuples(text, text).map(list), max_size=2) | json_values,
        "limit": st.integers(-5, 2000) | json_values,
        "cursor": text | json_values,
        "exact": json_values,
    },
)


def understood(document: object) -> list[question.Question]:
    """The questions of a request; none where it is refused as the caller's fault."""
    try:
        body = json.dumps(document).encode()
        parsed = model.parse_body(body, batch_max=16)
        queries = parsed if isinstance(parsed, list) else [parsed]
        return [question.resolve(query, NOW_US) for query in queries]
    except ProblemError as problem:
        assert problem.status == 400
        assert len(msgspec.json.encode(problem.document("trace"))) < 30_000
        return []


@given(json_values)
def test_any_json_is_refused_or_understood(document: Any) -> None:
    understood(document)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_understood(body: bytes) -> None:
    try:
        model.parse_body(body, batch_max=16)
    except ProblemError as problem:
        assert problem.status == 400


@given(near_queries)
def test_what_is_understood_is_understood_the_same_again(document: dict[str, Any]) -> None:
    for found in understood(document):
        (again,) = understood(found.written())
        assert again.written() == found.written()
        assert again.fingerprint() == found.fingerprint()


@given(trees)
def test_a_filter_is_written_as_it_is_read(tree: list[Any]) -> None:
    try:
        parsed = filters.parse(tree)
    except filters.FilterError:
        return
    assert filters.parse(filters.written(parsed)) == parsed


@given(st.integers(946_684_800_000_000, 4_102_444_800_000_000), st.integers(0, 2**16 - 1), st.integers(0, 2**63 - 1))
def test_a_cursor_comes_back_as_it_was(timestamp_us: int, partition: int, last_offset: int) -> None:
    (asked,) = understood({"kind": "events", "range": {"from": "2026-01-01", "to": "2026-02-01"}})
    cursor = Cursor(timestamp_us, partition, last_offset)
    assert question.decode_cursor(question.encode_cursor(cursor, asked), asked) == cursor
