"""A tracking plan: what is refused when it is set, what a violation says, and that judging stays cheap."""

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import UnavailableError, UsageError
from headrace.shards.plan_inference import ENUM_TIMES_EACH_MIN, ENUM_VALUES_MAX, PROPERTIES_MAX, infer_plan
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
from headrace.shards.plan_violations import RULES_MAX, Count, Rule
from headrace.shards.plans import EVENTS_MAX, PLAN_BYTES_MAX, Plan, check_plan, parse_plan, plan_document, plan_rules
from producers.gateway.auth import Customer, PlanText
from producers.gateway.plan import PLANS_BYTES_MAX, PLANS_MAX, UNPLANNED, CompiledPlan, Plans, Violation
from producers.gateway.plan_counts import add_counts

ORDER: dict[str, Any] = {
    "type": "object",
    "required": ["order_id", "total"],
    "properties": {
        "order_id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
        "total": {"type": "number", "minimum": 0},
        "currency": {"enum": ["EUR", "USD"]},
        "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}},
        "at": {"type": "string", "format": "date-time"},
    },
}
GOOD = {"order_id": "AB-1", "total": 1.5, "currency": "EUR", "lines": [{"sku": "s"}], "at": "2026-01-01T00:00:00Z"}


def plan(schema: Any = ORDER, **more: Any) -> Plan:
    document = {"mode": "reject", "events": {"order": {"schema": schema}}} | more
    return parse_plan(json.dumps(document).encode())


def judged(made: Plan, properties: Any, name: str = "order", type_: str = "track") -> Violation | None:
    return CompiledPlan(made).judge(type_, name, json.dumps(properties))


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


PROPERTIES = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.integers(-2, 2) | st.text(max_size=2) | st.lists(st.integers(), max_size=2)
)
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


# The compiled plans of a gateway


class Stored:
    """Plans as they stand in a store, and which were read."""

    def __init__(self) -> None:
        self.texts: dict[int, PlanText] = {}
        self.reads: list[int] = []
        self.away = False

    def put(self, customer_id: int, document: Any) -> Customer:
        """Store it as the next version; gives the customer as a lookup of its key tells it now."""
        before = self.texts.get(customer_id)
        version = 1 if before is None else before.version + 1
        self.texts[customer_id] = PlanText(version, json.dumps(document))
        return Customer(customer_id, plan_version=version)

    async def read(self, customer_id: int) -> PlanText | None:
        if self.away:
            raise UnavailableError("away")
        self.reads.append(customer_id)
        await asyncio.sleep(0)
        return self.texts.get(customer_id)


def of(plans: Plans, customer: Customer) -> CompiledPlan | None:
    return asyncio.run(plans.of(customer))


def test_a_plan_is_read_once_a_version_and_never_for_a_version_that_is_held() -> None:
    store = Stored()
    plans = Plans(store.read)
    document = plan_document(plan())
    old = store.put(1, document)

    async def many() -> list[CompiledPlan | None]:
        return await asyncio.gather(*(plans.of(old) for _ in range(20)))

    first, *others = asyncio.run(many())
    assert first is not None
    assert all(other is first for other in others)
    assert store.reads == [1], "all who asked at once waited for one reading"
    new = store.put(1, {**document, "unplanned": "warn"})
    second = of(plans, new)
    assert second is not None
    assert second is not first
    assert of(plans, new) is second
    assert store.reads == [1, 1]
    assert of(plans, Customer(7)) is None
    assert of(plans, store.put(7, {})) is None, "removed"
    assert of(plans, store.put(7, {**document, "mode": "off"})) is None, "nothing to judge: nothing to pay"
    assert store.reads == [1, 1, 7, 7]


