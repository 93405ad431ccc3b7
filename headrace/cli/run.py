"""`headrace run SERVICE`: one service in this process, until SIGTERM or Ctrl-C."""

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Final

import rich_click as click

from headrace import log
from headrace.memory import use_one_heap
from headrace.settings import Settings

SERVICES: Mapping[str, str] = {
    "ingest": "producers.gateway.serve",
    "streams": "streams.worker",
    "sink": "sinks.serve",
    "api": "api.serve",
}
ONE_HEAP: Final = frozenset(("streams",))
"""Those that keep large arrays for hours."""


@click.command("run")
@click.argument("service", type=click.Choice(list(SERVICES)))
def command(service: str) -> None:
    """Run one SERVICE. Everything else about it comes from HEADRACE_* settings (`headrace config show`)."""
    settings = Settings.load()
    log.configure(settings, service)
    if service in ONE_HEAP:
        use_one_heap()
    status: int = importlib.import_module(SERVICES[service]).run(settings)
    # The service has let go of everything. Threads of its libraries (Granian's are Rust) may not: met by the
    # interpreter's end they abort the process, about once in 25 stops under load, and a clean stop would look like
    # a crash. So the process ends here.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
