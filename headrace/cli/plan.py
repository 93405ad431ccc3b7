"""`headrace plan`: a customer's tracking plan: show, set, infer from seen events, remove."""

import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import rich_click as click

from headrace.cli.query import printable
from headrace.errors import HeadraceError, UnavailableError, UsageError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.plans import (
    PLAN_BYTES_MAX,
    Plan,
    StoredPlan,
    check_plan,
    parse_plan,
    plan_document,
    plan_rules,
    read_plan,
    remove_plan,
    write_plan,
)

EVENTS_DEFAULT: Final = 10_000
EVENTS_MAX: Final = 1_000_000
LOOK_BACK_S: Final = 30 * 86_400
"""How far `plan set` looks for the newest events."""
QUERY_TIMEOUT_S: Final = 120
SHOWN_MAX: Final = 20
"""Broken rules that are listed."""
FILE_BYTES_MAX: Final = 4 * PLAN_BYTES_MAX
"""Of a file with blanks and line breaks."""

_SPAN = re.compile(r"(\d{1,5})([mhdw])")
_SPAN_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_NEWEST = """
    SELECT type, name, properties FROM events FINAL
    WHERE customer_id = {customer:Int64} AND timestamp >= now64(6) - toIntervalSecond({seconds:Int64})
    ORDER BY timestamp DESC LIMIT {events:Int64}
"""


@click.group("plan")
def command() -> None:
    """A customer's tracking plan: JSON Schema by event name, and what becomes of events that do not fit."""


