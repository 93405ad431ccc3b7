"""The gateway (keys checked, events normalised, acknowledged by Kafka with acks=all) beside a bare ASGI application.

Both on the same server under the same requests in one run. Rates are per CPU second of the served process, so that
the load generator on the other core does not matter; wall-clock rates go into the JSON.
"""

import asyncio
import json
import secrets
import sys
import time
from dataclasses import dataclass

from bench.report import Report
from bench.stage import Stage, Watched, kafka_stage, service, stored, watched
from headrace.migrations import migrate
from headrace.runtime.parts import start_all, stop_all
from headrace.runtime.ports import LOOPBACK, accepts, free_ports
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key

CONNECTIONS = 32
SECONDS, QUICK_SECONDS = 10.0, 2.0
WARM_UP_S = 1.0
BATCHES = (1, 10, 100)
START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server did under load."""

    requests: int
    events: int
    wall_s: float
    cpu_s: float

    @property
    def requests_per_cpu_s(self) -> float:
        return self.requests / self.cpu_s

    @property
    def events_per_cpu_s(self) -> float:
        return self.events / self.cpu_s


def run(*, quick: bool) -> Report:
    """Three batch sizes, each on both servers."""
    report = Report("ingest_gateway")
    seconds = QUICK_SECONDS if quick else SECONDS
    with kafka_stage() as stage:
        role, reader = Role("headrace", secrets.token_urlsafe(16)), Role("headrace_reader", secrets.token_urlsafe(16))
        (port,) = free_ports(1)
        folder = stage.folder / "postgres"
        postgres = PostgresEngine(
            name="postgres", folder=folder, port=port, owner=role, reader=reader, databases=("control", "shard")
        )
        engines = start_all([postgres])
        try:
            key, settings = prepared(stage, postgres)
            measure_all(stage, settings, key, seconds, report)
        finally:
            stop_all(engines)
    return report


def prepared(stage: Stage, postgres: PostgresEngine) -> tuple[str, Settings]:
    """A customer's write key, and the gateway's settings."""
    (port,) = free_ports(1)
    changes = {
        "postgres_control": postgres.dsn("control"),
        "shard_user": postgres.owner.name,
        "shard_password": postgres.owner.password,
        "ingest_port": port,
    }
    settings = stage.with_prefix("g.", **changes)
    migrate(settings, shards={"shard-1": postgres.address("shard")})
    with connect_control(settings) as control:
        customer = create_customer(control, "bench").customer_id
        return create_write_key(control, customer).secret, settings


def measure_all(stage: Stage, settings: Settings, key: str, seconds: float, report: Report) -> None:
    (bare_port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.peers.bare_asgi", str(bare_port)]
    servers = {
        "bare ASGI": (watched(command, stage.folder / "bare.log", {}), bare_port),
        "gateway": (service("ingest", settings, stage.folder), settings.ingest_port),
    }
    try:
        for server, port in servers.values():
            wait_listening(server, port)
        for batch in BATCHES:
            found = {}
            for name, (server, port) in servers.items():
                asyncio.run(load(port, key, batch, WARM_UP_S))
                before = stored(settings)
                found[name] = measure(server, port, key, batch, seconds)
                report.details[f"{name}, {batch} a request"] = {
                    "requests_per_s": found[name].requests / found[name].wall_s,
                    "cpu_share": found[name].cpu_s / found[name].wall_s,
                    "rss_bytes": server.rss_bytes,
                }
                if name == "gateway":
                    assert stored(settings) - before == found[name].events, "every acknowledged event is in the log"
            lines(report, batch, found["bare ASGI"], found["gateway"])
    finally:
        for server, _ in servers.values():
            server.stop()


def lines(report: Report, batch: int, bare: Measured, gateway: Measured) -> None:
    what = f"{batch} event{'s' if batch > 1 else ''} a request"
    report.add(f"bare ASGI, {what}", bare.requests_per_cpu_s, "requests/CPU s")
    report.add(f"gateway, {what}", gateway.requests_per_cpu_s, "requests/CPU s")
    report.add(f"gateway, {what}", gateway.events_per_cpu_s, "events/CPU s")
    report.add(f"gateway against bare ASGI, {what}", 100 * gateway.requests_per_cpu_s / bare.requests_per_cpu_s, "%")


def measure(server: Watched, port: int, key: str, batch: int, seconds: float) -> Measured:
    """Load one server for `seconds`."""
    cpu_s, started = server.cpu_s, time.monotonic()
    requests = asyncio.run(load(port, key, batch, seconds))
    return Measured(requests, requests * batch, time.monotonic() - started, server.cpu_s - cpu_s)


async def load(port: int, key: str, batch: int, seconds: float) -> int:
    """Keep CONNECTIONS requests under way for `seconds`; gives how many were answered, all of them with 200."""
    deadline = time.monotonic() + seconds
    counts = await asyncio.gather(
        *(connection(port, request(key, batch, number), deadline) for number in range(CONNECTIONS))
    )
    return sum(counts)


async def connection(port: int, content: bytes, deadline: float) -> int:
    """One kept-alive connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    count = 0
    while time.monotonic() < deadline:
        writer.write(content)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        count += 1
    writer.close()
    return count


def request(key: str, batch: int, number: int) -> bytes:
    """A batch request as segment-python sends it, of 320-byte events."""
    events = [
        {
            "integrations": {},
            "anonymousId": None,
            "properties": {"plan": "pro", "revenue": 12.5, "currency": "EUR", "items": 3, "ref": "r" * 20},
            "timestamp": "2026-11-24T00:00:35.332+00:00",
            "context": {
                "library": {"name": "analytics-python", "version": "2.4.0"},
                "page": {"path": f"/p/{i % 50}"},
            },
            "userId": f"user-{number}-{i}",
            "type": "track",
            "event": "order",
            "messageId": f"{number:08x}-012f-5dbc-803f-{i:012x}",
        }
        for i in range(batch)
    ]
    body = json.dumps({"batch": events, "writeKey": key}).encode()
    head = f"POST /v1/batch HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\nX-Write-Key: {key}\r\n\r\n"
    return head.encode() + body


def wait_listening(server: Watched, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not accepts(port):
        assert server.process.poll() is None, server.tail()
        assert time.monotonic() < deadline, server.tail()
        time.sleep(0.05)
