"""The system under test as browser tests see it: by its ready file, be it `headrace up` or the contract server."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

START_S = 30
SHOP, BLANK = 0, 1  # places in the ready file's customers: one with events, one without


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses and secrets of a running system. `ready_file` is read anew each time: a restart changes pids."""

    ready_file: Path
    is_contract: bool

    @property
    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ready_file.read_text())
        return found

    @property
    def base_url(self) -> str:
        return str(self.ready["api_url"])

    def headers(self, place: int = SHOP) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.ready['customers'][place]['read_token']}"}

    def post(self, path: str, body: Any, place: int = SHOP) -> httpx.Response:
        return httpx.post(f"{self.base_url}{path}", json=body, headers=self.headers(place), timeout=30)

    def login_url(self, place: int = SHOP, search: str = "") -> str:
        """A fresh one-time link to the page with `search` as its state."""
        answer = self.post("/v1/session/codes", {}, place)
        answer.raise_for_status()
        return f"{self.base_url}/{search}#code={answer.json()['code']}"

    def ask(self, *queries: dict[str, Any], place: int = SHOP) -> list[dict[str, Any]]:
        answer = self.post("/v1/query", {"queries": list(queries)}, place)
        answer.raise_for_status()
        answers: list[dict[str, Any]] = answer.json()["answers"]
        return answers

    def send(self, events: Sequence[dict[str, Any]], place: int = SHOP) -> None:
        """Post events as an SDK would."""
        key = self.ready["customers"][place]["write_key"]
        for start in range(0, len(events), 200):
            body = {"writeKey": key, "batch": list(events[start : start + 200])}
            httpx.post(f"{self.ready['ingest_url']}/v1/batch", json=body, timeout=30).raise_for_status()

    def events_of(self, day: datetime, place: int = SHOP) -> int:
        """How many events the UTC day has."""
        (answer,) = self.ask({"kind": "totals", "metrics": ["events"], "range": day_range(day)}, place=place)
        return int(answer["rows"][0][0] or 0)

    def drop_streams(self) -> None:
        """Break every live stream: a real API is killed, and its supervisor starts it again."""
        if self.is_contract:
            self.post("/contract/drop-streams", {}).raise_for_status()
            return
        pids: dict[str, int] = self.ready["pids"]
        for pid in [pid for name, pid in pids.items() if name.startswith("api")]:
            os.kill(pid, signal.SIGKILL)


def day_range(day: datetime, days: int = 1) -> dict[str, str]:
    """The whole UTC days that begin with `day`'s, half-open."""
    start = day.replace(hour=0, minute=0, second=0, microsecond=0)
    return {"from": _rfc3339(start), "to": _rfc3339(start + timedelta(days=days)), "tz": "UTC"}


def yesterday() -> datetime:
    """A day that gets no more events while a test runs (tests that span midnight UTC ask it once)."""
    return datetime.now(UTC) - timedelta(days=1)


@contextmanager
def contract_server(folder: Path) -> Iterator[Target]:
    """The contract server in a process of its own, gone at the end."""
    ready_file = folder / "ready.json"
    command = [sys.executable, "-m", "tests.browser.contract_server", "--ready-file", str(ready_file), "--rate", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + START_S
        while not ready_file.exists():
            assert process.poll() is None, f"the contract server ended with {process.returncode}"
            assert time.monotonic() < give_up, f"the contract server was not ready within {START_S} s"
            time.sleep(0.05)
        yield Target(ready_file, is_contract=True)
    finally:
        process.terminate()
        process.wait(timeout=10)


def filled(target: Target) -> Target:
    """Give a fresh real system a shop's two days of events; wait until both stores answer them."""
    day = yesterday()
    if target.events_of(day):
        return target
    target.send([_event(number, day) for number in range(600)])
    give_up = time.monotonic() + START_S
    while target.events_of(day) < 400 or len(_newest(target)) < 5:
        assert time.monotonic() < give_up, f"events posted to the system were not answered within {START_S} s"
        time.sleep(0.3)
    return target


def _newest(target: Target) -> list[Any]:
    query = {"kind": "events", "limit": 5, "range": day_range(yesterday(), 3)}
    rows: list[Any] = target.ask(query)[0].get("rows", [])
    return rows


def _event(number: int, day: datetime) -> dict[str, Any]:
    """Two of three events fall on `day`, the others on the hour before now."""
    rng = random.Random(number)
    start = day.replace(hour=0, minute=0, second=0, microsecond=0)
    recent = datetime.now(UTC) - timedelta(seconds=number * 6)
    at = recent if number % 3 == 0 else start + timedelta(seconds=rng.randrange(86_400))
    name = rng.choice(["page_viewed", "page_viewed", "product_viewed", "added_to_cart", "order_completed", "signup"])
    paths = [
        "/",
        "/",
        "/collections/kitchen",
        "/cart",
        "/checkout",
        "/about",
        "/search",
        "/help",
        "/account",
        "/press",
    ]
    value = {"value": rng.randrange(500, 9000) / 100} if name == "order_completed" else {}
    return {
        "type": "track",
        "event": name,
        "messageId": f"browser-{start.date()}-{number}",
        "userId": f"user-{rng.randrange(57)}",
        "timestamp": _rfc3339(at),
        "properties": {"plan": "pro"} | value,
        "context": {
            "page": {
                "path": rng.choice(paths),
                "referrer": rng.choice(["", "https://www.example.org/", "https://t.co/x"]),
            },
            "campaign": rng.choice([{}, {}, {"source": "newsletter"}, {"source": "spring"}]),
            "location": {"country": rng.choice(["GB", "GB", "DE", "FR", "IE"])},
            "userAgent": rng.choice(_AGENTS),
        },
    }


_AGENTS = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/18.5 Mobile/15E148 Safari/604.1"
    ),
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
]


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
