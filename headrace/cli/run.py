"""`headrace run SERVICE`: one service in this process, until SIGTERM or Ctrl-C."""

import importlib
from collections.abc import Mapping

import rich_click as click

from headrace import log
from headrace.settings import Settings

SERVICES: Mapping[str, str] = {
    "ingest": "producers.gateway.serve",
    "streams": "streams.worker",
    "sink": "sinks.serve",
    "api": "api.serve",
}


@click.command("run")
@click.argument("service", type=click.Choice(list(SERVICES)))
def command(service: str) -> int:
    """Run one SERVICE. Everything else about it comes from HEADRACE_* settings (`headrace config show`)."""
    settings = Settings.load()
    log.configure(settings, service)
    status: int = importlib.import_module(SERVICES[service]).run(settings)
    return status
