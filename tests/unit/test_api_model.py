"""What requests mean, and how each wrong one is refused: where, why, and what was probably meant."""

from typing import Any

import msgspec
import pytest

from api.problems import TITLES, TYPE_PREFIX, ProblemError
from api.query import filters, model, question
from api.query.filters import DEPTH_MAX, LEAVES_MAX, Branch, Leaf
from api.query.terms import Dimension, Metric

NOW = 1_774_952_430_000_000
RANGE = {"from": "-7d"}


def refused(document: object, *, batch_max: int = 16) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        model.parse_body(msgspec.json.encode(document), batch_max=batch_max)
    assert caught.value.status == 400
    return caught.value


def asked(**fields: Any) -> question.Question:
    parsed = model.parse({"range": RANGE} | fields, batch_max=16)
    assert not isinstance(parsed, list)
    return question.resolve(parsed, NOW)


def test_the_specifications_example() -> None:
    example = (
        '{"kind":"timeseries","metrics":["events","users"],"range":{"from":"-7d","to":"now","tz":"Europe/Paris"},'
        '"interval":"auto","compare":"previous_period","dimensions":["props.plan"],'
        '"filters":["and",[["is","event",["signup"]]]],"order_by":[["users","desc"]],"limit":100}'
    )
    parsed = model.parse_body(example.encode(), batch_max=1)
    assert not isinstance(parsed, list)
    found = question.resolve(parsed, NOW)
    assert found.metrics == (Metric("events"), Metric("users"))
    assert found.dimensions == (Dimension("props.plan"),)
    assert found.filters == Branch("and", (Leaf("is", Dimension("event"), ("signup",)),))
    assert (found.interval, len(found.buckets)) == ("day", 8)
    assert found.compare is not None


def test_the_normalised_query_asks_the_same_again() -> None:
    first = asked(
        kind="breakdown",
        metrics=["events", "p95(value)"],
        dimensions=["event", "props.a/b~c"],
        filters=["or", [["not", ["contains", "path", ["a"]]], ["gt", "props.n", 3.5], ["not_set", "country"]]],
        compare="previous_year",
        limit=7,
    )
    again = model.parse(first.written(), batch_max=1)
    assert not isinstance(again, list)
    assert question.resolve(again, NOW + 10**12) == first


