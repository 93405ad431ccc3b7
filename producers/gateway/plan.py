"""Whether an event is as its customer planned it: the tracking plan, compiled.

Judged is what would be stored: the normalised name (of a track event; other types are known by their type), and the
properties after the privacy rules, so that a plan says what the stores hold. The first rule that an event breaks is
told, no more: listing all of them can cost seconds an event. Guarantees that no plan harms a request: one that cannot
be read or compiled is logged and does not judge. A customer without a plan pays one look at a field a request.

A plan is read when a request brings a version that is not held, and never before: an event is judged by the version
that its write key's lookup told, or a later one. Without the control database a plan that is held judges on; for one
that is not, the sender is told to come back.
"""

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import jsonschema_rs
import msgspec

from headrace.errors import ConfigurationError, PoisonError
from headrace.log import get_logger
from headrace.shards.plan_schema import compile_schema, plain_schema, property_path
from headrace.shards.plan_violations import Rule
from headrace.shards.plans import Plan, plan_of
from producers.gateway.auth import Customer, PlanText
from producers.gateway.normalise import PROPERTIES, Row
from producers.gateway.single_flight import SingleFlight
from schemas.codec import event_arrow

PLAN_VIOLATION: Final = "plan_violation"
"""The reason of an event that broke its plan in mode reject."""
PLANS_MAX: Final = 2048
"""Plans held in memory, the least used go first."""
PLANS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of the held plans' JSON texts together; a single plan may have more. Compiled, one weighs up to 70 times that."""
PATH_CHARS_MAX: Final = 200
EXPECTED_CHARS_MAX: Final = 100
UNPLANNED: Final = "unplanned"
"""The rule that an event breaks whose name is not in the plan."""

_TYPE: Final = event_arrow().get_field_index("type")
_NAME: Final = event_arrow().get_field_index("name")
_DECODE = msgspec.json.Decoder().decode

log = get_logger(__name__)


class Violation(msgspec.Struct, frozen=True):
    """One event's first broken rule. `path` is exact, that of `rule` stands for all elements of a list."""

    rule: Rule
    path: str
    expected: str

    @property
    def sentence(self) -> str:
        """For people: event, property, rule."""
        if self.rule.rule == UNPLANNED:
            return f"event {self.rule.event!r} is not in the tracking plan"
        expected = f" {self.expected}" if self.expected else ""
        return f"event {self.rule.event!r} breaks its plan at {self.path}: {self.rule.rule}{expected}"


class PlanViolationError(PoisonError):
    """An event broke a rule in mode reject."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(PLAN_VIOLATION, violation.sentence)
        self.violation = violation


class _Judge:
    """One event's schema: whether properties fit, and where they do not."""

    __slots__ = ("_find", "_schema", "is_valid")

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = plain_schema(schema)
        self.is_valid = compile_schema(schema).is_valid
        self._find: Any = None

    def first_fault(self, properties: Any) -> tuple[str, str, str, str]:
        """(exact path, path for counting, keyword, what it asks for) of properties that are not valid."""
        if self._find is None:
            self._find = compile_schema(self._schema).validate
        try:
            self._find(properties)
        except jsonschema_rs.ValidationError as error:
            return _told(error, properties)
        return "$", "$", "schema", ""


class CompiledPlan:
    """Judges the events of one version of a customer's plan. Schemas are compiled when their event is first met."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._judges: dict[str, tuple[_Judge, str] | None] = {}
        self._unplanned = plan.unplanned if plan.mode != "off" else "allow"

    def violation(self, row: Row) -> Violation | None:
        """What the row breaks, if it breaks anything. `rule.mode` says what is to become of it."""
        return self.judge(row[_TYPE], row[_NAME], row[PROPERTIES])

    def judge(self, type_: str, name: str, properties_json: str) -> Violation | None:
        """The same of an event's type, name and properties as they are stored."""
        if type_ != "track":
            name = type_
        try:
            judged = self._judges[name]
        except KeyError:
            if name not in self._plan.events:  # not remembered: senders make up any number of names
                if self._unplanned == "allow" or type_ != "track":
                    return None
                return Violation(Rule(name, "$", UNPLANNED, self._unplanned), "$", "")
            judged = self._judges[name] = self._compiled(name)
        if judged is None:
            return None
        judge, mode = judged
        properties = _DECODE(properties_json)
        if judge.is_valid(properties):
            return None
        path, counted, keyword, expected = judge.first_fault(properties)
        return Violation(Rule(name, counted, keyword, mode), path, expected)

    def _compiled(self, name: str) -> tuple[_Judge, str] | None:
        mode = self._plan.mode_of(name)
        if mode == "off":
            return None
        try:
            return _Judge(self._plan.events[name].schema), mode
        except (ValueError, TypeError, AttributeError) as error:  # not checked by us when it was written
            log.error("plan_schema_unusable", event_name=name, error=str(error)[:300])
            return None


