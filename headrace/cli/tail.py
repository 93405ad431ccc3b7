"""`headrace tail`: watch a customer's events arrive."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import rich_click as click

from headrace.cli.query import TIMEOUT_S, api_url, printable, raise_for, request, token_of
from headrace.errors import UnavailableError
from headrace.settings import Settings

POLL_S = 2.0
PAGE = 1000
PAGES_MAX = 5
"""Pages of one poll: what comes faster than 2,500 events a second is passed over, and the user told so."""
SEEN_MAX = 4 * PAGE * PAGES_MAX
POLLED_RANGE = "-10m"
LIVE_RETRY_S = 30.0
"""While it polls, the live stream is tried again this often."""
RECONNECT_S = 1.0
LIVE_UNAVAILABLE = 503
UNAUTHENTICATED = 401


@click.command("tail")
@click.option("--url", help="The API's address. Default: from api_host and api_port.")
@click.option("--customer", type=click.IntRange(min=1), help="Make a short-lived token for this customer here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--for", "seconds", type=float, help="Stop after this many seconds. Default: at Ctrl-C.")
def command(url: str | None, customer: int | None, as_json: bool, seconds: float | None) -> int:
    """Print events as they arrive: the sample that the live stream carries, or by polling where there is none.

    The token comes from HEADRACE_TOKEN, or `--customer ID` makes one.
    """
    settings = Settings.load()
    address = api_url(url, settings)
    access = Access(lambda: token_of(customer, settings), renewable=customer is not None)
    until = None if seconds is None else time.monotonic() + seconds
    for event in _events(address, access, until):
        click.echo(json.dumps(event) if as_json else _line(event))
    return 0


class Access:
    """The token to ask with; one that was made here is made anew when it has ended."""

    def __init__(self, make: Callable[[], str], *, renewable: bool) -> None:
        self._make = make
        self._renewable = renewable
        self._token = make()
        self._works = False

    @property
    def headers(self) -> dict[str, str]:
        """What goes with a request."""
        return {"Authorization": f"Bearer {self._token}"}

    def renewed(self, status: int) -> bool:
        """Look at an answer's status: True when the token had ended and there is a new one to try with."""
        if status != UNAUTHENTICATED:
            self._works = True
            return False
        if not self._renewable or not self._works:
            return False  # one that never worked would be made for ever
        self._works = False
        self._token = self._make()
        return True


def _events(url: str, access: Access, until: float | None) -> Iterator[dict[str, Any]]:
    last_id: str | None = None
    poller: Poller | None = None
    while not _over(until):
        unavailable = False
        try:
            with httpx.Client(timeout=httpx.Timeout(10.0, read=15.0)) as client:
                headers = access.headers | ({"Last-Event-ID": last_id} if last_id else {})
                with client.stream("GET", f"{url}/v1/live", headers=headers) as response:
                    if access.renewed(response.status_code):
                        continue
                    unavailable = response.status_code == LIVE_UNAVAILABLE
                    if not response.is_success and not unavailable:
                        response.read()
                        raise_for(response)
                    if not unavailable:
                        poller = None
                        for name, data, entry_id in _messages(response.iter_lines()):
                            last_id = entry_id or last_id
                            if name == "events":
                                yield from data["events"]
                            if _over(until):
                                return
        except httpx.TransportError:
            pass
        if not unavailable:
            time.sleep(RECONNECT_S)
            continue
        if poller is None:
            click.echo("no live stream here for now; polling", err=True)
            poller = Poller(url, access)
        retry_live_at = time.monotonic() + LIVE_RETRY_S
        while not _over(until) and not _over(retry_live_at):
            yield from poller.poll()
            time.sleep(POLL_S)


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


@dataclass(slots=True)
class Poller:
    """Finds events by asking again and again."""

    url: str
    access: Access
    _seen: dict[str, None] = field(default_factory=dict)
    _primed: bool = False

    def poll(self) -> list[dict[str, Any]]:
        """Events of the last minutes that were not there at the poll before, oldest first; none at the first poll."""
        news: list[dict[str, Any]] = []
        asked: dict[str, Any] = {"kind": "events", "range": {"from": POLLED_RANGE}, "limit": PAGE}
        for _page in range(PAGES_MAX):
            try:
                answer = self._ask(asked)
            except UnavailableError as error:
                click.echo(f"{error}; trying again", err=True)
                return []  # with nothing noted: the next poll finds the same again
            names = [column["name"] for column in answer["columns"]]
            page = [dict(zip(names, row, strict=True)) for row in answer["rows"]]
            fresh = [event for event in page if event["message_id"] not in self._seen]
            news += fresh
            if not fresh or not answer["next_cursor"]:
                break
            # The page after asks with the absolute range that the answer names.
            asked |= {"cursor": answer["next_cursor"], "range": answer["query"]["range"]}
        else:
            if self._primed:
                click.echo("events come faster than they can be shown; some are passed over", err=True)
        news = self._noted(news)
        first, self._primed = not self._primed, True
        return [] if first else news

    def _noted(self, news: list[dict[str, Any]]) -> list[dict[str, Any]]:
        news.reverse()
        for event in news:
            self._seen[event["message_id"]] = None
        while len(self._seen) > SEEN_MAX:
            self._seen.pop(next(iter(self._seen)))
        return news

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        while True:
            headers = self.access.headers
            response = request(
                lambda headers=headers: httpx.post(  # type: ignore[misc]
                    f"{self.url}/v1/query", json=asked, headers=headers, timeout=TIMEOUT_S
                ),
                self.url,
            )
            if self.access.renewed(response.status_code):
                continue
            raise_for(response)
            answer: dict[str, Any] = response.json()
            return answer


def _line(event: dict[str, Any]) -> str:
    who = event.get("user_id") or event.get("anonymous_id") or "–"
    parts = [str(event.get("timestamp")), str(event.get("event") or event.get("type")), str(who)]
    parts += [str(event[name]) for name in ("path", "country", "value") if event.get(name) is not None]
    return "  ".join(printable(part) for part in parts)


def _over(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until
