"""The memory of write keys and what comes with them, over the real control database."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString

import pytest

from headrace.clock import ManualClock
from headrace.errors import UnavailableError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.plans import EventPlan, Mode, Plan, remove_plan, write_plan
from headrace.shards.write_keys import create_write_key, revoke_write_key
from producers.gateway.auth import ControlDirectory, Customer, PlanText, WriteKeys
from producers.gateway.plan import Plans
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import make_control

Check = Callable[["CountingDirectory", Settings], Awaitable[None]]


class CountingDirectory(ControlDirectory):
    """The real one; counts the lookups of each key."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.lookups: Counter[bytes] = Counter()
        self.queries = 0
        self.plans = 0
        self.received_bytes = 0

    async def find(self, key_hashes: Sequence[bytes]) -> Mapping[bytes, Customer]:
        self.queries += 1
        self.lookups.update(key_hashes)
        return await super().find(key_hashes)

    async def plan(self, customer_id: int) -> PlanText | None:
        self.plans += 1
        return await super().plan(customer_id)

    async def _rows(self, query: LiteralString, parameter: list[bytes] | int) -> Sequence[tuple[Any, ...]]:
        rows = await super()._rows(query, parameter)
        self.received_bytes += sum(
            len(item) if isinstance(item, bytes) else len(repr(item)) for row in rows for item in row
        )
        return rows


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> Settings:
    made = make_settings("postgres", write_key_cache_s=2.0, write_key_stale_s=10.0, write_key_cache_max=2)
    make_control(made, postgres.shards)
    return made


def make_keys(settings: Settings, count: int) -> tuple[int, list[str]]:
    """A customer and its keys."""
    with connect_control(settings) as control:
        customer_id = create_customer(control, "shop").customer_id
        return customer_id, [create_write_key(control, customer_id).secret for _ in range(count)]


def run(settings: Settings, check: Check) -> None:
    """Run `check` on a loop of its own with an open directory."""

    async def main() -> None:
        directory = CountingDirectory(settings)
        await directory.open()
        try:
            await check(directory, settings)
        finally:
            await directory.close()

    asyncio.run(main())


def test_many_requests_with_one_key_are_one_lookup_until_it_is_stale(settings: Settings) -> None:
    customer_id, (key,) = make_keys(settings, 1)

    async def check(directory: CountingDirectory, settings: Settings) -> None:
        clock = ManualClock()
        keys = WriteKeys(directory, settings, clock)
        found = await asyncio.gather(*(keys.resolve([key]) for _ in range(50)))
        assert {item.customer_id for item in found if item} == {customer_id}
        clock.advance(1.9)
        await keys.resolve([key])
        assert directory.lookups.total() == 1
        with connect_control(settings) as control:
            revoke_write_key(control, key)
        assert await keys.resolve([key]) is not None
        clock.advance(0.2)
        assert await keys.resolve([key]) is None
        assert directory.lookups.total() == 2

    run(settings, check)


def test_keys_in_use_are_asked_for_together_and_each_stays_trusted_no_longer_than_it_may(settings: Settings) -> None:
    _, secrets = make_keys(settings, 60)

    async def check(directory: CountingDirectory, settings: Settings) -> None:
        clock = ManualClock()
        keys = WriteKeys(directory, replace(settings, write_key_cache_max=100), clock)

        async def all_found() -> int:
            return sum([await keys.resolve([secret]) is not None for secret in secrets])

        assert await keys.resolve(["wk_unknown"]) is None
        assert await all_found() == 60
        asked = directory.queries
        clock.advance(2.1)
        assert await all_found() == 60
        assert directory.queries == asked + 1
        with connect_control(settings) as control:
            revoke_write_key(control, secrets[7])
        clock.advance(1.9)
        assert await all_found() == 60, "trusted, and asked for by nobody"
        clock.advance(0.2)
        assert await all_found() == 59
        assert directory.queries == asked + 2
        assert directory.lookups.total() == 61 + 60 + 60, "an unknown key is not taken along"
        clock.advance(1.1)
        assert await keys.resolve(["wk_other"]) is None
        clock.advance(1.9)
        assert await all_found() == 59
        assert directory.queries == asked + 4, "the revoked key; the others came along with the unknown one"

    run(settings, check)


