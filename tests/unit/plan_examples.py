"""Tracking plans that several tests judge by."""

import json
from typing import Any

from hypothesis import strategies as st

from headrace.shards.plans import Plan, parse_plan
from producers.gateway.plan import CompiledPlan, Violation

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


PROPERTIES = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.integers(-2, 2) | st.text(max_size=2) | st.lists(st.integers(), max_size=2)
)
