"""The API behind the HAProxy configuration that compose uses: a replica that is killed or moves goes unnoticed."""

import http.server
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from redis import Redis

from headrace.runtime.ports import LOOPBACK, free_ports
from headrace.settings import DECLARED, Settings
from sinks.live import stream_key
from tests.integration.api_world import World, make_world, settings_with_key
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.haproxy_world import CONFIGURATION, Balancer, balancer, replica, wait_until

CLIENTS = 4
BEFORE_KILL_S, AFTER_KILL_S = 2.0, 4.0
LARGE_BYTES_MIN = 40_000


@pytest.fixture(name="world")
def _world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> World:
    settings = settings_with_key(make_settings("postgres", "clickhouse", "redis"), tmp_path)
    return make_world(settings, postgres.shards, count=1500)


@contextmanager
def balanced(folder: Path, *ports: int) -> Iterator[str]:
    """The balancer's address for two API replicas, both of them in."""
    first, second = (f"{LOOPBACK}:{port}" for port in ports)
    with balancer(folder, api=(first, second)) as found:
        wait_until(lambda: httpx.get(f"{found.api_url}/readyz", timeout=2).status_code == 200)
        yield found.api_url


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
        with balanced(tmp_path, first_port, second_port) as url:
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


class EventSource(threading.Thread):
    """What a browser does with a stream: it remembers the last id and, when the stream ends, asks again with it."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self._url, self._headers = f"{url}/v1/live", {"Authorization": f"Bearer {token}"}
        self._stopped = threading.Event()
        self.opened = 0
        self.names: list[str] = []
        self.seen: list[int] = []
        """The numbers of the events that came, in order."""

    def run(self) -> None:
        last_id = ""
        while not self._stopped.is_set():
            headers = self._headers | ({"Last-Event-ID": last_id} if last_id else {})
            try:
                with httpx.stream("GET", self._url, headers=headers, timeout=20) as answer:
                    self.opened += answer.status_code == 200
                    name = ""
                    for line in answer.iter_lines():
                        field, _, value = line.partition(": ")
                        if field == "event":
                            name = value
                            self.names.append(name)
                        elif field == "id":
                            last_id = value
                        elif field == "data" and name == "events":
                            self.seen += [event["number"] for event in json.loads(value)["events"]]
                        if self._stopped.is_set():
                            return
            except httpx.HTTPError:
                pass
            self._stopped.wait(0.2)

    def stop(self) -> None:
        self._stopped.set()
        self.join(15)  # the next heartbeat wakes it


def test_a_stream_goes_on_where_it_was_after_its_replica_was_killed(world: World, tmp_path: Path) -> None:
    customer = world.customers[0]
    ports = free_ports(2)
    with ExitStack() as stack:
        redis = stack.enter_context(Redis.from_url(world.settings.redis))

        def stored(number: int) -> None:
            """As sinks.live writes it, which may leave out what comes too fast or when Redis is slow."""
            data = json.dumps([{"event": "e", "number": number}])
            redis.xadd(stream_key(customer), {"kind": "events", "as_of_us": 1_800_000_000_000_000, "data": data})

        replicas = {
            port: stack.enter_context(replica(replace(world.settings, api_port=port), tmp_path)) for port in ports
        }
        url = stack.enter_context(balanced(tmp_path, *ports))
        source = EventSource(url, world.tokens[customer])
        source.start()
        stack.callback(source.stop)
        wait_until(lambda: "stats" in source.names)
        for number in range(5):
            stored(number)
        wait_until(lambda: source.seen == list(range(5)))
        serving = [port for port in ports if open_streams(port)]
        assert len(serving) == 1
        os.kill(replicas[serving[0]].pid, signal.SIGKILL)
        for number in range(5, 30):
            stored(number)
            time.sleep(0.05)
        wait_until(lambda: len(source.seen) >= 30)
        assert source.seen == list(range(30)), "nothing is lost and nothing comes twice"
        assert source.opened == 2
        assert "resync" not in source.names


def open_streams(port: int) -> int:
    """How many live streams a replica says it serves."""
    text = httpx.get(f"http://{LOOPBACK}:{port}/metrics", timeout=5).text
    found = re.search(r"^headrace_live_clients(?:{[^}]*})? (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0  # the series begins with the first stream


def test_streams_leave_room_for_queries() -> None:
    maxconn = re.search(r"default-server .*\bmaxconn (\d+)", CONFIGURATION.read_text())
    in_all = re.search(r"^    maxconn (\d+)", CONFIGURATION.read_text(), re.MULTILINE)
    assert maxconn and in_all
    live_clients_max = DECLARED["live_clients_max"].default
    assert int(maxconn[1]) >= live_clients_max + 500
    assert int(in_all[1]) >= 2 * live_clients_max + 1000


@pytest.mark.parametrize("path", ["/metrics", "/%6detrics", "/metrics/"])
def test_what_is_for_operators_does_not_pass(tmp_path: Path, path: str) -> None:
    with serving(LOOPBACK, free_ports(1)[0], "api") as address, balancer(tmp_path, api=address, ingest=address) as at:
        for url in (at.api_url, at.ingest_url):
            wait_until(lambda url=url: httpx.get(f"{url}/other", timeout=2).text == "api")  # type: ignore[misc]
            assert httpx.get(url + path, timeout=2).status_code == 404


def test_a_replica_that_comes_back_elsewhere_is_found(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    elsewhere = "127.0.0.2"
    with Names({}) as names, ExitStack() as stack:
        api = (f"api-1.test:{port}", f"api-2.test:{port}")
        at: Balancer = stack.enter_context(balancer(tmp_path, api=api, resolver=names.address))
        assert httpx.get(f"{at.api_url}/x", timeout=5).status_code == 503
        with serving(LOOPBACK, port, "first"):
            names.addresses["api-1.test"] = LOOPBACK
            wait_until(lambda: httpx.get(f"{at.api_url}/x", timeout=2).text == "first")
        with serving(elsewhere, port, "second"):
            names.addresses["api-1.test"] = elsewhere
            wait_until(lambda: httpx.get(f"{at.api_url}/x", timeout=2).text == "second")


@contextmanager
def serving(host: str, port: int, text: str) -> Iterator[tuple[str, str]]:
    """A server that answers everything with `text`; gives its address, twice, as for two replicas."""

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((host, port), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{host}:{port}", f"{host}:{port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class Names(threading.Thread):
    """A name server (RFC 1035) that knows the IPv4 addresses in `addresses`."""

    def __init__(self, addresses: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self._socket.settimeout(0.2)
        self._ended = threading.Event()
        self.address = f"{LOOPBACK}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(5)
        self._socket.close()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                query, client = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        (kind,) = struct.unpack_from(">H", query, at + 1)
        address = self.addresses.get(".".join(labels).lower())
        known = address is not None and kind == 1
        flags = 0x8180 if address is not None else 0x8183
        answer = b""
        if known:
            assert address is not None
            answer = struct.pack(">HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address)
        return query[:2] + struct.pack(">HHHHH", flags, 1, int(known), 0, 0) + question + answer
