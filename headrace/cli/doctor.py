"""`headrace doctor`: whether this machine can run the system, and what to do about what is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.markup import escape

from headrace.runtime.checks import run_checks
from headrace.settings import Settings

EXIT_UNHEALTHY = 3
COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@click.command("doctor")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder that is to hold the data; default: here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(data: Path, as_json: bool) -> int:
    """Check ports, memory, disk, Java, Maven, the engines, countries and privacy.

    Exit code 3 when one of them would stop the system or breaks what was asked for.
    """
    checks = run_checks(Settings.load(), data)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in checks:
            colour = COLOURS[check.status]
            console.print(f"[{colour}]{check.status:8}[/] [bold]{check.id:12}[/] {escape(check.evidence)}")
            if check.fix:
                console.print(f"{'':22}→ {escape(check.fix)}")
    return EXIT_UNHEALTHY if any(check.status == "failed" for check in checks) else 0
