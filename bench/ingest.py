"""The gateway (keys checked, events normalised, acknowledged by Kafka with acks=all) beside a bare ASGI application
and gateways as one would first write them; its answers at half load; its memory under attack.

Of the plain gateways (FastAPI, pydantic, `produce()`, on uvicorn with uvloop) one answers at once, which the goal
is set against; one waits for Kafka as ours does; one waits, and stores the same records as ours. A further one does
the least that is possible in Python. Rates are per CPU second of the served process, so that broker and load
generator on the other core do not matter; wall-clock rates go into the JSON. Events are of 1 KB. Goals: 100,000
events per CPU second in requests of 100 (40,000 at the least), 10 times the plain gateway that answers at once (5),
10,000 requests of one event (5,000), p99 at half load 25 ms (50).
"""

import asyncio
import json
import os
import secrets
import signal
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from bench.report import Report
from bench.stage import Stage, Watched, kafka_stage, service, stored, watched
from headrace import kafka
from headrace.migrations import migrate
from headrace.runtime.parts import start_all, stop_all
from headrace.runtime.ports import LOOPBACK, accepts, free_ports
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key
from schemas.codec import decode_events
from schemas.event import record_key
from schemas.topics import Topics

CONNECTIONS = 32
SECONDS, QUICK_SECONDS = 10.0, 2.0
WARM_UP_S = 2.0
BATCHES = (1, 100)
START_TIMEOUT_S = 30.0
SLOW_CONNECTIONS, QUICK_SLOW_CONNECTIONS = 5_000, 200
SLOW_SECONDS, STALL_SECONDS = 10.0, 20.0
BARE, OURS = "bare ASGI", "gateway"
PLAIN, ACKNOWLEDGED = "FastAPI + produce(), unacknowledged", "FastAPI + produce(), acknowledged"
FLOOR = "split + produce_batch(), no records"
STORING, STORING_PREFIX = "FastAPI + produce(), the same records", "s."


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


@dataclass(frozen=True, slots=True)
class Server:
    """A contestant. `key` goes into its requests."""

    process: Watched
    port: int
    key: str


def run(*, quick: bool) -> Report:
    """Rates, then answers under half load, then memory."""
    report = Report("ingest")
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
            key, customer_id, settings = prepared(stage, postgres)
            servers = start_servers(stage, settings, key, customer_id)
            try:
                check_same_records(stage, settings, servers, customer_id)
                rate = measure_rates(settings, servers, seconds, report)
                measure_answers(servers[OURS], rate / 2, seconds, report)
                measure_memory(stage, servers[OURS], quick=quick, report=report)
            finally:
                for server in servers.values():
                    server.process.stop()
        finally:
            stop_all(engines)
    return report


def prepared(stage: Stage, postgres: PostgresEngine) -> tuple[str, int, Settings]:
    """A customer's write key, the customer, and the gateway's settings."""
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
        return create_write_key(control, customer).secret, customer, settings


def start_servers(stage: Stage, settings: Settings, key: str, customer_id: int) -> dict[str, Server]:
    """All contestants, listening. The plain ones write to topic prefixes of their own."""
    servers = {}
    for name, module, prefix in (
        (BARE, "bare_asgi", ""),
        (FLOOR, "floor_gateway", "f."),
        (PLAIN, "plain_fastapi", "p."),
        (ACKNOWLEDGED, "acknowledged_fastapi", "a."),
        (STORING, "storing_fastapi", STORING_PREFIX),
    ):
        (port,) = free_ports(1)
        command = [sys.executable, "-m", f"bench.peers.{module}", str(port)]
        if prefix:
            command += [settings.kafka, Topics(stage.with_prefix(prefix).topic_prefix).events]
        if name == STORING:
            command += [key, str(customer_id)]
        servers[name] = Server(watched(command, stage.folder / f"{module}.log", {}), port, key)
    servers[OURS] = Server(service("ingest", settings, stage.folder), settings.ingest_port, key)
    for server in servers.values():
        wait_listening(server)
    return servers


def check_same_records(stage: Stage, settings: Settings, servers: dict[str, Server], customer_id: int) -> None:
    """Assert that the gateway and the plain one that claims it store the same of a request, JSON compared parsed."""
    found = {}
    for name, prefix in ((OURS, settings.topic_prefix), (STORING, STORING_PREFIX)):
        own = stage.with_prefix(prefix)
        asyncio.run(one_request(servers[name]))
        partition = kafka.partition_for(record_key(customer_id), own.events_partitions)
        found[name] = [
            row
            | {
                "received_at_us": 0,
                "properties": json.loads(row["properties"]),
                "context": json.loads(row["context"]),
            }
            for row in decode_events(newest(own, partition, BATCHES[-1])).events.to_pylist()
        ]
    assert len(found[OURS]) == BATCHES[-1]
    assert found[OURS] == found[STORING], "the plain gateway stores what ours stores"


