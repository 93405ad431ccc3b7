"""`headrace config show`: every setting, its value, and where it came from."""

import json

import rich_click as click

from headrace.settings import DECLARED, MASK, Settings


@click.group("config")
def command() -> None:
    """Look at the configuration."""


@command.command("show")
@click.option("--origin", is_flag=True, help="Show where each value came from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(origin: bool, as_json: bool) -> None:
    """Print all settings. Secrets are masked."""
    settings = Settings.load()
    rows = [
        {
            "name": name,
            "value": MASK if declared.secret and getattr(settings, name) else getattr(settings, name),
            "origin": settings.origin(name),
            "doc": declared.doc,
        }
        for name, declared in DECLARED.items()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    width = max(len(name) for name in DECLARED)
    for row in rows:
        source = f"  ({row['origin']})" if origin else ""
        click.echo(f"{row['name']:<{width}}  {row['value']!s}{source}  # {row['doc']}")
