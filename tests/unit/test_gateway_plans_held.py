"""The compiled plans of a gateway, what they count, and how their rules are told."""

import asyncio
import json
from typing import Any

import pytest

from headrace.errors import UnavailableError
from headrace.shards.plan_violations import RULES_MAX, Count, Rule
from headrace.shards.plans import plan_document, plan_rules
from producers.gateway.auth import Customer, PlanText
from producers.gateway.plan import PLANS_BYTES_MAX, PLANS_MAX, CompiledPlan, Plans
from producers.gateway.plan_counts import add_counts
from tests.unit.plan_examples import ORDER, plan


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