@command.command("show")
@click.argument("customer_id", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print the version and the plan as one JSON object.")
def show(customer_id: int, as_json: bool) -> None:
    """Print the plan of CUSTOMER_ID, as `plan set` takes it."""
    with connect_control(Settings.load()) as connection:
        stored = read_plan(connection, customer_id)
    if as_json:
        click.echo(json.dumps(_as_dict(customer_id, stored)))
        return
    if stored is None:
        click.echo(f"customer {customer_id} has no plan; next: headrace plan infer {customer_id}", err=True)
        return
    click.echo(_text(stored.plan))
    click.echo(f"version {stored.version}, set {stored.updated_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC", err=True)


@command.command("set")
@click.argument("customer_id", type=int)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--events",
    "count",
    type=click.IntRange(0, EVENTS_MAX),
    default=EVENTS_DEFAULT,
    show_default=True,
    help="Newest stored events that are judged by it.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def set_(customer_id: int, file: Path, count: int, dry_run: bool, as_json: bool) -> None:
    """Set the plan of CUSTOMER_ID to the JSON in FILE: shows which rules come and go, and how many of the newest
    stored events break it."""
    settings = Settings.load()
    plan = _read(file)
    with connect_control(settings) as connection:
        before = read_plan(connection, customer_id)
        looked = _look(settings, customer_id, plan, count)
        version = None if dry_run else write_plan(connection, customer_id, plan)
    old, new = plan_rules(before.plan if before else None), plan_rules(plan)
    added, removed = sorted(set(new) - set(old)), sorted(set(old) - set(new))
    if as_json:
        told = {"added": added, "removed": removed, "stored_events": looked}
        click.echo(json.dumps({"customer_id": customer_id, "version": version, "dry_run": dry_run, **told}))
    else:
        for sign, lines in (("-", removed), ("+", added)):
            for line in lines:
                click.echo(printable(f"{sign} {line}"))
        _tell_look(looked)
    if dry_run:
        click.echo(f"nothing was changed; next: headrace plan set {customer_id} {file}", err=True)
    else:
        click.echo(f"set as version {version}; gateways follow within {settings.write_key_cache_s:g} s", err=True)
        click.echo("next: GET /v1/plan/violations on the API tells what breaks it", err=True)


@command.command("infer")
@click.argument("customer_id", type=int)
@click.option("--since", default="7d", show_default=True, help="How far back to read: 30m, 24h, 7d, 4w.")
@click.option(
    "--events",
    "count",
    type=click.IntRange(1, EVENTS_MAX),
    default=100_000,
    show_default=True,
    help="Most events to read, the newest first.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan here, not to stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan with what it was made of as one JSON object.")
def infer(customer_id: int, since: str, count: int, out: Path | None, as_json: bool) -> None:
    """Write a first plan for CUSTOMER_ID from its stored events. Nothing is set."""
    settings = Settings.load()
    span = _SPAN.fullmatch(since)
    if span is None:
        raise UsageError(f"--since takes a span such as 24h or 7d, not {since!r}")
    from headrace.shards.plan_inference import infer_plan

    with connect_control(settings) as connection:
        read_plan(connection, customer_id)  # there is such a customer
    plan, counts = infer_plan(newest_events(settings, customer_id, int(span[1]) * _SPAN_S[span[2]], count))
    if not counts:
        raise UsageError(
            f"customer {customer_id} has no stored event of the last {since}", remedy="give a longer --since"
        )
    check_plan(plan)
    if out is not None:
        out.write_text(_text(plan) + "\n", encoding="utf-8")
    if as_json:
        told = {name: counts[name] for name in plan.events}
        click.echo(json.dumps({"customer_id": customer_id, "events": told, "plan": plan_document(plan)}))
    elif out is None:
        click.echo(_text(plan))
    click.echo(f"made of {sum(counts.values())} events with {len(counts)} names; read it before it is set", err=True)
    if len(counts) > len(plan.events):
        click.echo(f"{len(counts) - len(plan.events)} of the names, the rarest, have no room in a plan", err=True)
    click.echo(f"next: headrace plan set {customer_id} {out or 'FILE'} --dry-run", err=True)


@command.command("remove")
@click.argument("customer_id", type=int)
@click.option("--dry-run", is_flag=True, help="Check and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def remove(customer_id: int, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove the plan of CUSTOMER_ID: its events are not judged any more."""
    settings = Settings.load()
    with connect_control(settings) as connection:
        stored = read_plan(connection, customer_id)
        if stored is not None and not dry_run:
            if not yes and sys.stdin.isatty():
                click.confirm(f"Remove version {stored.version} of the plan?", abort=True, err=True)
            remove_plan(connection, customer_id)
    removed = stored is not None and not dry_run
    if as_json:
        click.echo(json.dumps({"customer_id": customer_id, "removed": removed, "dry_run": dry_run}))
    if stored is None:
        click.echo(f"customer {customer_id} has no plan", err=True)
    elif dry_run:
        click.echo(f"would remove version {stored.version}; keep a copy: headrace plan show {customer_id}", err=True)
    else:
        click.echo(f"removed; gateways follow within {settings.write_key_cache_s:g} s", err=True)


def newest_events(settings: Settings, customer_id: int, within_s: int, count: int) -> Iterator[tuple[str, str, str]]:
    """(type, name, properties as JSON) of the newest stored events, block by block. Raises ConfigurationError,
    UnavailableError."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    from headrace import clickhouse

    client = clickhouse.connect(settings)
    try:
        with client.query_row_block_stream(
            _NEWEST,
            parameters={"customer": customer_id, "seconds": within_s, "events": count},
            settings={"max_execution_time": QUERY_TIMEOUT_S},
        ) as blocks:
            for block in blocks:
                yield from block
    except (ClickHouseError, OSError) as error:
        raise UnavailableError(f"ClickHouse did not answer: {str(error).splitlines()[0][:300]}") from error
    finally:
        client.close()


def _look(settings: Settings, customer_id: int, plan: Plan, count: int) -> dict[str, Any]:
    """How the newest stored events fare under the plan; `looked` None and why, where they cannot be had."""
    if not settings.clickhouse or not count:
        return {"looked": None, "why": "no events were asked for" if settings.clickhouse else "clickhouse is not set"}
    from producers.gateway.plan import CompiledPlan

    judged = CompiledPlan(plan)
    looked = 0
    broken: dict[tuple[str, str, str], int] = {}
    try:
        for type_, name, properties in newest_events(settings, customer_id, LOOK_BACK_S, count):
            looked += 1
            violation = judged.judge(type_, name, properties or "{}")
            if violation is not None:
                key = violation.rule[:3]
                broken[key] = broken.get(key, 0) + 1
    except HeadraceError as error:  # a plan can be set while the raw store is away
        return {"looked": None, "why": error.message}
    rules = [
        {"event": event, "path": path, "rule": rule, "events": events}
        for (event, path, rule), events in sorted(broken.items(), key=lambda item: (-item[1], item[0]))
    ]
    return {"looked": looked, "violating": sum(broken.values()), "rules": rules}


def _tell_look(looked: dict[str, Any]) -> None:
    if looked["looked"] is None:
        click.echo(f"did not look at stored events: {looked['why']}", err=True)
        return
    click.echo(f"{looked['violating']} of the newest {looked['looked']} stored events break it", err=True)
    for rule in looked["rules"][:SHOWN_MAX]:
        click.echo(printable(f"  {rule['events']:>8}  {rule['event']!r} {rule['path']}: {rule['rule']}"), err=True)


def _read(file: Path) -> Plan:
    if file.stat().st_size > FILE_BYTES_MAX:
        raise UsageError(f"{file} has more than {FILE_BYTES_MAX} bytes")
    try:
        return parse_plan(file.read_bytes())
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", remedy=error.remedy) from error


def _text(plan: Plan) -> str:
    return json.dumps(plan_document(plan), indent=2)


def _as_dict(customer_id: int, stored: StoredPlan | None) -> dict[str, Any]:
    return {
        "customer_id": customer_id,
        "version": stored.version if stored else None,
        "updated_at": stored.updated_at.astimezone(UTC).isoformat() if stored else None,
        "plan": plan_document(stored.plan) if stored else None,
    }