def test_unknown_keys_cost_one_lookup_and_the_memory_is_bounded(settings: Settings) -> None:
    _, secrets = make_keys(settings, 3)

    async def check(directory: CountingDirectory, settings: Settings) -> None:
        keys = WriteKeys(directory, settings, ManualClock())
        for _ in range(3):
            assert await keys.resolve(["wk_unknown", ""]) is None
            assert await keys.resolve(["k" * 600]) is None, "no key is so long, so none is looked up"
        assert directory.lookups.total() == 1
        for secret in secrets:
            assert await keys.resolve(["wk_unknown", secret]) is not None
        assert await keys.resolve([secrets[2]]) is not None
        before = directory.lookups.total()
        assert await keys.resolve([secrets[0]]) is not None
        assert directory.lookups.total() == before + 1, "only two are held"

    run(settings, check)


def test_without_the_database_a_known_key_serves_on_and_an_unknown_one_cannot_be_told(settings: Settings) -> None:
    _, (key,) = make_keys(settings, 1)

    async def check(directory: CountingDirectory, settings: Settings) -> None:
        clock = ManualClock()
        keys = WriteKeys(directory, settings, clock)
        assert await keys.resolve([key]) is not None
        assert await keys.resolve(["wk_unknown"]) is None
        await directory.close()
        clock.advance(3)
        assert await keys.resolve([key]) is not None
        with pytest.raises(UnavailableError):
            await keys.resolve(["wk_unknown"])
        lookups = directory.lookups.total()
        assert await keys.resolve([key]) is not None
        assert directory.lookups.total() == lookups, "the database is left alone for a while"
        clock.advance(8)
        with pytest.raises(UnavailableError):
            await keys.resolve([key])

    run(settings, check)


def test_a_lookup_carries_the_plans_version_and_the_plan_is_read_only_when_that_is_new(settings: Settings) -> None:
    """The bytes that Postgres sends are counted: a plan of 200 KB weighs nothing on the next lookups of the key."""
    customer_id, keys = make_keys(settings, 2)
    schema = {"description": "x" * 200_000, "required": ["total"]}

    def set_plan(mode: Mode) -> None:
        with connect_control(settings) as control:
            write_plan(control, customer_id, Plan(mode=mode, events={"order": EventPlan(schema=schema)}))

    async def check(directory: CountingDirectory, settings: Settings) -> None:
        clock = ManualClock()
        write_keys = WriteKeys(directory, settings, clock)
        plans = Plans(write_keys.plan)

        async def mode() -> str | None:
            for key in keys:
                customer = await write_keys.resolve([key])
                assert customer is not None
                plan = await plans.of(customer)
            found = None if plan is None else plan.judge("track", "order", "{}")
            return None if found is None else found.rule.mode

        assert await mode() is None
        assert directory.plans == 0, "who never had a plan pays nothing"
        set_plan("warn")
        clock.advance(2.1)
        assert await mode() == "warn"
        assert directory.plans == 1
        for _ in range(5):
            clock.advance(2.1)
            assert await mode() == "warn"
        assert directory.lookups.total() == 14
        assert directory.queries == 8, "two keys at first, then both at once"
        assert directory.plans == 1
        assert 200_000 < directory.received_bytes < 201_500, "one plan, fourteen lookups"
        set_plan("reject")
        assert await mode() == "warn", "as long as the keys are trusted"
        clock.advance(2.1)
        assert await mode() == "reject"
        with connect_control(settings) as control:
            assert remove_plan(control, customer_id)
        clock.advance(2.1)
        assert await mode() is None
        assert directory.plans == 3

    run(settings, check)


def test_a_gateway_needs_a_control_database(settings: Settings) -> None:
    with pytest.raises(Exception, match="postgres_control is not set"):
        ControlDirectory(replace(settings, postgres_control=""))
