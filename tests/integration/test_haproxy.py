"""Two API replicas behind the HAProxy configuration that compose uses: one is killed under load, nobody notices."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from tests.integration.api_world import World, make_world, settings_with_key
from tests.integration.conftest import Databases, MakeSettings

CONFIGURATION = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
CLIENTS = 4
BEFORE_KILL_S, AFTER_KILL_S = 2.0, 4.0
READY_TIMEOUT_S = 20.0
LARGE_BYTES_MIN = 40_000


@pytest.fixture(name="world")
def _world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> World:
    settings = settings_with_key(make_settings("postgres", "clickhouse", "redis"), tmp_path)
    return make_world(settings, postgres.shards, count=1500)


@contextmanager
def replica(settings: Settings, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One API process, ready to serve; killed at the end if it still runs."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    with (folder / f"api-{settings.api_port}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "run", "api"],
            env=inherited | settings.as_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{settings.api_port}/readyz", timeout=2).status_code == 200)
        yield process
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def balancer(api_ports: tuple[int, int], folder: Path) -> Iterator[str]:
    """HAProxy with the committed configuration; gives the API's address."""
    program = shutil.which("haproxy", path=SEARCHED)
    assert program, "haproxy is missing: `make test` as root installs it, otherwise apt-get install haproxy"
    bind, ingest_bind, nothing = free_ports(3)
    environment = {
        "API_BIND": f"127.0.0.1:{bind}",
        "INGEST_BIND": f"127.0.0.1:{ingest_bind}",
        "API_1": f"127.0.0.1:{api_ports[0]}",
        "API_2": f"127.0.0.1:{api_ports[1]}",
        "INGEST_1": f"127.0.0.1:{nothing}",
        "INGEST_2": f"127.0.0.1:{nothing}",
    }
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-f", str(CONFIGURATION)], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{bind}"
        wait_until(lambda: httpx.get(f"{url}/readyz", timeout=2).status_code == 200)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll; a refused connection counts as not yet."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "not ready"
        time.sleep(0.05)


class Client(threading.Thread):
    """Asks the same questions again and again; remembers every answer's rows and every failure."""

    def __init__(self, url: str, token: str, questions: list[dict[str, Any]], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url, self._questions, self._stop_asking = url, questions, stop
        self._headers = {"Authorization": f"Bearer {token}"}
        self.answers: list[dict[str, list[Any]]] = [{} for _ in questions]
        self.failures: list[str] = []
        self.count = self.bytes_max = 0

    def run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=10) as client:
            while not self._stop_asking.is_set():
                for question, answers in zip(self._questions, self.answers, strict=True):
                    self._ask(client, question, answers)

    def _ask(self, client: httpx.Client, question: dict[str, Any], answers: dict[str, list[Any]]) -> None:
        try:
            response = client.post(f"{self._url}/v1/query", json=question)
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return
        if response.status_code != 200:
            self.failures.append(f"{response.status_code} {response.text[:200]}")
            return
        self.count += 1
        self.bytes_max = max(self.bytes_max, len(response.content))
        rows = response.json()["rows"]
        answers.setdefault(repr(rows), rows)


def questions() -> list[dict[str, Any]]:
    """Small and large ones, over a span that no longer changes."""
    now = time.time()
    day = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(now - 86_400))
    year = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(now - 400 * 86_400))
    span = {"from": year, "to": day, "tz": "UTC"}
    return [
        {"kind": "totals", "metrics": ["events", "users", "sum(value)"], "range": span},
        {"kind": "timeseries", "metrics": ["events", "users", "sum(value)"], "range": span, "interval": "day"},
        {"kind": "breakdown", "metrics": ["events"], "dimensions": ["event"], "range": span},
        {"kind": "events", "range": span, "limit": 200},
    ]


def test_a_replica_is_killed_under_load(world: World, tmp_path: Path) -> None:
    first_port, second_port = free_ports(2)
    replicas: list[Settings] = [replace(world.settings, api_port=port) for port in (first_port, second_port)]
    stop = threading.Event()
    with replica(replicas[0], tmp_path) as first, replica(replicas[1], tmp_path):
        with balancer((first_port, second_port), tmp_path) as url:
            token = world.tokens[world.customers[0]]
            clients = [Client(url, token, questions(), stop) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(BEFORE_KILL_S)
            os.kill(first.pid, signal.SIGKILL)
            time.sleep(AFTER_KILL_S)
            stop.set()
            for client in clients:
                client.join(30)
    assert [failure for client in clients for failure in client.failures] == []
    assert all(client.count > 8 for client in clients)
    assert LARGE_BYTES_MIN < max(client.bytes_max for client in clients) < 65_536
    for number, question in enumerate(questions()):
        seen = {rows for client in clients for rows in client.answers[number]}
        assert len(seen) == 1, f"replicas differ: {question['kind']}"
