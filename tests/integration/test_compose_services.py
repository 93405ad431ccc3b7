"""Each service of docker-compose.yml, started as a plain process with exactly its environment, does its work.

Only what containers resolve by name is put in place of the names: hosts become the test engines' addresses, ports in
use on this machine become free ones, generated secrets become the test engines' secrets.
"""

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from tests.integration.conftest import Databases, MakeSettings
from tests.packaging import compose

SERVICES = ("ingest-1", "streams-1", "sink-postgres", "sink-clickhouse", "api-1")
TIMEOUT_S = 60.0
WRITE_KEY = re.compile(r"wk_[\w-]+")


class Deployment:
    """The Compose file, its names resolved to the engines of this test."""

    def __init__(self, settings: Settings, databases: Databases, folder: Path) -> None:
        self._folder = folder
        control = urllib.parse.urlsplit(databases.control)
        clickhouse, redis = urllib.parse.urlsplit(settings.clickhouse), urllib.parse.urlsplit(settings.redis)
        self._file = compose.load(
            dict.fromkeys(compose.variables(), "unused")
            | {
                "HEADRACE_PASSWORD": databases.owner.password,
                "HEADRACE_READER_PASSWORD": databases.reader.password,
                "HEADRACE_CLICKHOUSE_PASSWORD": str(clickhouse.password),
                "HEADRACE_REDIS_PASSWORD": str(redis.password),
                "HEADRACE_PRIVACY_KEY": "k" * 32,
            }
        )
        self._names = {
            "kafka:9092": settings.kafka,
            "control:5432/headrace": f"{control.hostname}:{control.port}{control.path}",
            "shard-1:5432/headrace": databases.shards[0],
            "shard-2:5432/headrace": databases.shards[1],
            "http://headrace:": f"http://{clickhouse.username}:",
            "clickhouse:8123/headrace": f"{clickhouse.hostname}:{clickhouse.port}{clickhouse.path}",
            "redis:6379/0": f"{redis.hostname}:{redis.port}{redis.path}",
            "/var/lib/headrace": str(folder),
        }
        self._topic_prefix = settings.topic_prefix
        self.ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))

    def resolve(self, text: str) -> str:
        """`text` with the containers' names replaced."""
        for name, address in self._names.items():
            text = text.replace(name, address)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """What the container would get; listening ports are this test's."""
        values = {name: self.resolve(str(v)) for name, v in self._file["services"][service]["environment"].items()}
        port = str(self.ports.get(service, 0))
        for name in ("HEADRACE_INGEST_PORT", "HEADRACE_API_PORT", "HEADRACE_METRICS_PORT"):
            values[name] = port
        values["HEADRACE_TOPIC_PREFIX"] = self._topic_prefix  # the broker is shared with other tests
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        return inherited | values

    def command(self, service: str) -> list[str]:
        """The service's arguments for `headrace`."""
        arguments: list[str] = self._file["services"][service]["command"]
        return arguments

    def setup_lines(self) -> list[list[str]]:
        """The commands of the `setup` service."""
        script: str = self._file["services"]["setup"]["command"][0]
        return [shlex.split(self.resolve(line))[1:] for line in script.strip().splitlines()]

    def headrace(self, arguments: list[str], service: str) -> str:
        """Run a command to its end in a service's environment; gives its stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *arguments],
            env=self.environment(service),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, service: str, stack: ExitStack) -> None:
        """Start the service; at the end of `stack` it is stopped as a container would be, and must exit with 0."""
        log = stack.enter_context((self._folder / f"{service}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", *self.command(service)],
            env=self.environment(service),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

        def stop() -> None:
            process.terminate()
            try:
                assert process.wait(30) == 0, f"{service} ended with {process.returncode}\n{self.log(service)}"
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait(10)

        stack.callback(stop)

    def log(self, service: str) -> str:
        """The end of a service's log."""
        return (self._folder / f"{service}.log").read_text(errors="replace")[-2000:]

    def healthy(self, service: str) -> bool:
        """The container's health check."""
        probe = self.environment(service).get("PROBE_URL", "http://127.0.0.1:9100/livez")
        url = urllib.parse.urlsplit(probe)._replace(netloc=f"127.0.0.1:{self.ports[service]}").geturl()
        try:
            return httpx.get(url, timeout=2).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(name="deployment")
def _deployment(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> Iterator[Deployment]:
    (tmp_path / "keys").mkdir()
    yield Deployment(make_settings("kafka", "postgres", "clickhouse", "redis"), postgres, tmp_path)


def test_setup_and_every_service_work_with_their_compose_environment(deployment: Deployment) -> None:
    for arguments in deployment.setup_lines():
        deployment.headrace(arguments, "setup")
    customer = deployment.headrace(["customers", "create", "A shop", "--json"], "cli")
    customer_id = str(httpx.Response(200, text=customer).json()["customer_id"])
    created = deployment.headrace(["keys", "create", customer_id, "--json"], "cli")
    match = WRITE_KEY.search(created)
    assert match
    token = deployment.headrace(["token", "create", "--customer", customer_id], "cli").strip()
    with ExitStack() as stack:
        for service in SERVICES:
            deployment.start(service, stack)
        for service in SERVICES:
            wait_until(partial(deployment.healthy, service), deployment)
        ingest = f"http://127.0.0.1:{deployment.ports['ingest-1']}/v1/batch"
        events = [{"type": "track", "event": "e", "userId": f"u{i}", "messageId": f"m{i}"} for i in range(50)]
        answer = httpx.post(ingest, json={"batch": events}, auth=(match[0], ""), timeout=20)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        for exact in (False, True):  # from Postgres, then from ClickHouse
            wait_until(partial(all_there, deployment, token, exact=exact), deployment)


def all_there(deployment: Deployment, token: str, *, exact: bool) -> bool:
    """Whether the API's totals have all that was sent."""
    return bool(ask(deployment, token, totals(exact=exact))["rows"] == [[50, 50]])


def totals(*, exact: bool) -> dict[str, Any]:
    """Events and users of the last hours."""
    span = {"from": "-2h", "to": "now"}
    return {"kind": "totals", "metrics": ["events", "users"], "range": span, "exact": exact}


def ask(deployment: Deployment, token: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of the API."""
    url = f"http://127.0.0.1:{deployment.ports['api-1']}/v1/query"
    response = httpx.post(url, json=question, headers={"Authorization": f"Bearer {token}"}, timeout=20)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def wait_until(condition: Callable[[], bool], deployment: Deployment) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "\n".join(deployment.log(service) for service in SERVICES)
        time.sleep(0.1)