def newest(settings: Settings, partition: int, count: int) -> list[bytes | None]:
    """The last records of a partition of `events`."""
    topic = Topics(settings.topic_prefix).events
    _, high = kafka.watermarks(settings, topic, [partition])[partition]
    consumer = kafka.consumer(settings, "bench")
    try:
        consumer.assign([kafka.TopicPartition(topic, partition, max(0, high - count))])
        records: list[bytes | None] = []
        deadline = time.monotonic() + START_TIMEOUT_S
        while len(records) < min(count, high):
            assert time.monotonic() < deadline, f"{len(records)} of {count} records"
            records += [message.value() for message in consumer.consume(count, 0.5)]
    finally:
        consumer.close()
    return records


def measure_rates(settings: Settings, servers: dict[str, Server], seconds: float, report: Report) -> float:
    """Each contestant with each size of request; gives our requests of the largest per second of wall clock."""
    rate = 0.0
    for batch in BATCHES:
        what = f"{batch} event{'s' if batch > 1 else ''} a request"
        found: dict[str, Measured] = {}
        for name, server in servers.items():
            asyncio.run(load(server, batch, WARM_UP_S))
            before = stored(settings)
            found[name] = measure(server, batch, seconds)
            report.details[f"{name}, {what}"] = {
                "requests_per_s": found[name].requests / found[name].wall_s,
                "cpu_share": found[name].cpu_s / found[name].wall_s,
                "rss_bytes": server.process.rss_bytes,
            }
            if name == OURS:
                assert stored(settings) - before == found[name].events, "every acknowledged event is in the log"
                rate = found[name].requests / found[name].wall_s
        ours = found[OURS]
        goal = "goal 100,000, at least 40,000" if batch > 1 else "goal 10,000, at least 5,000"
        for name in servers:
            unit = "events/CPU s" if batch > 1 else "requests/CPU s"
            report.add(f"{name}, {what}", found[name].events_per_cpu_s, unit, goal if name == OURS else "")
        floor = found[FLOOR].events_per_cpu_s / found[PLAIN].events_per_cpu_s
        report.add(f"{FLOOR}, against {PLAIN}, {what}", floor, "×", "what no gateway of ours can reach")
        for name in (PLAIN, ACKNOWLEDGED, STORING):
            note = "goal 10, at least 5" if batch > 1 and name == PLAIN else ""
            report.add(f"against {name}, {what}", ours.events_per_cpu_s / found[name].events_per_cpu_s, "×", note)
    return rate


def measure_answers(server: Server, rate: float, seconds: float, report: Report) -> None:
    """Seconds to an answer at `rate` requests of 100 events a second, each sent when it is due."""
    delays = asyncio.run(paced(server, BATCHES[-1], rate, seconds))
    quantiles = statistics.quantiles(delays, n=100)
    report.add("answer at half load, p50", quantiles[49] * 1e3, "ms", f"{rate:,.0f} requests/s of 100 events")
    report.add("answer at half load, p99", quantiles[98] * 1e3, "ms", "goal 25, at most 50")


def measure_memory(stage: Stage, server: Server, *, quick: bool, report: Report) -> None:
    """Resident memory beside many connections that send a byte now and then, and with a Kafka that stands still."""
    before, connections = server.process.rss_bytes, QUICK_SLOW_CONNECTIONS if quick else SLOW_CONNECTIONS
    held, answered = asyncio.run(slow_loris(server, connections, QUICK_SECONDS if quick else SLOW_SECONDS))
    report.add("resident before", before / 1e6, "MB")
    report.add(
        f"resident beside {connections:,} slow connections", held / 1e6, "MB", f"{answered} others answered 200"
    )
    os.kill(stage.broker_pid, signal.SIGSTOP)
    try:
        stalled, refused = asyncio.run(against_stall(server, QUICK_SECONDS if quick else STALL_SECONDS))
    finally:
        os.kill(stage.broker_pid, signal.SIGCONT)
    report.add("resident with Kafka standing still", stalled / 1e6, "MB", f"{refused:,} requests answered 503")


def measure(server: Server, batch: int, seconds: float) -> Measured:
    """Load one server for `seconds`."""
    cpu_s, started = server.process.cpu_s, time.monotonic()
    requests = asyncio.run(load(server, batch, seconds))
    return Measured(requests, requests * batch, time.monotonic() - started, server.process.cpu_s - cpu_s)


