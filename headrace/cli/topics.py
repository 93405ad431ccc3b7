"""`headrace topics`: list and create the topics."""

import json
import sys

import rich_click as click

from headrace.settings import Settings
from headrace.topics import create_topics, topic_states


@click.group("topics")
def command() -> None:
    """List or create the topics."""


@command.command("create")
@click.option("--dry-run", is_flag=True, help="Show what would be created; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Create the topics that are missing. Safe to repeat; an existing topic is never altered."""
    settings = Settings.load()
    if not dry_run and not yes and sys.stdin.isatty():
        names = ", ".join(item.name for item in create_topics(settings, dry_run=True)) or "nothing"
        click.confirm(f"Create {names} at {settings.kafka}?", abort=True, err=True)
    made = create_topics(settings, dry_run=dry_run)
    if as_json:
        created = [{"topic": item.name, "partitions": item.partitions, "config": dict(item.config)} for item in made]
        click.echo(json.dumps({"dry_run": dry_run, "created": created}))
    else:
        for item in made:
            click.echo(f"{item.name}  {item.partitions} partitions")
    done = f"{len(made)} to create; run it without --dry-run" if dry_run and made else f"{len(made)} created"
    click.echo(f"{done}; next: headrace customers create NAME", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the topics as defined, and whether they exist."""
    states = topic_states(Settings.load())
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "topic": s.definition.name,
                        "defined_partitions": s.definition.partitions,
                        "partitions": s.partitions,
                    }
                    for s in states
                ]
            )
        )
        return
    for state in states:
        found = "missing" if state.partitions is None else f"{state.partitions} partitions"
        click.echo(f"{state.definition.name:<32}  {found}")
    if any(state.partitions is None for state in states):
        click.echo("next: headrace topics create", err=True)
