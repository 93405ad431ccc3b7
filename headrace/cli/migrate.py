"""`headrace migrate`: bring the control database, every shard and ClickHouse to the newest schema."""

import json
import sys
from dataclasses import asdict

import rich_click as click

from headrace import log
from headrace.errors import UsageError
from headrace.migrations import migrate
from headrace.settings import Settings


@click.command("migrate")
@click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="NAME=HOST:PORT/DATABASE",
    help="Register a shard; the first ones get all ranges of customers dealt over them. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be applied; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(shards: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Apply the migrations that are missing. Safe to repeat."""
    settings = Settings.load()
    log.configure(settings, "migrate")
    named = named_shards(shards)
    if not dry_run and not yes and sys.stdin.isatty():
        planned = migrate(settings, shards=named, dry_run=True)
        click.confirm(f"Apply {len(planned)} migrations?", abort=True, err=True)
    steps = migrate(settings, shards=named, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "steps": [asdict(step) for step in steps]}))
    else:
        for step in steps:
            click.echo(f"{step.store}  {step.version:04} {step.name}")
    click.echo(_summary(len(steps), dry_run), err=True)


def named_shards(items: tuple[str, ...]) -> dict[str, str]:
    """`("a=host:1/db", …)` as a mapping. Raises UsageError on a malformed or repeated name."""
    out: dict[str, str] = {}
    for item in items:
        name, separator, address = item.partition("=")
        if not separator or not name or name in out:
            raise UsageError(f"--shard {item!r} is malformed or repeated", remedy="write NAME=HOST:PORT/DATABASE")
        out[name] = address
    return out


def _summary(count: int, dry_run: bool) -> str:
    if dry_run:
        return f"{count} to apply; run it without --dry-run" if count else "nothing to apply"
    done = f"{count} applied" if count else "all stores were up to date"
    return f"{done}; next: headrace topics create"