def test_a_plan_that_changed_after_the_lookup_judges_as_it_is_and_is_read_once_for_old_and_new_keys() -> None:
    store = Stored()
    plans = Plans(store.read)
    document = plan_document(plan())
    looked_up_before = store.put(1, document)
    looked_up_after = store.put(1, {**document, "mode": "warn"})
    made = of(plans, looked_up_before)
    assert made is not None
    broken = made.judge("track", "order", "{}")
    assert broken is not None
    assert broken.rule.mode == "warn"
    assert of(plans, looked_up_after) is made
    assert of(plans, looked_up_before) is made
    assert store.reads == [1]


def test_without_the_store_what_is_held_judges_and_a_new_version_cannot_be_told() -> None:
    store = Stored()
    plans = Plans(store.read)
    old = store.put(1, plan_document(plan()))
    made = of(plans, old)
    new = store.put(1, {})
    store.away = True
    assert of(plans, old) is made
    with pytest.raises(UnavailableError):
        of(plans, new)
    store.away = False
    assert of(plans, new) is None
    gone = Customer(2, plan_version=1)
    assert of(plans, gone) is None, "its row went with its customer"
    assert of(plans, gone) is None
    assert store.reads.count(2) == 1


def test_the_plans_in_memory_are_bounded_by_their_number_and_by_their_texts() -> None:
    store = Stored()
    plans = Plans(store.read)
    small = plan_document(plan())
    kept = store.put(1, small)
    made = of(plans, kept)
    for customer_id in range(2, PLANS_MAX + 50):
        of(plans, store.put(customer_id, small))
        assert of(plans, kept) is made, "the least used go first"
    assert plans.held == PLANS_MAX
    long = "x" * (PLANS_BYTES_MAX // 10)
    large = {"mode": "warn", "events": {"order": {"schema": {"description": long}}}}
    for customer_id in range(10_000, 10_020):
        of(plans, store.put(customer_id, large))
        assert sum(len(store.texts[customer].text) for customer, _ in plans._held) <= PLANS_BYTES_MAX
    assert plans.held == 9
    of(plans, store.put(3, {"mode": "warn", "events": {"order": {"schema": {"description": long * 11}}}}))
    assert plans.held == 1, "one is held, however large it is"


def test_a_plan_that_cannot_be_read_or_compiled_judges_nothing() -> None:
    store = Stored()
    plans = Plans(store.read)
    assert of(plans, store.put(1, {"mode": "sometimes"})) is None
    unchecked = {"mode": "reject", "events": {"order": {"schema": {"type": "objekt"}}, "ok": {"schema": ORDER}}}
    made = of(plans, store.put(1, unchecked))
    assert made is not None
    assert made.judge("track", "order", "{}") is None
    assert made.judge("track", "ok", "{}") is not None


def test_counts_are_bounded_and_none_is_lost() -> None:
    held: dict[Rule, Count] = {}
    for number in range(RULES_MAX + 50):
        add_counts(held, {Rule("e", f"$.p{number}", "type", "warn"): Count(2, number)})
        add_counts(held, {Rule("e", f"$.p{number}", "type", "reject"): Count(1, number)})
    assert len(held) == RULES_MAX + 2
    assert sum(count.times for count in held.values()) == 3 * (RULES_MAX + 50)
    assert held[Rule("(other)", "", "", "warn")].last_us == RULES_MAX + 49


def test_rules_as_text_tell_two_plans_apart() -> None:
    old, new = plan_rules(plan()), plan_rules(plan({**ORDER, "required": ["order_id"]}, mode="warn"))
    assert set(old) - set(new) == {"mode reject", "'order' mode reject", "'order' $.total: required"}
    assert set(new) - set(old) == {"mode warn", "'order' mode warn"}
    assert "'order' $.lines[*].sku: required" in old
    assert plan_rules(None) == []


# A first plan from events


def seen(count: int, name: str = "order", type_: str = "track", **more: Any) -> list[tuple[str, str, str]]:
    return [
        (type_, name, json.dumps({key: value(i) if callable(value) else value for key, value in more.items()}))
        for i in range(count)
    ]


def inferred(events: list[tuple[str, str, str]], name: str = "order") -> dict[str, Any]:
    made, _ = infer_plan(events)
    check_plan(made)
    return made.events[name].schema


def test_types_required_properties_enums_and_formats_are_inferred() -> None:
    events = seen(
        200,
        id=lambda i: f"o-{i}",
        total=lambda i: i if i % 2 else i + 0.5,
        size=lambda i: ("S", "M", "L")[i % 3],
        coupon=lambda i: None if i % 2 else f"c{i}",
        at=lambda i: f"2026-01-01T00:00:{i % 60:02d}Z",
        nested=lambda i: {"deep": i},
        tags=["a"],
        new=True,
    )
    events += seen(1, id="o", total=1)  # less than 1 % lack the others
    schema = inferred(events)
    assert schema["required"] == ["at", "coupon", "id", "nested", "new", "size", "tags", "total"]
    assert schema["properties"] == {
        "id": {"type": "string"},
        "total": {"type": "number"},
        "size": {"enum": ["L", "M", "S"]},
        "coupon": {"type": ["null", "string"]},
        "at": {"type": "string", "format": "date-time"},
        "nested": {"type": "object", "properties": {"deep": {"type": "integer"}}, "required": ["deep"]},
        "tags": {"type": "array"},
        "new": {"type": "boolean"},
    }


def test_few_events_say_little() -> None:
    schema = inferred(seen(49, a="x", b=lambda i: str(i % 2)))
    assert schema == {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    many = inferred(seen(ENUM_TIMES_EACH_MIN * (ENUM_VALUES_MAX + 1), a=lambda i: str(i % (ENUM_VALUES_MAX + 1))))
    assert many["properties"]["a"] == {"type": "string"}


def test_a_property_that_two_in_a_hundred_lack_is_not_required() -> None:
    assert inferred(seen(98, a=1) + seen(2))["properties"] == {"a": {"type": "integer"}}
    assert "required" not in inferred(seen(98, a=1) + seen(2))


def test_other_types_are_inferred_under_the_name_of_their_type() -> None:
    made, counts = infer_plan(seen(3, "Home", "page", url="/") + seen(2, "", "identify", email="a"))
    assert counts == {"page": 3, "identify": 2}
    assert made.mode == "warn"


def test_endless_properties_and_names_stay_within_the_bounds_of_a_plan() -> None:
    inner = {f"q{k}": k for k in range(5)}
    wide = [("track", "wide", json.dumps({f"p{i}-{j}": inner for j in range(30)})) for i in range(150)]
    long = [("track", "long", json.dumps({"x" * 1000 + str(i): i for i in range(400)}))]
    names = [("track", f"n{i}", "{}") for i in range(EVENTS_MAX + 10)]
    texts = [
        ("track", f"t{i % 40}", json.dumps({f"p{j}": f"{'v' * 50}{i // 40 % 4}" for j in range(40)}))
        for i in range(40 * 100)
    ]
    made, counts = infer_plan(wide + long + names + texts)
    check_plan(made)
    assert len(counts) == 2 + EVENTS_MAX + 10 + 40
    assert "long" not in made.events, "too large for any plan"
    assert json.dumps(made.events["wide"].schema).count('"type"') == PROPERTIES_MAX + 1
    with_enums = ["enum" in json.dumps(made.events[f"t{i}"].schema) for i in range(40)]
    assert any(with_enums), "what has room is told"
    assert not all(with_enums), "what has none is told without its values"


@given(st.lists(PROPERTIES, min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_an_inferred_plan_takes_the_events_that_it_was_made_of(several: list[Any]) -> None:
    made, _ = infer_plan([("track", "order", json.dumps(item)) for item in several])
    check_plan(made)
    compiled = CompiledPlan(made)
    broken = [compiled.judge("track", "order", json.dumps(item)) for item in several]
    faults = [found for found in broken if found is not None]
    assert all(found.rule.rule == "required" for found in faults)
    assert len(faults) <= len(several) * 0.01 * 3
