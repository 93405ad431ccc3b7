"""What the gateway does when something is killed or away: itself, Kafka, the control database."""

import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from headrace.runtime.kafka_engine import KafkaEngine
from headrace.runtime.parts import Part
from headrace.runtime.ports import LOOPBACK, free_ports
from headrace.runtime.process import Process
from headrace.shards.address import connect_control
from headrace.shards.write_keys import create_write_key
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_control, make_gateway_world
from tests.integration.tcp_door import tcp_door

TIMEOUT_S = 2.0
MIB = 1024 * 1024


def batch(prefix: str, count: int, **more: Any) -> dict[str, Any]:
    return {"batch": [{"type": "track", "event": "e", "messageId": f"{prefix}-{i}"} | more for i in range(count)]}


def post(gateway: GatewayProcess, key: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/batch", json=body, auth=(key, ""), timeout=30)


@dataclass(slots=True)
class Senders:
    """Threads that post small batches until told to stop; `acknowledged` holds the ids answered with 200."""

    gateway: GatewayProcess
    key: str
    acknowledged: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, count: int = 4) -> None:
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self.gateway.url, timeout=30, auth=(self.key, "")) as client:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                body = batch(f"{number}.{turn}", 20)
                try:
                    answer = client.post("/v1/batch", json=body)
                except httpx.ConnectError:
                    return  # nobody listens any more
                except httpx.HTTPError as error:
                    self.broken.append(repr(error))
                    return
                if answer.status_code == 200:
                    self.acknowledged |= {event["messageId"] for event in body["batch"]}
                if answer.headers.get("connection") == "close":
                    return  # as a balancer does; a connection made in the moment the port closes gets no answer


def test_kill_9_loses_nothing_acknowledged(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> None:
    world = make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)
    with world.running() as gateway:
        senders = Senders(gateway, world.write_key)
        senders.start()
        deadline = time.monotonic() + 30
        while len(senders.acknowledged) < 2000:
            assert time.monotonic() < deadline, "too slow to tell anything"
            time.sleep(0.01)
        gateway.kill()
        senders.stop()
        assert psutil.pid_exists(gateway.process.pid) is False, "the process is all there is of the gateway"
    with world.running():
        stored = {row["message_id"] for row in world.events()}
    assert senders.acknowledged <= stored


def test_sigterm_finishes_what_is_under_way_and_says_not_ready_first(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    world = make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)
    with world.running() as gateway:
        body = (
            b'{"batch":[{"type":"track","event":"e","messageId":"slow"}],"writeKey":"%s"}' % world.write_key.encode()
        )
        probe = httpx.Client(base_url=gateway.url, timeout=5)
        assert probe.get("/readyz").status_code == 200
        with socket.create_connection((LOOPBACK, world.settings.ingest_port), timeout=10) as slow:
            head = f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:20])
            time.sleep(0.3)
            gateway.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            assert probe.get("/readyz").json() == {"ok": False, "wrong": {"process": "stopping"}}
            time.sleep(1.0)  # the listener is closed by now, the request still open
            slow.sendall(body[20:])
            answer = slow.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert gateway.process.wait(10) == 0
        probe.close()
    assert [row["message_id"] for row in world.events(1)] == ["slow"]


def test_sigterm_under_load_cuts_no_request(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> None:
    world = make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)
    with world.running() as gateway:
        senders = Senders(gateway, world.write_key)
        senders.start()
        time.sleep(1.0)
        assert gateway.stop() == 0
        senders.stop()
    assert senders.broken == []
    stored = {row["message_id"] for row in world.events()}
    assert senders.acknowledged == stored, "every answer was written, and none in vain"


