"""A first tracking plan from events that were seen: types, required properties, small sets of values.

Pure and bounded, whatever the events hold. The plan takes at least every event that it was made of, but for the few
that lack a property which nearly all others have; it is made to be read by people before it is set.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.shards.plan_schema import compile_schema
from headrace.shards.plans import EVENTS_MAX, PLAN_BYTES_MAX, EventPlan, Plan
from schemas.event import bound_dimension

REQUIRED_SHARE: Final = 0.99
REQUIRED_OF_MIN: Final = 50
"""Fewer events say nothing about what is always there."""
ENUM_VALUES_MAX: Final = 20
ENUM_OF_MIN: Final = 100
ENUM_TIMES_EACH_MIN: Final = 10
"""On average a value must have come this often: many texts, few different ones."""
ENUM_CHARS_MAX: Final = 60
NESTING_MAX: Final = 3
"""Levels of objects in objects that are described; deeper ones are only called objects."""
NAMES_MAX: Final = 5_000
"""Names of events that are looked at, the first ones met."""
PROPERTIES_MAX: Final = 500
"""Properties of one event, nested ones counted, that are described: the first ones met. Others stay open."""
FORMATS: Final = ("uuid", "date-time", "date")
"""The ones that no other kind of text looks like by chance."""

_FORMAT_CHECKS = {name: compile_schema({"format": name}).is_valid for name in FORMATS}
_FORMAT_CHARS_MAX = 64
_ENVELOPE_BYTES = 256
"""Of a plan without its events."""


@dataclass(slots=True)
class _Room:
    """How many more properties of an event are looked at."""

    left: int = PROPERTIES_MAX


@dataclass(slots=True)
class _Seen:
    """What one property, or an event's properties as a whole, was like."""

    room: _Room
    times: int = 0
    types: set[str] = field(default_factory=set)
    values: Counter[str] | None = field(default_factory=Counter)
    """Texts and how often they came; None once there are too many."""
    formats: tuple[str, ...] = FORMATS
    properties: dict[str, "_Seen"] = field(default_factory=dict)
    objects: int = 0

    def add(self, value: Any, depth: int) -> None:
        self.times += 1
        type_ = _type(value)
        self.types.add(type_)
        if isinstance(value, str):
            self._add_text(value)
        elif isinstance(value, dict) and depth < NESTING_MAX:
            self.objects += 1
            for name, item in value.items():
                seen = self.properties.get(name)
                if seen is None:
                    if not self.room.left:
                        continue
                    self.room.left -= 1
                    seen = self.properties[name] = _Seen(self.room)
                seen.add(item, depth + 1)

    def _add_text(self, text: str) -> None:
        if self.formats:
            self.formats = tuple(
                name for name in self.formats if len(text) <= _FORMAT_CHARS_MAX and _FORMAT_CHECKS[name](text)
            )
        if self.values is not None:
            self.values[text] += 1
            if len(self.values) > ENUM_VALUES_MAX or len(text) > ENUM_CHARS_MAX:
                self.values = None

    def schema(self, *, enums: bool) -> dict[str, Any]:
        types = set(self.types)
        if "number" in types:
            types.discard("integer")
        made: dict[str, Any] = {}
        if types:
            made["type"] = min(types) if len(types) == 1 else sorted(types)
        texts = 0 if self.values is None else self.values.total()
        if "string" in types and types <= {"string", "null"}:
            if enums and self.values and len(self.values) > 1 and texts >= self._enough():
                made = {"enum": [*sorted(self.values), *([None] if "null" in types else [])]}
            elif self.formats and self.times >= REQUIRED_OF_MIN:
                made["format"] = self.formats[0]
        if self.properties:
            made["properties"] = {name: seen.schema(enums=enums) for name, seen in self.properties.items()}
            required = sorted(name for name, seen in self.properties.items() if self._always(seen))
            if required:
                made["required"] = required
        return made

    def _enough(self) -> int:
        return max(ENUM_OF_MIN, ENUM_TIMES_EACH_MIN * len(self.values or ()))

    def _always(self, seen: "_Seen") -> bool:
        return self.objects >= REQUIRED_OF_MIN and seen.times >= REQUIRED_SHARE * self.objects


def infer_plan(events: Iterable[tuple[str, str, str]]) -> tuple[Plan, dict[str, int]]:
    """A plan in mode warn from (type, name, properties as JSON) of stored events, and how many were seen of each
    name, the most frequent first. What has no room in a plan is left out of it, rare events before frequent ones."""
    seen: dict[str, _Seen] = {}
    for name, properties in _named(events):
        found = seen.get(name)
        if found is None:
            if len(seen) >= NAMES_MAX:
                continue
            found = seen[name] = _Seen(_Room())
        found.add(properties, 0)
    ordered = sorted(seen.items(), key=lambda item: (-item[1].times, item[0]))
    chosen: dict[str, EventPlan] = {}
    sizes: dict[str, int] = {}
    left = PLAN_BYTES_MAX - _ENVELOPE_BYTES
    for enums in (False, True):  # first as many events as there is room for, then what their values are
        for name, found in ordered:
            event = EventPlan(schema={"type": "object"} | found.schema(enums=enums))
            size = len(msgspec.json.encode({name: event}))
            before = sizes.get(name, 0)
            fits = size - before <= left and (len(chosen) < EVENTS_MAX if not enums else name in chosen)
            if fits:
                left -= size - before
                chosen[name], sizes[name] = event, size
    return Plan(mode="warn", unplanned="allow", events=chosen), {name: found.times for name, found in ordered}


def _named(events: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, Any]]:
    """Names as a plan knows them. What no gateway of ours wrote is passed over."""
    for type_, name, text in events:
        known = name if type_ == "track" else type_
        try:
            properties = msgspec.json.decode(text or "{}")
        except msgspec.DecodeError:
            continue
        if known and bound_dimension(known) == known and isinstance(properties, dict):
            yield known, properties


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    return {int: "integer", str: "string", dict: "object", list: "array"}[type(value)]
