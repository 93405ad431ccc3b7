"""`headrace plan` on a real control database and a real raw store: infer, set, show, remove."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from headrace import clickhouse
from headrace.cli import cli
from headrace.errors import UsageError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.plans import read_plan
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import make_control

Run = Callable[..., Result]

PLAN = {
    "mode": "reject",
    "unplanned": "warn",
    "events": {"order": {"schema": {"required": ["total"], "properties": {"total": {"type": "number"}}}}},
}


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    settings = make_settings("postgres", "clickhouse")
    make_control(settings, postgres.shards)
    return settings


@pytest.fixture
def customer(settings: Settings) -> int:
    with connect_control(settings) as control:
        create_customer(control, "another shop")
        return create_customer(control, "shop").customer_id


@pytest.fixture
def run(settings: Settings) -> Run:
    return running(settings)


def running(settings: Settings) -> Run:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(cli, ["plan", *map(str, arguments)], env=settings.as_environment())

    return invoke


def data(result: Result) -> Any:
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def store(settings: Settings, customer_id: int, events: list[tuple[str, str, Any]], age: timedelta) -> None:
    """Insert (type, name, properties), the last one the newest, as the sink writes them."""
    start = datetime.now(UTC) - age
    rows = [
        [customer_id, start + timedelta(milliseconds=i), type_, name, f"m{i}", json.dumps(properties), 0, i]
        for i, (type_, name, properties) in enumerate(events)
    ]
    names = ["customer_id", "timestamp", "type", "name", "message_id", "properties", "log_partition", "log_offset"]
    client = clickhouse.connect(settings)
    client.insert("events", rows, column_names=names)
    client.insert("events", rows[:5], column_names=names)  # repeated, as a sink that was stopped does
    client.close()


def file_of(folder: Path, plan: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def test_a_plan_is_shown_set_changed_and_removed(run: Run, customer: int, tmp_path: Path, settings: Settings) -> None:
    none = run("show", customer)
    assert none.stdout == ""
    assert f"next: headrace plan infer {customer}" in none.stderr
    assert data(run("show", customer, "--json"))["plan"] is None

    file = file_of(tmp_path, PLAN)
    dry = data(run("set", customer, file, "--dry-run", "--json"))
    assert (dry["version"], dry["dry_run"], dry["removed"]) == (None, True, [])
    assert "'order' $.total: type \"number\"" in dry["added"]
    assert data(run("show", customer, "--json"))["plan"] is None, "a dry run changes nothing"

    assert data(run("set", customer, file, "--json"))["version"] == 1
    shown = run("show", customer)
    assert json.loads(shown.stdout)["events"]["order"]["schema"] == PLAN["events"]["order"]["schema"]  # type: ignore[index]
    assert "version 1" in shown.stderr
    again = run("set", customer, file_of(tmp_path, json.loads(shown.stdout) | {"unplanned": "allow"}))
    assert again.exception is None
    assert again.stdout.splitlines() == ["- unplanned warn", "+ unplanned allow"], "what is shown can be set"
    assert "version 2" in again.stderr

    assert data(run("remove", customer, "--dry-run", "--json"))["removed"] is False
    assert data(run("remove", customer, "--yes", "--json"))["removed"] is True
    assert data(run("show", customer, "--json"))["plan"] is None
    assert "has no plan" in run("remove", customer, "--yes").stderr
    assert data(run("set", customer, file, "--json"))["version"] == 4, "never a version that was another plan's"
    with connect_control(settings) as control:
        others = control.execute("SELECT count(*) FROM tracking_plans").fetchone()
    assert others == (1,)


def test_what_cannot_be_done_is_a_usage_error_that_names_it(run: Run, customer: int, tmp_path: Path) -> None:
    wrong = file_of(tmp_path, {"events": {"order": {"schema": {"properties": {"a": {"minimun": 1}}}}}})
    refused = run("set", customer, wrong)
    assert isinstance(refused.exception, UsageError)
    assert "/events/order/schema/properties/a" in str(refused.exception)
    assert "did you mean 'minimum'" in str(refused.exception)
    file = file_of(tmp_path, PLAN)
    for arguments in (("show", 999_999), ("set", 999_999, file), ("remove", 999_999), ("infer", 999_999)):
        unknown = run(*arguments)
        assert isinstance(unknown.exception, UsageError), arguments
        assert "there is no customer 999999" in str(unknown.exception)
    assert isinstance(run("infer", customer, "--since", "ever").exception, UsageError)
    assert "no stored event" in str(run("infer", customer).exception)


def test_setting_tells_how_many_of_the_newest_stored_events_break_it(
    run: Run, customer: int, tmp_path: Path, settings: Settings
) -> None:
    old: list[tuple[str, str, Any]] = [("track", "order", {})] * 30
    new: list[tuple[str, str, Any]] = [("track", "order", {"total": 1})] * 10 + [
        ("track", "order", {"total": "1"})
    ] * 4
    new += [("track", "order", {})] * 2 + [("identify", "", {})] * 3 + [("track", "stray\x1b[2J", {})]
    store(settings, customer, [*old, *new], timedelta(hours=1))
    store(settings, customer + 1, [("track", "order", {})], timedelta(hours=1))
    file = file_of(tmp_path, PLAN)
    looked = data(run("set", customer, file, "--dry-run", "--events", 20, "--json"))["stored_events"]
    assert looked == {
        "looked": 20,
        "violating": 7,
        "rules": [
            {"event": "order", "path": "$.total", "rule": "type", "events": 4},
            {"event": "order", "path": "$.total", "rule": "required", "events": 2},
            {"event": "stray\x1b[2J", "path": "$", "rule": "unplanned", "events": 1},
        ],
    }
    told = run("set", customer, file, "--dry-run").stderr
    assert "37 of the newest 50 stored events break it" in told
    assert "\x1b" not in told, "a terminal obeys nothing that stands in an event"
    assert f"next: headrace plan set {customer}" in told


def test_without_the_raw_store_a_plan_is_set_and_it_says_that_it_did_not_look(
    settings: Settings, customer: int, tmp_path: Path, make_settings: MakeSettings
) -> None:
    away = Settings.load(environ=settings.as_environment() | {"HEADRACE_CLICKHOUSE": "http://127.0.0.1:9/x"})
    none = Settings.load(environ=settings.as_environment() | {"HEADRACE_CLICKHOUSE": ""})
    for number, (without, why) in enumerate(((away, "does not answer"), (none, "clickhouse is not set")), 1):
        told = running(without)("set", customer, file_of(tmp_path, PLAN))
        assert told.exception is None, told.exception
        assert "did not look at stored events" in told.stderr
        assert why in told.stderr
        assert f"set as version {number}" in told.stderr
    assert running(away)("infer", customer).exception is not None


def test_an_inferred_plan_can_be_set_and_breaks_nothing_it_was_made_of(
    run: Run, customer: int, tmp_path: Path, settings: Settings
) -> None:
    events: list[tuple[str, str, Any]] = [
        ("track", "order", {"total": i + 0.5 * (i % 2), "size": "SML"[i % 3], "note": None if i % 5 else "é"})
        for i in range(120)
    ]
    events += [("page", "Home", {"url": f"/{i}"}) for i in range(60)] + [("identify", "", {"email": "a"})]
    store(settings, customer, events, timedelta(days=2))
    store(settings, customer + 1, [("track", "not mine", {})], timedelta(days=2))
    out = tmp_path / "first.json"
    made = run("infer", customer, "--out", out)
    assert made.exception is None, made.exception
    assert made.stdout == ""
    assert "made of 181 events with 3 names" in made.stderr
    assert f"next: headrace plan set {customer} {out} --dry-run" in made.stderr
    plan = json.loads(out.read_text())
    assert (plan["mode"], plan["unplanned"], list(plan["events"])) == ("warn", "allow", ["order", "page", "identify"])
    assert plan["events"]["order"]["schema"] == {
        "type": "object",
        "properties": {
            "total": {"type": "number"},
            "size": {"enum": ["L", "M", "S"]},
            "note": {"type": ["null", "string"]},
        },
        "required": ["note", "size", "total"],
    }
    assert plan == data(run("infer", customer)), "without --out it is the output"
    as_json = data(run("infer", customer, "--json", "--since", "3d"))
    assert (as_json["plan"], as_json["events"]["order"]) == (plan, 120)
    assert "no stored event" in str(run("infer", customer, "--since", "24h").exception)
    assert data(run("infer", customer, "--json", "--events", 1))["events"] == {"identify": 1}
    set_ = data(run("set", customer, out, "--json"))
    assert set_["stored_events"] == {"looked": 181, "violating": 0, "rules": []}
    with connect_control(settings) as control:
        stored = read_plan(control, customer)
    assert stored is not None
    assert stored.plan.mode == "warn"
