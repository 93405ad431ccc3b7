"""`headrace up`: the whole system on this machine, in the foreground, with its data kept."""

import json
import shlex
import signal
import threading
import urllib.request
from pathlib import Path
from types import FrameType

import rich_click as click

from headrace import log
from headrace.errors import HeadraceError
from headrace.runtime.credentials import FILE_NAME
from headrace.runtime.system import CONFIG_FILE, Plan, System, running
from headrace.settings import Settings


class StopAskedError(BaseException):
    """SIGTERM or Ctrl-C while starting. Not an Exception: nothing on the way may swallow it."""


class DataFolderError(HeadraceError):
    """The data folder cannot be used: no right, no room."""


@click.command("up")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for all data.")
@click.option("--port-base", type=int, help="First of the ports; default: free ones, kept in the folder.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write (JSON, mode 0600) when everything answers: addresses, keys, tokens, process ids.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as JSON.")
def command(data: Path, port_base: int | None, ready_file: Path | None, as_json: bool) -> int:
    """Run the whole system on this machine and keep its data: Kafka, Postgres, ClickHouse's engine, Valkey and all
    services, on loopback alone. SIGTERM or Ctrl-C stops it cleanly; a part that dies is restarted.

    Other settings are taken from HEADRACE_* as everywhere.
    """
    settings = Settings.load()
    log.configure(settings, "up")
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)  # one of an earlier run would be taken for ours
    stopping = threading.Event()
    started = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        asked_before = stopping.is_set()
        stopping.set()
        if not started and not asked_before:
            raise StopAskedError

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        with running(Plan(folder=data.resolve(), settings=settings, port_base=port_base)) as system:
            if ready_file is not None:
                system.keep_ready_file(ready_file)
            started = True
            announce(system, data, as_json=as_json)
            system.watch(stopping)
    except StopAskedError:
        click.echo("stopped before everything was up", err=True)
    except OSError as error:  # what the engines' own words do not cover: our own files on this disk
        raise DataFolderError(
            f"{error.filename or data}: {error.strerror or error}", remedy="give --data a writable folder with room"
        ) from error
    return 0


def announce(system: System, data: Path, *, as_json: bool) -> None:
    """Where everything is, to stdout; the link signs in a browser once."""
    link = system.api_url + sign_in_fragment(system)
    if as_json:
        urls = {"ingest_url": system.ingest_url, "api_url": system.api_url, "dashboard_url": link}
        click.echo(json.dumps(urls))
        return
    click.echo(f"dashboard  {link}")
    click.echo(f"ingest     {system.ingest_url}")
    click.echo(f"api        {system.api_url}")
    click.echo(f"write keys {data.resolve() / FILE_NAME} (`write_key` of each customer; tokens too)")
    click.echo("other commands find all this, and the keys, by the next line; Ctrl-C here stops everything", err=True)
    click.echo(f"export HEADRACE_CONFIG={shlex.quote(str(data.resolve() / CONFIG_FILE))}")


def sign_in_fragment(system: System) -> str:
    """`/#code=…` for the first customer's dashboard; empty, and said so, when the API gives no code."""
    body = json.dumps({"customer_id": system.credentials.customers[0].customer_id}).encode()
    headers = {"Authorization": f"Bearer {system.credentials.admin_token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{system.api_url}/v1/session/codes", data=body, headers=headers)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return "/" + str(json.loads(answer.read())["fragment"])
    except (OSError, KeyError, ValueError) as error:
        click.echo(f"the API gave no sign-in code ({error}); sign in with a token", err=True)
        return ""