def test_kafka_away_is_503_in_bounded_time_and_memory_and_nothing_acknowledged_is_lost(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path, start_part: Callable[[Part], Process]
) -> None:
    port, controller_port = free_ports(2)
    broker = KafkaEngine(folder=tmp_path / "kafka", port=port, controller_port=controller_port)
    running = start_part(broker)
    settings = make_settings(
        "postgres", kafka=broker.address, ingest_publish_timeout_s=TIMEOUT_S, ingest_inflight_bytes_max=8 * MIB
    )
    world = make_gateway_world(settings, postgres.shards, tmp_path)
    with world.running() as gateway:
        assert post(gateway, world.write_key, batch("before", 50)).status_code == 200
        psutil.Process(running.pid).kill()

        started = time.monotonic()
        answer = post(gateway, world.write_key, batch("during", 50))
        assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (
            503,
            "unavailable",
            "2",
        )
        assert time.monotonic() - started < TIMEOUT_S + 1.5
        assert httpx.get(f"{gateway.url}/livez", timeout=10).status_code == 200
        deadline = time.monotonic() + 10
        while True:  # it stays in the balancer, whose own 503 would be worse, and tells what is away
            ready = httpx.get(f"{gateway.url}/readyz", timeout=0.9)
            assert ready.status_code == 200
            if set(ready.json()["wrong"]) == {"kafka"}:
                break
            assert time.monotonic() < deadline, ready.text
            time.sleep(0.1)

        memory = psutil.Process(gateway.process.pid).memory_info
        before = memory().rss
        errors = flood(gateway, world, requests=60)
        assert errors == {"overloaded", "unavailable"}
        assert memory().rss - before < 100 * MIB, "60 MiB were sent, 8 may wait"

        start_part(broker)
        gateway.wait_ready()
        deadline = time.monotonic() + 20
        while post(gateway, world.write_key, batch("after", 50)).status_code != 200:
            assert time.monotonic() < deadline, gateway.log
        ids = {row["message_id"] for row in world.events()}
        assert {f"{prefix}-{i}" for prefix in ("before", "after") for i in range(50)} <= ids
        assert "headrace_ingest_inflight_bytes 0.0" in httpx.get(f"{gateway.url}/metrics").text


def flood(gateway: GatewayProcess, world: GatewayWorld, requests: int) -> set[str]:
    """Post `requests` bodies of a MiB at once; gives the error names of their answers."""
    errors: set[str] = set()

    def one(number: int) -> None:
        answer = post(gateway, world.write_key, batch(f"flood-{number}", 5, properties={"x": "y" * 200_000}))
        assert answer.status_code == 503
        errors.add(answer.json()["error"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


def test_control_database_away_known_keys_serve_on_for_a_bounded_time(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    direct = make_settings("kafka", "postgres", write_key_cache_s=0.2, write_key_stale_s=4.0)
    world = make_gateway_world(direct, postgres.shards, tmp_path)
    with connect_control(direct) as control:
        unused = create_write_key(control, world.customer_id, "not used before").secret
    parts = psycopg.conninfo.conninfo_to_dict(direct.postgres_control)
    with tcp_door(int(str(parts["port"]))) as door:
        dsn = psycopg.conninfo.make_conninfo(direct.postgres_control, port=door.port)
        behind = replace(world, settings=replace(direct, postgres_control=dsn))
        with behind.running() as gateway:
            assert post(gateway, world.write_key, batch("a", 1)).status_code == 200
            door.shut()
            shut = time.monotonic()
            time.sleep(0.5)
            assert post(gateway, world.write_key, batch("b", 1)).status_code == 200
            refused = post(gateway, unused, batch("c", 1))
            assert (refused.status_code, refused.json()["error"]) == (503, "unavailable")
            assert "retry-after" in refused.headers
            while post(gateway, world.write_key, batch("d", 1)).status_code == 200:
                assert time.monotonic() - shut < 20, "a key is trusted for ever"
                time.sleep(0.3)
            assert time.monotonic() - shut > 3
            door.open()
            deadline = time.monotonic() + 20
            while post(gateway, world.write_key, batch("e", 1)).status_code != 200:
                assert time.monotonic() < deadline, gateway.log
                time.sleep(0.2)
            assert post(gateway, unused, batch("f", 1)).status_code == 200


def test_a_gateway_is_not_ready_before_it_ever_was(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = make_settings("postgres", kafka=f"{LOOPBACK}:{free_ports(1)[0]}")
    make_control(settings, postgres.shards)
    gateway = GatewayProcess(settings, tmp_path / "gateway.log")
    try:
        gateway.wait_ready("/livez")
        for path in ("/readyz", "/startupz"):
            answer = httpx.get(gateway.url + path, timeout=10)
            assert (answer.status_code, list(answer.json()["wrong"])) == (503, ["kafka"])
        assert gateway.stop() == 0
    finally:
        if gateway.process.poll() is None:
            gateway.kill()


def test_a_port_in_use_is_a_named_error(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> None:
    settings = make_settings("postgres")
    with socket.socket() as taken:
        taken.bind((LOOPBACK, settings.ingest_port))
        taken.listen()
        gateway = GatewayProcess(settings, tmp_path / "gateway.log")
        assert gateway.process.wait(30) == 78
    assert f"cannot listen on 127.0.0.1:{settings.ingest_port}" in gateway.log
    assert "Traceback" not in gateway.log