_Version = tuple[int, int]
"""A customer's id and the version of its plan."""


class Plans:
    """The compiled plans of the customers that have one, read by `read` when they are needed. One event loop, so no
    lock."""

    def __init__(self, read: Callable[[int], Awaitable[PlanText | None]]) -> None:
        self._read = read
        self._held: OrderedDict[_Version, tuple[CompiledPlan | None, int]] = OrderedDict()
        self._held_bytes = 0
        self._flights = SingleFlight(self._fetch)

    @property
    def held(self) -> int:
        """How many versions of plans are held."""
        return len(self._held)

    async def of(self, customer: Customer) -> CompiledPlan | None:
        """The customer's plan, None if it has none that judges anything. Raises UnavailableError where the plan is
        not held and cannot be read."""
        if customer.plan_version is None:
            return None
        version = (customer.customer_id, customer.plan_version)
        held = self._held.get(version)
        if held is None:
            return await self._flights.get(version)
        self._held.move_to_end(version)
        return held[0]

    async def _fetch(self, asked: _Version) -> CompiledPlan | None:
        customer_id, version = asked
        stored = await self._read(customer_id)
        if stored is None:  # its customer is gone
            self._hold(asked, None, 0)
            return None
        made = _compiled(customer_id, stored)
        for number in {version, stored.version}:  # changed since the lookup: who brings the old version gets this one
            self._hold((customer_id, number), made, len(stored.text))
        return made

    def _hold(self, version: _Version, made: CompiledPlan | None, size: int) -> None:
        _, replaced = self._held.pop(version, (None, 0))
        self._held[version] = made, size
        self._held_bytes += size - replaced
        while len(self._held) > PLANS_MAX or (self._held_bytes > PLANS_BYTES_MAX and len(self._held) > 1):
            _, (_, freed) = self._held.popitem(last=False)
            self._held_bytes -= freed


def _compiled(customer_id: int, stored: PlanText) -> CompiledPlan | None:
    try:
        plan = plan_of(json.loads(stored.text))
    except (ConfigurationError, ValueError, RecursionError) as error:
        log.error("plan_unusable", customer_id=customer_id, version=stored.version, error=str(error)[:300])
        plan = None
    return CompiledPlan(plan) if plan is not None and plan.mode != "off" else None


def _told(error: jsonschema_rs.ValidationError, properties: Any) -> tuple[str, str, str, str]:
    keyword, value = error.kind.name, error.kind.as_dict()
    exact = counted = "$"
    for part in error.instance_path:
        exact = f"{exact}[{part}]" if isinstance(part, int) else property_path(exact, part)
        counted = f"{counted}[*]" if isinstance(part, int) else property_path(counted, part)
    expected = ""
    if keyword == "falseSchema":
        where = error.schema_path[-1] if error.schema_path else ""
        keyword = str(where) if where in ("additionalProperties", "propertyNames") else "false"
        if keyword == "additionalProperties":  # of a schema that names none
            value = {"unexpected": list(_at(properties, error.instance_path))}
    named = value.get("property") or next(iter(value.get("unexpected", ())), None)
    if isinstance(named, str):  # a property that is missing, or should not be there
        exact, counted = property_path(exact, named), property_path(counted, named)
    elif keyword == "not":
        keyword = _alternative(value.get("schema")) or keyword
    elif keyword != "propertyNames":
        expected = _expected(value)
    return exact[:PATH_CHARS_MAX], counted[:PATH_CHARS_MAX], keyword, expected[:EXPECTED_CHARS_MAX]


def _at(properties: Any, path: list[str | int]) -> Any:
    for part in path:
        properties = properties[part]
    return properties


def _alternative(schema: Any) -> str | None:
    """`anyOf` or `oneOf` where they stand behind two `not` (see `plain_schema`)."""
    inner = schema.get("not") if isinstance(schema, dict) and len(schema) == 1 else None
    return next((name for name in ("anyOf", "oneOf") if list(inner) == [name]), None) if inner else None


def _expected(value: dict[str, Any]) -> str:
    asked = next(iter(value.values()), None)
    if isinstance(asked, list) and len(asked) == 1:
        asked = asked[0]
    return "" if asked is None else msgspec.json.encode(asked).decode()
