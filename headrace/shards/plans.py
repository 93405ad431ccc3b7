"""A customer's tracking plan: the events that it means to send, as JSON Schema by event name.

Owns the table `tracking_plans`, and the document that stands in it. Gateways look its version up together with the
write key, read it when that is a new one, and judge by it (producers/gateway/plan.py); the CLI writes it. Its version
grows with every change, removal included, so that what was compiled from an older one is never taken for the present.
Refuses a document that is not understood.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from headrace.errors import ConfigurationError, UsageError
from headrace.shards.plan_schema import check_schema, rules_of
from schemas.event import bound_dimension

PLAN_BYTES_MAX: Final = 256 * 1024
"""Of the document as compact JSON."""
EVENTS_MAX: Final = 500

Mode = Literal["off", "warn", "reject"]
Unplanned = Literal["allow", "warn", "reject"]


class EventPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One event's `schema` (of its properties), and its own `mode` where that differs from the plan's."""

    schema: dict[str, Any]
    mode: Mode | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`mode`: what becomes of an event that breaks its schema; off: nothing is judged at all, whatever single events
    say. `unplanned`: what becomes of track events whose name is not among `events`. Other types of events are judged
    under the name of their type, and only if it is there."""

    mode: Mode = "warn"
    unplanned: Unplanned = "allow"
    events: dict[str, EventPlan] = msgspec.field(default_factory=dict)

    def mode_of(self, name: str) -> Mode:
        """The mode in which the event `name` is judged. Raises KeyError for one that is not planned."""
        own = self.events[name].mode
        return self.mode if self.mode == "off" or own is None else own


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan as it stands in the control database."""

    version: int
    plan: Plan
    updated_at: datetime


def plan_of(document: Any) -> Plan | None:
    """The plan in a stored document; None where it was removed. Only its shape is looked at. Raises
    ConfigurationError."""
    if not document:
        return None
    try:
        return msgspec.convert(document, Plan)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"a customer's tracking plan cannot be read: {error}", remedy="set it again with `headrace plan set`"
        ) from error


def parse_plan(text: bytes) -> Plan:
    """The plan in a JSON text, checked whole: its shape, every schema, every bound. Raises UsageError that names the
    place."""
    try:
        plan = msgspec.json.decode(text, type=Plan)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"not a tracking plan: {error}") from error
    check_plan(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Raises UsageError when a schema is not valid or a bound is exceeded."""
    size = len(msgspec.json.encode(plan))
    if size > PLAN_BYTES_MAX:
        raise UsageError(f"the plan has {size} bytes, at most {PLAN_BYTES_MAX} are taken")
    if len(plan.events) > EVENTS_MAX:
        raise UsageError(f"the plan has {len(plan.events)} events, at most {EVENTS_MAX} are taken")
    if "\\u0000" in msgspec.json.encode(plan).decode():
        raise UsageError("the plan holds U+0000, which no event that is stored has")
    for name, event in plan.events.items():
        if not name or bound_dimension(name) != name:
            raise UsageError(f"/events: {name[:100]!r} is not a name that a stored event can have")
        check_schema(event.schema, f"/events/{name}/schema")


def read_plan(connection: psycopg.Connection[Any], customer_id: int) -> StoredPlan | None:
    """The customer's plan. Raises UsageError for an unknown customer, ConfigurationError for an unreadable plan."""
    row = connection.execute(
        """
        SELECT p.version, p.plan, p.updated_at FROM customers c LEFT JOIN tracking_plans p USING (customer_id)
        WHERE c.customer_id = %s
        """,
        (customer_id,),
    ).fetchone()
    if row is None:
        raise _unknown_customer(customer_id)
    return stored_plan(*row)


def stored_plan(version: int | None, document: Any, updated_at: datetime | None) -> StoredPlan | None:
    """A row of the table, or what an outer join leaves of a missing one. Raises ConfigurationError."""
    plan = plan_of(document)
    if plan is None:
        return None
    assert version is not None and updated_at is not None
    return StoredPlan(version, plan, updated_at)


def write_plan(connection: psycopg.Connection[Any], customer_id: int, plan: Plan) -> int:
    """Check it, set it and give its version. Gateways follow within `write_key_cache_s`. Raises UsageError."""
    check_plan(plan)
    try:
        row = connection.execute(
            """
            INSERT INTO tracking_plans (customer_id, plan) VALUES (%s, %s)
            ON CONFLICT (customer_id) DO UPDATE
                SET plan = excluded.plan, version = tracking_plans.version + 1, updated_at = now()
            RETURNING version
            """,
            (customer_id, Jsonb(msgspec.to_builtins(plan))),
        ).fetchone()
    except psycopg.errors.ForeignKeyViolation as error:
        raise _unknown_customer(customer_id) from error
    assert row is not None
    return int(row[0])


def remove_plan(connection: psycopg.Connection[Any], customer_id: int) -> bool:
    """Remove the customer's plan; False when there is none. Its row stays, empty: a later plan's version goes on
    from there."""
    row = connection.execute(
        """
        UPDATE tracking_plans SET plan = '{}', version = version + 1, updated_at = now()
        WHERE customer_id = %s AND plan <> '{}' RETURNING version
        """,
        (customer_id,),
    ).fetchone()
    return row is not None


def plan_rules(plan: Plan | None) -> list[str]:
    """Every rule of a plan as a line of text, sorted: two plans differ as these lists do."""
    if plan is None:
        return []
    lines = [f"mode {plan.mode}", f"unplanned {plan.unplanned}"]
    for name, event in plan.events.items():
        lines.append(f"{name!r} mode {plan.mode_of(name)}")
        lines += [f"{name!r} {line}" for line in rules_of(event.schema)]
    return sorted(lines)


def plan_document(plan: Plan) -> Mapping[str, Any]:
    """The plan as the JSON document that it is read from."""
    document: Mapping[str, Any] = msgspec.to_builtins(plan)
    return document


def _unknown_customer(customer_id: int) -> UsageError:
    return UsageError(f"there is no customer {customer_id}", remedy="see `headrace customers list`")
