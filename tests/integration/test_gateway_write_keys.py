"""The memory of write keys, over the real control database."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.clock import ManualClock
from headrace.errors import UnavailableError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key, revoke_write_key
from producers.gateway.auth import ControlDirectory, Customer, WriteKeys
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import make_control

Check = Callable[["CountingDirectory", Settings], Awaitable[None]]


class CountingDirectory(ControlDirectory):
    """The real one; counts the lookups of each key."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.lookups: Counter[bytes] = Counter()

    async def find(self, key_hash: bytes) -> Customer | None:
        self.lookups[key_hash] += 1
        return await super().find(key_hash)


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


def test_a_gateway_needs_a_control_database(settings: Settings) -> None:
    with pytest.raises(Exception, match="postgres_control is not set"):
        ControlDirectory(replace(settings, postgres_control=""))
