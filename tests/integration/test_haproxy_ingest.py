"""Gateways behind the HAProxy configuration that compose uses: whatever is away, senders get an answer they know."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from headrace.runtime.kafka_engine import KafkaEngine
from headrace.runtime.parts import Part
from headrace.runtime.ports import LOOPBACK, free_ports
from headrace.runtime.process import Process
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayWorld, make_gateway_world
from tests.integration.haproxy_world import balancer, wait_until
from tests.integration.tcp_door import tcp_door

ORIGIN = "https://shop.example"


def post(url: str, key: str, number: int) -> httpx.Response:
    batch = {"batch": [{"type": "track", "event": "e", "messageId": f"m{number}"}]}
    return httpx.post(f"{url}/v1/batch", json=batch, auth=(key, ""), headers={"Origin": ORIGIN}, timeout=30)


def assert_come_back_later(answer: httpx.Response) -> dict[str, Any]:
    """A 503 that SDKs and browsers alike understand; gives its body."""
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
    body: dict[str, Any] = answer.json()
    assert (body["success"], body["status"], body["code"], body["error"]) == (False, 0, 503, "unavailable")
    assert body["message"]
    return body


def test_kafka_then_the_control_database_then_all_gateways_away(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path, start_part: Callable[[Part], Process]
) -> None:
    port, controller_port, first_port, second_port = free_ports(4)
    broker = KafkaEngine(folder=tmp_path / "kafka", port=port, controller_port=controller_port)
    running = start_part(broker)
    direct = make_settings("postgres", kafka=broker.address, ingest_publish_timeout_s=2.0, write_key_cache_s=0.2)
    made = make_gateway_world(direct, postgres.shards, tmp_path)
    parts = psycopg.conninfo.conninfo_to_dict(direct.postgres_control)
    addresses = (f"{LOOPBACK}:{first_port}", f"{LOOPBACK}:{second_port}")
    with tcp_door(int(str(parts["port"]))) as door, balancer(tmp_path, ingest=addresses) as at:
        url, key = at.ingest_url, made.write_key
        assert_come_back_later(post(url, key, 0))
        dsn = psycopg.conninfo.make_conninfo(direct.postgres_control, port=door.port)
        worlds = [
            GatewayWorld(replace(direct, postgres_control=dsn, ingest_port=each), made.customer_id, key, tmp_path)
            for each in (first_port, second_port)
        ]
        with worlds[0].running() as first, worlds[1].running() as second:
            for number, gateway in enumerate((first, second)):
                assert post(gateway.url, key, number).status_code == 200, "both know the key from here on"
            wait_until(lambda: post(url, key, 2).status_code == 200)

            door.shut()
            wait_until(lambda: "postgres_control" in httpx.get(f"{url}/readyz", timeout=5).json()["wrong"])
            for number in range(5, 15):  # more than two health checks long, on both
                assert post(url, key, number).status_code == 200, "known keys serve on"
            door.open()

            psutil.Process(running.pid).kill()
            for number in range(3):
                body = assert_come_back_later(post(url, key, number))
                assert "Kafka" in body["message"], "the gateway's own answer, not the balancer's"

            first.kill()
            second.kill()
            wait_until(lambda: "no gateway" in post(url, key, 0).text)
            assert_come_back_later(post(url, key, 0))
            # Until the health checks notice, preflights are tried on the dead gateways.
            wait_until(lambda: preflight(url).status_code == 200)
            headers = preflight(url).headers
            assert headers["access-control-allow-origin"] == ORIGIN
            assert headers["access-control-allow-headers"] == "authorization,content-type"


def preflight(url: str) -> httpx.Response:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Headers": "authorization,content-type"}
    return httpx.options(f"{url}/v1/batch", headers=asked, timeout=30)
