"""A tracking plan: what is refused when it is set, what a violation says, and that judging stays cheap."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import UsageError
from headrace.shards.plan_schema import (
    DEPTH_MAX,
    PATTERN_CHARS_MAX,
    SUBSCHEMAS_MAX,
    check_schema,
    compile_schema,
    plain_schema,
)
from headrace.shards.plan_schema import (
    ENUM_VALUES_MAX as SCHEMA_ENUM_VALUES_MAX,
)
from headrace.shards.plan_violations import Rule
from headrace.shards.plans import EVENTS_MAX, PLAN_BYTES_MAX, parse_plan
from producers.gateway.plan import UNPLANNED, CompiledPlan, Violation
from tests.unit.plan_examples import GOOD, ORDER, PROPERTIES, judged, plan

# What a violation says


@pytest.mark.parametrize(
    ("schema", "properties", "path", "rule", "expected"),
    [
        (ORDER, {**GOOD, "total": "1.5"}, "$.total", "type", '"number"'),
        (ORDER, {**GOOD, "total": -1}, "$.total", "minimum", "0"),
        (ORDER, {"order_id": "AB-1"}, "$.total", "required", ""),
        (ORDER, {**GOOD, "order_id": "x"}, "$.order_id", "pattern", '"^[A-Z]{2}-[0-9]+$"'),
        (ORDER, {**GOOD, "currency": "JPY"}, "$.currency", "enum", '["EUR","USD"]'),
        (ORDER, {**GOOD, "lines": [{"sku": 1}, {}]}, "$.lines[1].sku", "required", ""),
        (ORDER, {**GOOD, "at": "yesterday"}, "$.at", "format", '"date-time"'),
        ({"additionalProperties": False}, {"a b": 1}, '$["a b"]', "additionalProperties", ""),
        ({"properties": {"a": True}, "additionalProperties": False}, {"b": 1}, "$.b", "additionalProperties", ""),
        ({"properties": {"a": False}}, {"a": 1}, "$.a", "false", ""),
        ({"properties": {"a": {"not": {"type": "null"}}}}, {"a": None}, "$.a", "not", ""),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, {"a": 1}, "$.a", "anyOf", ""),
        ({"properties": {"a": {"oneOf": [{"type": "string"}, {"const": "x"}]}}}, {"a": "x"}, "$.a", "oneOf", ""),
        (
            {"$defs": {"id": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/id"}}},
            {"a": 1},
            "$.a",
            "type",
            '"string"',
        ),
    ],
)
def test_a_violation_names_event_property_and_rule(
    schema: Any, properties: Any, path: str, rule: str, expected: str
) -> None:
    found = judged(plan(schema), properties)
    assert found is not None
    assert (found.path, found.rule.rule, found.expected) == (path, rule, expected)
    assert found.rule.path == path.replace("[1]", "[*]"), "counted for all elements of a list together"
    assert found.sentence == f"event 'order' breaks its plan at {path}: {rule} {expected}".rstrip()


def test_what_is_as_planned_breaks_nothing() -> None:
    assert judged(plan(), GOOD) is None
    assert judged(plan(), GOOD | {"more": [1, {"x": None}], "total": 10**30}) is None


def test_a_value_is_never_told() -> None:
    """What a sender put into a property may be personal; a sentence goes into headers, answers and logs."""
    for properties in ({**GOOD, "order_id": "secret"}, {**GOOD, "currency": "secret"}, {**GOOD, "total": "secret"}):
        found = judged(plan(), properties)
        assert found is not None
        assert "secret" not in repr(found) + found.sentence


# Modes and names


@pytest.mark.parametrize(
    ("of_plan", "of_event", "told"),
    [
        ("off", None, None),
        ("off", "reject", None),
        ("warn", None, "warn"),
        ("warn", "reject", "reject"),
        ("reject", None, "reject"),
        ("reject", "warn", "warn"),
        ("reject", "off", None),
    ],
)
def test_an_events_own_mode_comes_before_the_plans_unless_that_is_off(
    of_plan: str, of_event: str | None, told: str | None
) -> None:
    own = {} if of_event is None else {"mode": of_event}
    made = plan(mode=of_plan, events={"order": {"schema": ORDER} | own}, unplanned="reject")
    found = judged(made, {})
    assert (None if found is None else found.rule.mode) == told
    other = judged(made, {}, name="other")
    assert (other is None) == (of_plan == "off")


def test_track_events_are_judged_by_name_others_by_type_if_it_is_planned() -> None:
    made = plan(
        events={"order": {"schema": ORDER}, "identify": {"schema": {"required": ["email"]}}}, unplanned="warn"
    )
    assert judged(made, {}, name="order", type_="page") is None, "a page is no order, whatever its name is"
    assert judged(made, {}, name="", type_="identify") == Violation(
        Rule("identify", "$.email", "required", "reject"), "$.email", ""
    )
    assert judged(made, {}, name="", type_="group") is None, "unplanned is about track events"
    assert judged(made, {}, name="stray") == Violation(Rule("stray", "$", UNPLANNED, "warn"), "$", "")
    assert judged(plan(), {}, name="stray") is None


# What is refused when a plan is set

BOMB = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(20)} | {"d20": {"type": "object"}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, "not valid"),
        ({"type": "string"}, "refuse every event"),
        ({"properties": {"a": {"type": "strin"}}}, "not a valid JSON Schema"),
        ({"properties": {"a": {"minimun": 1}}}, "did you mean 'minimum'"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "$ref must be"),
        ({"properties": {"a": {"$ref": "#/$defs/missing"}}}, "$ref must be"),
        ({"properties": {"a": {"$ref": "#"}}}, "$ref must be"),
        ({"$id": "http://elsewhere.example/x"}, "not a keyword"),
        ({"$dynamicRef": "#a"}, "not a keyword"),
        ({"unevaluatedProperties": False}, "not a keyword"),
        ({"$schema": "http://json-schema.org/draft-04/schema"}, "$schema must be"),
        ({"properties": {"a": {"$defs": {}}}}, "$defs stand at"),
        ({"$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}}, "refers to itself"),
        ({"$defs": BOMB, "$ref": "#/$defs/d0"}, "subschemas"),
        ({"properties": {"a": {"pattern": "(?=a)b"}}}, "no look-around"),
        ({"properties": {"a": {"pattern": "(a)\\1"}}}, "no look-around"),
        ({"properties": {"a": {"pattern": "a{1000}{1000}"}}}, "bounded size"),
        ({"properties": {"a": {"pattern": "a" * (PATTERN_CHARS_MAX + 1)}}}, "characters"),
        ({"patternProperties": {"a" * (PATTERN_CHARS_MAX + 1): True}}, "characters"),
        ({"patternProperties": {"(?<=a)b": True}}, "no look-around"),
        ({"properties": {"a": {"format": "zipcode"}}}, "unknown format"),
        ({"properties": {"a": {"enum": list(range(SCHEMA_ENUM_VALUES_MAX + 1))}}}, "at most"),
        ({"properties": {f"p{i}": True for i in range(SUBSCHEMAS_MAX)}}, "at most"),
        ({"properties": {"a": "string"}}, "object, true or false"),
        ({"properties": []}, "not a valid"),
        ({"$defs": []}, "must be an object"),
    ],
)
def test_a_schema_past_a_bound_or_not_understood_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(schema)
    assert says in str(caught.value) or "refuse every event" in str(caught.value)
    assert "/events/order/schema" in str(caught.value)


def test_the_depth_of_a_schema_is_bounded() -> None:
    schema: dict[str, Any] = {}
    for _ in range(DEPTH_MAX):
        schema = {"properties": {"a": schema}}
    check_schema(schema, "x")
    with pytest.raises(UsageError, match="nests deeper"):
        check_schema({"properties": {"a": schema}}, "x")


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"{",
        b'{"mode": "of"}',
        b'{"modes": "off"}',
        b'{"unplanned": "off"}',
        b'{"events": {"": {"schema": {}}}}',
        b'{"events": {"a\\u0000": {"schema": {}}}}',
        b'{"events": {"a": {"schema": {"const": "\\u0000"}}}}',
        b'{"events": {"a": {}}}',
        b'{"events": {"a": {"schema": true}}}',
        b'{"events": {"a": {"schema": {"const": "\xff"}}}}',
        b'{"events": {"a": {"schema": ' + b"[" * 5000 + b"]" * 5000 + b"}}}",
        json.dumps({"events": {"a" * 256: {"schema": {}}}}).encode(),
        json.dumps({"events": {f"e{i}": {"schema": {}} for i in range(EVENTS_MAX + 1)}}).encode(),
        json.dumps({"events": {"a": {"schema": {"title": "x" * PLAN_BYTES_MAX}}}}).encode(),
    ],
)
def test_a_document_that_is_no_plan_is_refused(document: bytes) -> None:
    with pytest.raises(UsageError):
        parse_plan(document)


# That judging stays cheap, whatever a plan and an event are


def test_patterns_that_hang_other_engines_are_judged_at_once() -> None:
    made = CompiledPlan(plan({"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"pattern": "^(a|a)*$"}}}))
    started = time.perf_counter()
    for name in ("a", "b"):
        found = made.judge("track", "order", json.dumps({name: "a" * 100_000 + "!"}))
        assert found is not None
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"l": {"items": {"type": "string"}}}},
        {"properties": {"l": {"anyOf": [{"items": {"type": "string"}}, {"items": {"type": "boolean"}}]}}},
        {"properties": {"l": {"oneOf": [{"items": {"type": "string"}}, {"items": {"type": "boolean"}}]}}},
        {"properties": {"l": {"not": {"items": {"type": "number"}}}}},
    ],
)
def test_an_event_that_breaks_a_rule_100000_times_costs_no_more_than_a_good_one_of_its_size(schema: Any) -> None:
    """Telling all that is wrong takes 1 to 2 s here; telling the first, some ms."""
    made = CompiledPlan(plan(schema))
    text = json.dumps({"l": [1] * 100_000})
    started = time.perf_counter()
    found = made.judge("track", "order", text)
    assert time.perf_counter() - started < 0.3
    assert found is not None
    assert found.path in ("$.l", "$.l[0]")


SUBSCHEMAS = st.recursive(
    st.sampled_from(
        [True, False, {"type": "string"}, {"type": "integer"}, {"minimum": 0}, {"maxLength": 1}, {"const": None}]
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({}, optional={"anyOf": st.lists(inner, min_size=1, max_size=3), "not": inner}),
        st.fixed_dictionaries({}, optional={"oneOf": st.lists(inner, min_size=1, max_size=3), "items": inner}),
        st.fixed_dictionaries(
            {"allOf": st.lists(inner, min_size=1, max_size=2)}, optional={"anyOf": st.just([True])}
        ),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda some: {"properties": some}),
        st.fixed_dictionaries({"if": inner, "then": inner, "else": inner}),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), SUBSCHEMAS, max_size=3), PROPERTIES)
@settings(max_examples=300, deadline=None)
def test_the_schema_that_finds_the_place_takes_the_same_events(some: Any, properties: Any) -> None:
    schema = {"properties": some, "required": ["a"]}
    valid = compile_schema(schema).is_valid(properties)
    assert compile_schema(plain_schema(schema)).is_valid(properties) == valid
    found = judged(plan(schema), properties)
    assert (found is None) == valid
    assert found is None or (found.path.startswith("$") and found.rule.rule not in ("", "schema"))
