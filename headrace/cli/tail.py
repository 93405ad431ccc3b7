"""`headrace tail`: watch a customer's events arrive."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import rich_click as click

from headrace.cli.query import api_url, ask, raise_for, token_of
from headrace.settings import Settings

POLL_S = 2.0
PAGE = 100
RECONNECT_S = 1.0
LIVE_UNAVAILABLE = 503


@click.command("tail")
@click.option("--url", help="The API's address. Default: from api_host and api_port.")
@click.option("--customer", type=click.IntRange(min=1), help="Make a short-lived token for this customer here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--for", "seconds", type=float, help="Stop after this many seconds. Default: at Ctrl-C.")
def command(url: str | None, customer: int | None, as_json: bool, seconds: float | None) -> int:
    """Print events as they arrive: a sample of the live stream, or every one by polling where there is none.

    The token comes from HEADRACE_TOKEN, or `--customer ID` makes one.
    """
    settings = Settings.load()
    address = api_url(url, settings)
    token = token_of(customer, settings)
    until = None if seconds is None else time.monotonic() + seconds
    for event in _events(address, token, until):
        click.echo(json.dumps(event) if as_json else _line(event))
    return 0


def _events(url: str, token: str, until: float | None) -> Iterator[dict[str, Any]]:
    last_id: str | None = None
    while not _over(until):
        try:
            with httpx.Client(timeout=httpx.Timeout(10.0, read=15.0)) as client:
                headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last_id} if last_id else {})
                with client.stream("GET", f"{url}/v1/live", headers=headers) as response:
                    if response.status_code == LIVE_UNAVAILABLE:
                        break
                    if not response.is_success:
                        response.read()
                        raise_for(response)
                    for name, data, entry_id in _messages(response.iter_lines()):
                        last_id = entry_id or last_id
                        if name == "events":
                            yield from data["events"]
                        if _over(until):
                            return
        except httpx.TransportError:
            time.sleep(RECONNECT_S)
    click.echo("no live stream here; polling", err=True)
    yield from _polled(url, token, until)


def _messages(lines: Iterator[str]) -> Iterator[tuple[str, Any, str | None]]:
    """Server-sent events: name, data, and the id to resume from where one came along."""
    name, data, last_id = "message", "", None
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
        elif line.startswith("id: "):
            last_id = line[4:]
        elif not line and data:
            yield name, json.loads(data), last_id
            name, data, last_id = "message", "", None


def _polled(url: str, token: str, until: float | None) -> Iterator[dict[str, Any]]:
    """Events of the last minutes that were not there at the poll before."""
    seen: dict[str, None] = {}
    while not _over(until):
        answer = ask(url, token, {"kind": "events", "range": {"from": "-10m"}, "limit": PAGE})
        names = [column["name"] for column in answer["columns"]]
        first = not seen
        for row in reversed(answer["rows"]):
            event = dict(zip(names, row, strict=True))
            if event["message_id"] in seen:
                continue
            seen[event["message_id"]] = None
            if not first:
                yield event
        while len(seen) > 10 * PAGE:
            seen.pop(next(iter(seen)))
        time.sleep(POLL_S)


def _line(event: dict[str, Any]) -> str:
    who = event.get("user_id") or event.get("anonymous_id") or "–"
    parts = [str(event.get("timestamp")), str(event.get("event") or event.get("type")), str(who)]
    parts += [str(event[name]) for name in ("path", "country", "value") if event.get(name) is not None]
    return "  ".join(part.replace("\n", " ") for part in parts)


def _over(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until
