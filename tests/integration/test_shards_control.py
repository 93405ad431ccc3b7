"""Customers, write keys and routers against a real control database and real shards."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from headrace.errors import ConfigurationError, UnavailableError, UsageError
from headrace.migrations import migrate
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer, list_customers
from headrace.shards.map import load_map, reassign
from headrace.shards.router import AsyncRouter, Router
from headrace.shards.write_keys import (
    CHANNEL,
    create_write_key,
    find_customer,
    find_customer_async,
    hash_write_key,
    list_write_keys,
    revoke_write_key,
)
from tests.integration.conftest import Databases, MakeSettings


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    made = make_settings("postgres")
    migrate(made, shards={f"shard-{number}": address for number, address in enumerate(postgres.shards, 1)})
    return made


@pytest.fixture
def control(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with connect_control(settings) as connection:
        yield connection


def test_new_customers_spread_over_ranges_and_shards(control: psycopg.Connection[Any]) -> None:
    made = [create_customer(control, f"customer {number}") for number in range(20)]

    assert [customer.shard_id for customer in made[:4]] == ["shard-1", "shard-2", "shard-1", "shard-2"]
    assert made[0].customer_id == 1
    assert len({customer.customer_id for customer in made}) == 20
    newest = [customer.shard_id for customer in made[-8:]]
    assert newest.count("shard-1") == newest.count("shard-2") == 4
    assert [customer.customer_id for customer in list_customers(control)] == sorted(c.customer_id for c in made)


def test_customers_created_at_once_get_different_ids(settings: Settings) -> None:
    ids: list[int] = []

    def create() -> None:
        with connect_control(settings) as connection:
            ids.extend(create_customer(connection, "same name").customer_id for _ in range(5))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(ids)) == 20


def test_a_customer_can_be_asked_for_on_one_shard(control: psycopg.Connection[Any]) -> None:
    made = [create_customer(control, "x", shard_id="shard-2") for _ in range(5)]
    shard_map = load_map(control)
    assert {shard_map.shard_of(customer.customer_id) for customer in made} == {"shard-2"}
    for wrong in ("", "  ", "x" * 201):
        with pytest.raises(UsageError):
            create_customer(control, wrong)
    with pytest.raises(UsageError, match="shard-1, shard-2"):
        create_customer(control, "x", shard_id="nowhere")


def test_a_write_key_is_shown_once_stored_hashed_and_revocable(
    control: psycopg.Connection[Any], settings: Settings
) -> None:
    customer = create_customer(control, "one").customer_id
    new = create_write_key(control, customer, "website")

    assert new.secret.startswith("wk_")
    assert len(new.secret) >= 32
    stored = control.execute("SELECT key_hash, hint::text || label FROM write_keys").fetchall()
    assert stored == [(hash_write_key(new.secret), new.secret[:8] + "website")]
    assert find_customer(control, new.secret) == customer
    assert find_customer(control, new.secret + "x") is None

    with psycopg.connect(settings.postgres_control, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        revoked = revoke_write_key(control, new.key.hint)
        notices = list(listening.notifies(timeout=5, stop_after=1))
    assert [notice.payload for notice in notices] == [hash_write_key(new.secret).hex()]
    assert revoked.revoked_at is not None
    assert find_customer(control, new.secret) is None
    assert revoke_write_key(control, new.secret).revoked_at == revoked.revoked_at
    assert [key.hint for key in list_write_keys(control, customer)] == [new.key.hint]

    async def ask() -> int | None:
        async with await psycopg.AsyncConnection.connect(settings.postgres_control) as connection:
            return await find_customer_async(connection, new.secret)

    assert asyncio.run(ask()) is None


def test_write_keys_need_a_customer_and_a_known_hint(control: psycopg.Connection[Any]) -> None:
    with pytest.raises(UsageError, match="no customer 77"):
        create_write_key(control, 77)
    with pytest.raises(UsageError, match="no write key"):
        revoke_write_key(control, "wk_nope")


def test_a_range_changes_shards_by_compare_and_set(control: psycopg.Connection[Any]) -> None:
    before = load_map(control)
    item = before.range_of(1)
    epoch = reassign(control, item.range_id, "shard-2", epoch=item.epoch)

    after = load_map(control)
    assert epoch == after.epoch == before.epoch + 1
    assert after.shard_of(1) == "shard-2"
    with pytest.raises(UsageError, match="no longer at epoch"):
        reassign(control, item.range_id, "shard-1", epoch=item.epoch)


def test_the_database_itself_refuses_overlapping_ranges(control: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.ExclusionViolation):
        control.execute("INSERT INTO shard_map VALUES (99, '[5,6)', 'shard-1', 9)")


def wait_for_shard(router: Router, customer_id: int, shard_id: str, seconds: float) -> float:
    began = time.monotonic()
    while router.shard_of(customer_id) != shard_id:
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def test_routers_hear_of_a_change_long_before_their_lease_ends(
    settings: Settings, control: psycopg.Connection[Any]
) -> None:
    patient = replace(settings, shard_map_lease_s=3600.0)
    item = load_map(control).range_of(1)
    with Router(patient) as router:
        assert router.shard_of(1) == "shard-1"
        time.sleep(0.5)  # it listens from now on
        assert router.shard_of(1) == "shard-1"
        reassign(control, item.range_id, "shard-2", epoch=item.epoch)
        assert wait_for_shard(router, 1, "shard-2", seconds=5) < 2

    async def follow() -> float:
        async with AsyncRouter(patient) as routing:
            assert await routing.shard_of(1) == "shard-2"
            await asyncio.sleep(0.5)
            epoch = (await routing.map()).range_of(1).epoch
            await asyncio.to_thread(reassign, control, item.range_id, "shard-1", epoch=epoch)
            began = time.monotonic()
            while await routing.shard_of(1) != "shard-1":
                assert time.monotonic() - began < 5
                await asyncio.sleep(0.02)
            return time.monotonic() - began

    assert asyncio.run(follow()) < 2


def test_a_router_that_starts_before_the_migration_follows_the_map_afterwards(
    make_settings: MakeSettings, postgres: Databases
) -> None:
    bare = make_settings("postgres")
    with Router(bare) as router:
        time.sleep(0.5)  # the listener has met a control database without a shard map
        assert router.latest() is None
        migrate(bare, shards={"shard-1": postgres.shards[0]})
        deadline = time.monotonic() + 10
        while router.latest() is None:
            assert time.monotonic() < deadline, "the listener has ended"
            time.sleep(0.05)


def test_without_a_listener_the_lease_bounds_how_stale_a_map_is(
    settings: Settings, control: psycopg.Connection[Any]
) -> None:
    router = Router(replace(settings, shard_map_lease_s=0.3))
    item = load_map(control).range_of(1)
    assert router.shard_of(1) == "shard-1"
    reassign(control, item.range_id, "shard-2", epoch=item.epoch)
    assert wait_for_shard(router, 1, "shard-2", seconds=5) < 1


def test_a_router_goes_on_while_the_control_database_is_away_and_names_it_when_it_never_answered(
    settings: Settings, postgres: Databases
) -> None:
    with psycopg.connect(postgres.control, autocommit=True):
        router = Router(replace(settings, shard_map_lease_s=0.0))
        known = router.map()
    router._settings = replace(settings, postgres_control="postgresql://nobody:x@127.0.0.1:1/none")
    assert router.map() == known
    with pytest.raises(UnavailableError, match="control database"):
        Router(replace(settings, postgres_control="postgresql://nobody:x@127.0.0.1:1/none")).map()


def test_a_reader_connection_is_bound_to_its_customer(settings: Settings, postgres: Databases) -> None:
    with psycopg.connect(postgres.shard_dsn(1), autocommit=True) as owner:
        owner.execute("CREATE TABLE leaf PARTITION OF rollup_rows_day FOR VALUES FROM (0) TO (100)")
        owner.execute(
            """
            INSERT INTO rollup_rows (customer_id, window_start, generation, ver, events, value_e6, value_count,
                rollup, grain, part, open, dims, users, value_hist)
            SELECT c, 0, 0, 1, c, 0, 0, 0, 2, 0, true, '', '', '' FROM unnest('{100001,100002}'::int8[]) c
            """
        )

    async def read() -> list[Any]:
        async with AsyncRouter(settings) as router:
            out: list[Any] = []
            for customer in (100_001, 100_002, 1):
                async with router.customer(customer) as connection:
                    cursor = await connection.execute("SELECT customer_id FROM rollup_rows")
                    out.append(await cursor.fetchall())
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                async with router.customer(1) as connection:
                    await connection.execute("CREATE TEMPORARY SEQUENCE s; SELECT nextval('s')")
            return out

    assert asyncio.run(read()) == [[(100_001,)], [(100_002,)], []]


def test_a_shard_that_is_down_is_named_soon_and_the_others_answer(
    settings: Settings, control: psycopg.Connection[Any]
) -> None:
    control.execute("UPDATE shards SET address = '127.0.0.1:1/none' WHERE shard_id = 'shard-2'")

    async def read() -> float:
        async with AsyncRouter(settings) as router:
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="shard-2"):
                async with router.customer(100_001):
                    pass
            elapsed = time.monotonic() - began
            async with router.customer(1) as connection:
                await connection.execute("SELECT 1")
            return elapsed

    assert asyncio.run(read()) < 4


def test_an_empty_map_says_what_to_do(settings: Settings, control: psycopg.Connection[Any]) -> None:
    control.execute("DELETE FROM shard_map")
    with pytest.raises(ConfigurationError, match="headrace migrate --shard"):
        load_map(control)
