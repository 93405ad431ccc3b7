"""`headrace topics`: list and create the topics, and register their schemas where `schema_registry_url` says."""

import json
import sys

import rich_click as click

from headrace.schema_registry import register_schemas
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
    """Create the topics that are missing, and register their schemas where schema_registry_url is set.

    Safe to repeat; an existing topic is never altered.
    """
    settings = Settings.load()
    if not dry_run and not yes and sys.stdin.isatty():
        subjects = [f"schema {item.subject}" for item in register_schemas(settings, dry_run=True)]
        names = ", ".join([item.name for item in create_topics(settings, dry_run=True)] + subjects) or "nothing"
        click.confirm(f"Create {names} at {settings.kafka}?", abort=True, err=True)
    registered = register_schemas(
        settings, dry_run=dry_run
    )  # first: a registry that refuses us leaves nothing behind
    made = create_topics(settings, dry_run=dry_run)
    if as_json:
        created = [{"topic": item.name, "partitions": item.partitions, "config": dict(item.config)} for item in made]
        schemas = [
            {"subject": item.subject, "id": item.schema.schema_id, "version": item.schema.version}
            for item in registered
        ]
        click.echo(json.dumps({"dry_run": dry_run, "created": created, "registered": schemas}))
    else:
        for item in made:
            click.echo(f"{item.name}  {item.partitions} partitions")
        for schema in registered:
            click.echo(f"{schema.subject}  schema id {schema.schema.schema_id}")
    done = f"{len(made)} created"
    if settings.schema_registry_url:
        done += f", {len(registered)} schemas registered"
    if dry_run and (made or registered):
        done = f"{len(made) + len(registered)} to create; run it without --dry-run"
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
