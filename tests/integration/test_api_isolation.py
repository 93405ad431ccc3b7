"""A shard that is down refuses its own customers, quickly, and nobody else."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from api.problems import TYPE_PREFIX
from headrace.runtime.parts import Part
from headrace.runtime.ports import free_ports
from headrace.runtime.postgres_engine import PostgresEngine
from headrace.runtime.process import Process
from headrace.shards.address import connect_control
from tests.integration.api_world import make_world, running_api, settings_with_key, wait_until
from tests.integration.conftest import Databases, MakeSettings

TOTALS = {"kind": "totals", "metrics": ["events"], "range": {"from": "-3y"}}
QUICK_S = 4.0


def test_a_shard_that_is_down_refuses_its_own_customers_only(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path, start_part: Callable[[Part], Process]
) -> None:
    name = f"own_{secrets.token_hex(4)}"
    frail = PostgresEngine(
        name="shard-frail",
        folder=tmp_path / "frail",
        port=free_ports(1)[0],
        owner=postgres.owner,
        reader=postgres.reader,
        databases=(name,),
        durable=False,
    )
    process = start_part(frail)
    settings = settings_with_key(make_settings("postgres", "clickhouse"), tmp_path)
    world = make_world(settings, (postgres.shards[0], frail.address(name)), count=100)
    healthy, sick = world.customers
    with running_api(settings) as url, httpx.Client(base_url=url, timeout=20) as client:

        def ask(customer: int) -> httpx.Response:
            headers = {"Authorization": f"Bearer {world.tokens[customer]}"}
            return client.post("/v1/query", json=TOTALS, headers=headers)

        assert ask(sick).json()["rows"] == [[100]]
        process.kill()
        for _ in range(3):
            began = time.monotonic()
            refused = ask(sick)
            assert time.monotonic() - began < QUICK_S
            assert (refused.status_code, refused.json()["type"]) == (503, TYPE_PREFIX + "shard-unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            began = time.monotonic()
            assert ask(healthy).json()["rows"] == [[100]]
            assert time.monotonic() - began < QUICK_S
        assert client.get("/readyz").status_code == 200, "the other shards' customers need this replica"
        # Raw events do not lie on the shard.
        headers = {"Authorization": f"Bearer {world.tokens[sick]}"}
        exact = client.post("/v1/query", json=TOTALS | {"metrics": ["users"], "exact": True}, headers=headers)
        assert exact.status_code == 200
        batch = client.post("/v1/query", json={"queries": [TOTALS, TOTALS]}, headers=headers).json()
        assert [answer["error"]["status"] for answer in batch["answers"]] == [503, 503]

        start_part(frail)
        wait_until(lambda: ask(sick).status_code == 200, 15)


def test_a_moved_range_is_followed_and_the_customer_is_bound_in_the_database(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres"), tmp_path)
    world = make_world(settings, postgres.shards, count=60)
    mine, theirs = world.customers
    headers = {"Authorization": f"Bearer {world.tokens[mine]}"}
    with running_api(settings) as url, httpx.Client(base_url=url, timeout=20, headers=headers) as client:
        assert client.post("/v1/query", json=TOTALS).json()["rows"] == [[60]]
        # The range is said to be moved, and the map does not know better: a refusal, never an empty answer.
        _set_state(postgres, mine, "moved")
        assert client.post("/v1/query", json=TOTALS).status_code == 503
        _set_state(postgres, mine, "owned")
        assert client.post("/v1/query", json=TOTALS).json()["rows"] == [[60]]
        with connect_control(settings) as control:
            control.execute("UPDATE shard_map SET epoch = epoch + 100")
        assert client.post("/v1/query", json=TOTALS).json()["rows"] == [[60]]
    _row_level_security(postgres, mine, theirs)


def _set_state(postgres: Databases, customer: int, state: str) -> None:
    import psycopg

    with psycopg.connect(postgres.shard_dsn(0)) as shard:
        shard.execute("UPDATE range_owner SET state = %s WHERE keys @> %s::int8", (state, customer))


def _row_level_security(postgres: Databases, mine: int, theirs: int) -> None:
    """The reader role sees the customer that the transaction names, and without one nothing."""
    import psycopg

    with psycopg.connect(postgres.shard_dsn(0, postgres.reader)) as shard:
        counts = []
        for customer in (mine, theirs, None):
            if customer is not None:
                shard.execute("SELECT set_config('headrace.customer_id', %s, true)", (str(customer),))
            counts.append(shard.execute("SELECT count(*) FROM rollup_rows").fetchone())
            shard.rollback()
    assert counts[0] is not None
    assert counts[0][0] > 0
    assert counts[1:] == [(0,), (0,)]