async def one_request(server: Server) -> None:
    """Send one request of the largest kind; it must be taken."""
    reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
    assert await ask(reader, writer, request(server.key, BATCHES[-1], 0)) == 200
    writer.close()


async def load(server: Server, batch: int, seconds: float) -> int:
    """Keep CONNECTIONS requests under way for `seconds`; gives how many were answered, all of them with 200."""
    deadline = time.monotonic() + seconds

    async def one(number: int) -> int:
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        content, count = request(server.key, batch, number), 0
        while time.monotonic() < deadline:
            status = await ask(reader, writer, content)
            assert status == 200, status
            count += 1
        writer.close()
        return count

    return sum(await asyncio.gather(*map(one, range(CONNECTIONS))))


async def paced(server: Server, batch: int, rate: float, seconds: float) -> list[float]:
    """Requests at `rate` over CONNECTIONS connections; a request waits for a free one and its delay counts that."""
    contents = [request(server.key, batch, number) for number in range(CONNECTIONS)]
    connections = [await asyncio.open_connection(LOOPBACK, server.port) for _ in contents]
    started, interval_s = time.monotonic(), CONNECTIONS / rate  # all is prepared: it would count as delay

    async def one(number: int) -> list[float]:
        (reader, writer), delays = connections[number], []
        due = started + interval_s * number / CONNECTIONS
        while due < started + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            assert await ask(reader, writer, contents[number]) == 200
            delays.append(time.monotonic() - due)
            due += interval_s
        writer.close()
        return delays

    return [delay for delays in await asyncio.gather(*map(one, range(CONNECTIONS))) for delay in delays]


async def slow_loris(server: Server, connections: int, seconds: float) -> tuple[int, int]:
    """Greatest resident memory beside connections that trickle, and how many other requests were answered 200."""
    writers = []
    for _ in range(connections):
        with suppress(OSError):
            _, writer = await asyncio.wait_for(asyncio.open_connection(LOOPBACK, server.port), 5)
            writer.write(b"POST /v1/batch HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\n{")
            writers.append(writer)
    most, answered, deadline = 0, 0, time.monotonic() + seconds
    content = request(server.key, 1, 0)
    while time.monotonic() < deadline:
        for writer in writers[:: max(1, len(writers) // 500)]:
            writer.write(b" ")
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            reader, own = await asyncio.wait_for(asyncio.open_connection(LOOPBACK, server.port), 5)
            answered += await asyncio.wait_for(ask(reader, own, content), 5) == 200
            own.close()
        most = max(most, server.process.rss_bytes)
        await asyncio.sleep(0.1)
    for writer in writers:
        writer.close()
    await asyncio.sleep(1)
    return most, answered


async def against_stall(server: Server, seconds: float) -> tuple[int, int]:
    """Greatest resident memory while Kafka acknowledges nothing, and how many requests were answered 503."""
    deadline, most, refused = time.monotonic() + seconds, 0, 0

    async def one(number: int) -> None:
        nonlocal most, refused
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        content = request(server.key, 100, number)
        while time.monotonic() < deadline:
            refused += await ask(reader, writer, content) == 503
            most = max(most, server.process.rss_bytes)
        writer.close()

    await asyncio.gather(*map(one, range(8 * CONNECTIONS)))
    return most, refused


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> int:
    """Send a request, read its answer; gives the status."""
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return int(head.split(b" ", 2)[1])


def request(key: str, batch: int, number: int) -> bytes:
    """A batch request as segment-python sends it, of events of 1 KB."""
    events = [
        {
            "integrations": {},
            "anonymousId": None,
            "properties": {
                "plan": "pro",
                "revenue": 12.5,
                "currency": "EUR",
                "items": 3,
                "products": [
                    {"sku": f"SKU-{n}", "name": "Ünïcode ✓ thing", "qty": n, "price": 9.99} for n in range(6)
                ],
                "note": "r" * 200,
            },
            "timestamp": "2026-11-24T00:00:35.332+00:00",
            "context": {
                "library": {"name": "analytics-python", "version": "2.4.0"},
                "page": {"path": f"/p/{i % 50}", "referrer": "https://www.example.org/a", "title": "A page"},
                "locale": "de-CH",
            },
            "userId": f"user-{number}-{i}",
            "type": "track",
            "event": "order",
            "messageId": f"{number:08x}-012f-5dbc-803f-{i:012x}",
        }
        for i in range(batch)
    ]
    body = json.dumps({"batch": events, "writeKey": key}, ensure_ascii=False).encode()
    head = f"POST /v1/batch HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\nX-Write-Key: {key}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


def wait_listening(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not accepts(server.port):
        assert server.process.process.poll() is None, server.process.tail()
        assert time.monotonic() < deadline, server.process.tail()
        time.sleep(0.05)
