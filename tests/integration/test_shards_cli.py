"""The verbs that set a system up, on real stores: migrate, topics, customers, keys, lag."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from headrace.cli import cli
from headrace.errors import HeadraceError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.write_keys import find_customer
from tests.integration.conftest import Databases, MakeSettings

Run = Callable[..., Result]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings("kafka", "postgres", "clickhouse", events_partitions=2)


@pytest.fixture
def run(settings: Settings) -> Run:
    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), input=stdin, env=settings.as_environment())

    return invoke


@pytest.fixture
def migrated(run: Run, postgres: Databases) -> None:
    shards = [f"--shard=shard-{number}={address}" for number, address in enumerate(postgres.shards, 1)]
    assert done(run("migrate", "--yes", *shards))


def done(result: Result) -> Result:
    assert result.exception is None, result.exception
    return result


def data(result: Result) -> Any:
    return json.loads(done(result).stdout)


def test_migrate_plans_applies_and_says_what_comes_next(run: Run, postgres: Databases) -> None:
    shards = [f"--shard=shard-{number}={address}" for number, address in enumerate(postgres.shards, 1)]
    planned = data(run("migrate", *shards, "--dry-run", "--json"))
    assert planned["dry_run"] is True
    applied = run("migrate", *shards, "--json")
    assert data(applied)["steps"] == planned["steps"] != []
    assert "next: headrace topics create" in applied.stderr
    assert data(run("migrate", "--json"))["steps"] == []


def test_topics_are_made_once_and_a_changed_partition_count_is_refused(run: Run, settings: Settings) -> None:
    assert len(data(run("topics", "create", "--dry-run", "--json"))["created"]) == 5
    assert {item["partitions"] for item in data(run("topics", "list", "--json"))} == {None}
    made = data(run("topics", "create", "--yes", "--json"))["created"]
    assert {item["topic"] for item in made} >= {settings.topic_prefix + name for name in ("events", "aggregates")}
    assert data(run("topics", "create", "--json"))["created"] == []
    other = CliRunner().invoke(
        cli, ["topics", "create"], env=settings.as_environment() | {"HEADRACE_EVENTS_PARTITIONS": "3"}
    )
    assert isinstance(other.exception, HeadraceError)
    assert "2 partitions instead of 3" in str(other.exception)


@pytest.mark.usefixtures("migrated")
def test_a_customer_and_a_key_from_nothing(run: Run, settings: Settings) -> None:
    assert run("customers", "create", "Acme", "--dry-run").stdout == ""
    assert data(run("customers", "list", "--json")) == []
    made = run("customers", "create", "Acme", "--json")
    customer = data(made)["customer_id"]
    assert f"headrace keys create {customer}" in made.stderr
    assert [item["name"] for item in data(run("customers", "list", "--json"))] == ["Acme"]

    key = data(run("keys", "create", str(customer), "--label", "web", "--json"))
    with connect_control(settings) as control:
        assert find_customer(control, key["write_key"]) == customer
        listed = run("keys", "list", "--json")
        assert key["write_key"] not in listed.stdout
        assert [item["label"] for item in data(listed)] == ["web"]
        assert len(data(run("keys", "revoke", key["hint"], "--dry-run", "--json"))) == 1
        assert find_customer(control, key["write_key"]) == customer
        done(run("keys", "revoke", "--stdin", "--yes", stdin=key["write_key"] + "\n"))
        assert find_customer(control, key["write_key"]) is None


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize(
    "arguments",
    [("keys", "create", "77"), ("keys", "revoke", "wk_none"), ("keys", "revoke"), ("customers", "create", " ")],
)
def test_what_cannot_be_done_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    error = run(*arguments).exception
    assert isinstance(error, HeadraceError)
    assert error.exit_code == 2
    assert error.remedy or "characters" in error.message


@pytest.mark.usefixtures("migrated")
def test_lag_names_every_store_and_one_that_is_down(run: Run, settings: Settings) -> None:
    done(run("topics", "create"))
    lags = data(run("lag", "--json"))
    assert [item["store"] for item in lags] == [
        "postgres shard-1",
        "postgres shard-2",
        "clickhouse events",
        "clickhouse rollups",
    ]
    assert all((item["events"], item["frames"], item["error"]) == (0, 0, None) for item in lags)
    with psycopg.connect(settings.postgres_control, autocommit=True) as connection:
        connection.execute("UPDATE shards SET address = '127.0.0.1:1/gone' WHERE shard_id = 'shard-2'")
    result = run("lag", "--json")
    errors = {item["store"]: item["error"] for item in data(result)}
    assert "does not answer" in errors["postgres shard-2"]
    assert errors["postgres shard-1"] is None
    assert "headrace doctor" in result.stderr