@pytest.mark.parametrize(
    ("document", "pointer", "words"),
    [
        ([], "", "object"),
        ({"kind": "totalz", "range": RANGE}, "/kind", 'did you mean "totals"'),
        ({"range": RANGE}, "/kind", "missing"),
        ({"kind": "totals"}, "/range", "required"),
        ({"kind": "totals", "range": RANGE, "metrcs": ["events"]}, "/metrcs", 'did you mean "metrics"'),
        ({"kind": "totals", "range": {"from": "-7d", "zone": "UTC"}}, "/range/zone", "unknown field"),
        ({"kind": "totals", "range": {"from": 7}}, "/range/from", "string"),
        ({"kind": "totals", "range": RANGE, "metrics": ["event"]}, "/metrics/0", 'did you mean "events"'),
        ({"kind": "totals", "range": RANGE, "metrics": []}, "/metrics", "at least 1"),
        ({"kind": "totals", "range": RANGE, "metrics": ["sum(price)"]}, "/metrics/0", "props.NAME"),
        ({"kind": "totals", "range": RANGE, "metrics": ["total(value)"]}, "/metrics/0", "unknown function"),
        ({"kind": "totals", "range": RANGE, "limit": 3}, "/limit", "unknown field"),
        ({"kind": "breakdown", "range": RANGE}, "/dimensions", "required"),
        ({"kind": "breakdown", "range": RANGE, "dimensions": ["county"]}, "/dimensions/0", 'mean "country"'),
        ({"kind": "breakdown", "range": RANGE, "dimensions": ["props."]}, "/dimensions/0", "1 to 200"),
        ({"kind": "breakdown", "range": RANGE, "dimensions": ["event"], "limit": 0}, "/limit", "greater"),
        ({"kind": "timeseries", "range": RANGE, "interval": "dayly"}, "/interval", "day"),
        ({"kind": "totals", "range": RANGE, "compare": "previous_perod"}, "/compare", "previous_period"),
        ({"kind": "totals", "range": RANGE, "filters": ["iss", "event", ["x"]]}, "/filters/0", 'mean "is"'),
        ({"kind": "totals", "range": RANGE, "filters": ["is", "evnt", ["x"]]}, "/filters/1", 'mean "event"'),
        ({"kind": "totals", "range": RANGE, "filters": ["and", [["is", "event"]]]}, "/filters/1/0", "values"),
        ({"kind": "totals", "range": RANGE, "filters": ["gt", "event", 1]}, "/filters/1", "value or props"),
        ({"kind": "totals", "range": RANGE, "filters": ["gt", "value", "1"]}, "/filters/2", "number"),
        ({"kind": "totals", "range": RANGE, "filters": ["is", "event", [None]]}, "/filters/2/0", "strings"),
        ({"kind": "totals", "range": RANGE, "filters": ["is", "event", ["\x00"]]}, "/filters/2/0", "U+0000"),
        ({"kind": "totals", "range": RANGE, "filters": {"event": "x"}}, "/filters", "array"),
        ({"queries": []}, "/queries", "at least 1"),
        ({"queries": [{"kind": "totals", "range": RANGE}, {"kind": "x"}]}, "/queries/1/kind", "unknown kind"),
        (
            {"queries": [{"kind": "totals", "range": RANGE, "metricss": []}]},
            "/queries/0/metricss",
            'did you mean "metrics"',
        ),
        ({"queries": [1] * 17}, "/queries", "at most 16"),
    ],
)
def test_wrong_queries_say_where_and_why(document: object, pointer: str, words: str) -> None:
    problem = refused(document)
    said = problem.document("trace")
    assert said["type"] == TYPE_PREFIX + "invalid-query"
    if pointer:
        first = said["errors"][0]
        assert first["pointer"] == pointer
        assert words in first["detail"]
    else:
        assert words in said["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"kind":NaN}', b"[" * 5000])
def test_what_is_no_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        model.parse_body(body, batch_max=1)
    assert caught.value.slug == "invalid-json"


def test_filters_are_bounded() -> None:
    deep: list[Any] = ["set", "event"]
    for _ in range(DEPTH_MAX):
        deep = ["not", deep]
    assert "deep" in refused({"kind": "totals", "range": RANGE, "filters": deep}).detail
    wide = ["and", [["set", "event"]] * 10_000]
    assert "at most" in refused({"kind": "totals", "range": RANGE, "filters": wide}).detail
    spread = ["and", [["or", [["set", "event"]] * 50] for _ in range(3)]]
    assert f"at most {LEAVES_MAX}" in refused({"kind": "totals", "range": RANGE, "filters": spread}).detail
    long = ["matches", "event", ["(a+)+" * 100]]
    assert "characters" in refused({"kind": "totals", "range": RANGE, "filters": long}).detail


def test_ten_thousand_faults_make_a_short_answer() -> None:
    problem = refused({"kind": "totals", "range": RANGE, "metrics": ["x" * 1000] * 10_000})
    assert len(msgspec.json.encode(problem.document("trace"))) < 20_000


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"kind": "totals", "metrics": ["events", "events"]}, "/metrics/1"),
        ({"kind": "totals", "range": {"from": "never"}}, "/range/from"),
        ({"kind": "totals", "range": {"from": "-7d", "tz": "Nowhere"}}, "/range/tz"),
        ({"kind": "totals", "compare": {"from": "now", "to": "today"}}, "/compare"),
        ({"kind": "totals", "range": {"from": "2000-01-02"}, "compare": "previous_period"}, "/compare"),
        ({"kind": "breakdown", "dimensions": ["event"], "order_by": [["users", "desc"]]}, "/order_by/0/0"),
        ({"kind": "timeseries", "range": {"from": "-10y"}, "interval": "minute"}, "/interval"),
        ({"kind": "events", "cursor": "nonsense!"}, "/cursor"),
        ({"kind": "events", "cursor": "WzEsMiwzXQ"}, "/cursor"),
    ],
)
def test_faults_that_only_show_with_their_meaning(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ProblemError) as caught:
        asked(**fields)
    assert caught.value.status == 400
    assert caught.value.errors[0].pointer == pointer


def test_a_cursor_continues_its_own_query_only() -> None:
    mine = asked(kind="events", limit=5, range={"from": "2026-01-01", "to": "2026-02-01"})
    place = question.Cursor(1_768_000_000_000_000, 3, 99)
    text = question.encode_cursor(place, mine)
    assert question.decode_cursor(text, mine) == place
    other = asked(kind="events", limit=6, range={"from": "2026-01-01", "to": "2026-02-01"})
    with pytest.raises(ProblemError, match="another query"):
        question.decode_cursor(text, other)


def test_leaves_are_found_wherever_they_are() -> None:
    tree = filters.parse(["and", [["not", ["is", "path", "/"]], ["or", [["set", "event"], ["set", "value"]]]]])
    assert [leaf.dimension.name for leaf in filters.leaves(tree)] == ["path", "event", "value"]


def test_problem_types_are_what_clients_rely_on() -> None:
    """Types are for ever: taking one away or changing its status breaks clients."""
    assert {slug: status for slug, (status, _title) in TITLES.items()} == {
        "invalid-json": 400,
        "invalid-query": 400,
        "invalid-request": 400,
        "invalid-cursor": 400,
        "too-many-buckets": 400,
        "query-too-large": 413,
        "unauthenticated": 401,
        "forbidden": 403,
        "cross-site": 403,
        "not-found": 404,
        "method-not-allowed": 405,
        "not-answerable": 422,
        "query-too-expensive": 422,
        "too-many-requests": 429,
        "internal": 500,
        "shard-unavailable": 503,
        "source-unavailable": 503,
        "sessions-unavailable": 503,
        "live-unavailable": 503,
    }
