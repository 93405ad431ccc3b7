"""`headrace customers show` and `set` on a real control database: what changes, what is refused, what comes next."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from headrace.cli import cli
from headrace.errors import UsageError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.policy import OPEN, Policy, Quota, read_policy
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import make_control

Run = Callable[..., Result]


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    made = make_settings("postgres")
    make_control(made, postgres.shards)
    return made


@pytest.fixture
def customer_id(settings: Settings) -> int:
    with connect_control(settings) as control:
        return create_customer(control, "shop").customer_id


@pytest.fixture
def run(settings: Settings) -> Run:
    def invoke(*arguments: Any) -> Result:
        return CliRunner().invoke(
            cli, ["customers", *map(str, arguments)], env=settings.as_environment(), standalone_mode=False
        )

    return invoke


@pytest.fixture
def stored(settings: Settings, customer_id: int) -> Callable[[], Policy]:
    def read() -> Policy:
        with connect_control(settings) as control:
            return read_policy(control, customer_id)

    return read


def done(result: Result) -> Result:
    assert result.exception is None, result.exception
    return result


def refusal(result: Result) -> str:
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    return str(result.exception)


def test_a_policy_is_set_and_shown(run: Run, customer_id: int, stored: Callable[[], Policy]) -> None:
    first = done(run("set", customer_id, "--address", "truncate", "--drop", "email, $Phone", "--hash", "name",
                     "--honour-dnt", "--per-second", 100, "--burst", 500, "--per-month", 1_000_000))  # fmt: skip
    assert first.stdout.splitlines() == [
        "address       keep → truncate",
        "drop          nothing → email, $Phone",
        "hash          nothing → name",
        "honour-dnt    no → yes",
        "per-second    unlimited → 100",
        "burst         unlimited → 500",
        "per-month     unlimited → 1,000,000",
    ]
    assert f"next: headrace customers show {customer_id}" in first.stderr
    assert "HEADRACE_PRIVACY_KEY" in first.stderr, "without the key, hashed names would be dropped"
    quota = Quota(per_second=100, burst=500, per_month=1_000_000)
    policy = Policy(address="truncate", drop=("email", "$Phone"), hash=("name",), honour_dnt=True, quota=quota)
    assert stored() == policy

    shown = done(run("show", customer_id))
    assert "drop          email, $Phone" in shown.stdout.splitlines()
    assert f"headrace customers set {customer_id}" in shown.stderr
    assert json.loads(done(run("show", customer_id, "--json")).stdout) == {
        "customer_id": customer_id,
        "policy": {
            "address": "truncate",
            "drop": ["email", "$Phone"],
            "hash": ["name"],
            "honour_dnt": True,
            "quota": {"per_second": 100, "burst": 500, "per_month": 1_000_000},
        },
    }


def test_names_add_up_and_fields_are_cleared(run: Run, customer_id: int, stored: Callable[[], Policy]) -> None:
    done(run("set", customer_id, "--drop", "a", "--drop", "b"))
    done(run("set", customer_id, "--drop", "c", "--no-honour-dnt"))
    assert stored().drop == ("a", "b", "c")
    changed = json.loads(done(run("set", customer_id, "--clear", "drop", "--hash", "a", "--json")).stdout)
    assert (changed["before"]["drop"], changed["after"]["drop"], changed["changed"]) == (["a", "b", "c"], [], True)
    assert stored() == Policy(hash=("a",))
    done(run("set", customer_id, "--clear", "all"))
    assert stored() == OPEN


def test_a_dry_run_changes_nothing(run: Run, customer_id: int, stored: Callable[[], Policy]) -> None:
    planned = done(run("set", customer_id, "--address", "drop", "--dry-run"))
    assert planned.stdout == "address       keep → drop\n"
    assert "nothing was changed" in planned.stderr
    assert json.loads(done(run("set", customer_id, "--address", "drop", "--dry-run", "--json")).stdout)["dry_run"]
    assert stored() == OPEN
    assert "already so" in done(run("set", customer_id, "--address", "keep")).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--address", "trunkate"], "did you mean truncate"),
        (["--clear", "per-secnd"], "did you mean per-second"),
        (["--burst", "5"], "burst needs per_second"),
        (["--per-second", "-1"], "per_second must be 0 to"),
        (["--drop", "Email", "--hash", "$email"], "cannot be both"),
        (["--drop", "x" * 201], "a property's name has 1 to 200 characters"),
        ([], "nothing to set"),
        (["--drop", " , "], "nothing to set"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(
    run: Run, customer_id: int, stored: Callable[[], Policy], arguments: list[str], told: str
) -> None:
    assert told in refusal(run("set", customer_id, *arguments))
    assert stored() == OPEN


def test_an_unknown_customer_is_named(run: Run, settings: Settings) -> None:
    assert "there is no customer 999" in refusal(run("show", 999))
    assert "there is no customer 999" in refusal(run("set", 999, "--address", "drop"))
