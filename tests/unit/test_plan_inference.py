"""A first plan from events."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.shards.plan_inference import ENUM_TIMES_EACH_MIN, ENUM_VALUES_MAX, PROPERTIES_MAX, infer_plan
from headrace.shards.plans import EVENTS_MAX, check_plan
from producers.gateway.plan import CompiledPlan
from tests.unit.plan_examples import PROPERTIES


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
