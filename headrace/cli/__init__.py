"""The command line: `headrace VERB`.

A verb is a module of this package with a click command named `command`; it is imported when it is called, so that
`headrace --help` stays fast whatever the verbs need. Data goes to stdout, messages to stderr. Exit codes: 0, 1
failed, 2 usage, 3 unhealthy, 78 configuration, 130 interrupted.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import rich_click as click

from headrace import __version__
from headrace.errors import HeadraceError

VERBS: Mapping[str, str] = {
    "demo": "Try Headrace: the whole system, with a year of real orders, on this machine.",
    "up": "Run the whole system on this machine and keep its data.",
    "run": "Run one service: ingest, streams, sink or api.",
    "doctor": "Check this machine: ports, memory, disk, Java.",
    "config": "Show every setting, its value and where it came from.",
    "kafka": "Install Apache Kafka for this machine.",
    "migrate": "Bring the stores' tables up to date.",
    "topics": "List or create the topics.",
    "lag": "How far workers and sinks are behind.",
    "customers": "Create and list customers.",
    "keys": "Create, list and revoke write keys.",
    "plan": "Set, show, infer and remove a customer's tracking plan.",
    "token": "Issue and revoke API tokens.",
    "query": "Ask the query API.",
    "tail": "Watch events arrive.",
    "backfill": "Import files of events.",
    "load": "Generate a reproducible stream of events.",
}
EXIT_INTERRUPTED = 130


class LazyGroup(click.RichGroup):
    """A group that imports a verb's module only when the verb is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        if ctx.resilient_parsing or "--help" in sys.argv[1:2]:
            return click.Command(cmd_name, short_help=VERBS[cmd_name])
        command: click.Command = importlib.import_module(f"headrace.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            if near:
                error.message += f" Did you mean {near[0]!r}?"
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headrace")
def cli() -> None:
    """Event-streaming analytics: SDK events in, live per-customer dashboards out, every event counted once."""


def main() -> None:
    """The console script. Turns our errors into one line on stderr and an exit code."""
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except HeadraceError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
