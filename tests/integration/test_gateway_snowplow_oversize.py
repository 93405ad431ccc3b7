"""What Snowplow's trackers send too large is answered 200, or they would send it for ever: it is kept and counted."""

import gzip
import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import brotli
import httpx
import psutil
import pytest
from backports import zstd

from headrace.shards.address import connect_control
from headrace.shards.policy import Policy, Quota, write_policy
from producers.gateway.identify import EVENTS_MAX
from producers.gateway.limits import START_BYTES_MAX
from schemas.topics import Topics
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_gateway_world, read_all

MIB = 1024 * 1024
PATH = "/com.snowplowanalytics.snowplow/tp2"


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Any) -> GatewayWorld:
    return make_gateway_world(
        make_settings("kafka", "postgres", write_key_cache_s=0.0, privacy_key="k" * 32), postgres.shards, tmp_path
    )


@pytest.fixture
def gateway(world: GatewayWorld) -> Iterator[GatewayProcess]:
    with world.running() as gateway:
        yield gateway


def post(gateway: GatewayProcess, content: Any, **headers: str) -> httpx.Response:
    given = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(gateway.url + PATH, content=content, headers=given, timeout=30)


def event(key: str, number: int, label: str = "") -> dict[str, str]:
    return {"e": "se", "eid": f"m-{number}", "aid": key, "se_ca": "a", "se_ac": "b", "se_la": label}


def body(*events: dict[str, str], ends: str = "") -> bytes:
    told = {"schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4", "data": events, "z": ends}
    return json.dumps(told).encode()


def counted(gateway: GatewayProcess, metric: str) -> float:
    found = re.search(rf"^{re.escape(metric)} (\S+)$", httpx.get(f"{gateway.url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_an_event_that_is_too_large_is_set_aside_beside_the_others(
    world: GatewayWorld, gateway: GatewayProcess
) -> None:
    large = event(world.write_key, 1, "x" * 300 * 1024)
    answer = post(gateway, body(event(world.write_key, 0), large, event(world.write_key, 2)))
    assert answer.status_code == 200
    assert answer.json()["rejected"] == [{"index": 1, "reason": "event_too_large"}]
    assert {row["message_id"] for row in world.events(2)} == {"m-0", "m-2"}
    ((reason, raw),) = world.rejected()
    assert reason == "event_too_large"
    assert json.loads(raw) == large
    assert counted(gateway, 'headrace_events_rejected_total{reason="event_too_large"}') == 1


def test_of_a_body_that_is_too_large_the_start_is_kept_and_counted(
    world: GatewayWorld, gateway: GatewayProcess
) -> None:
    key = world.write_key
    noise = random.Random(1).randbytes(3 * MIB).hex()  # 6 MiB that no compression makes much smaller
    long, bomb = body(event(key, 0, noise)), body(event(key, 0), ends="a" * (21 * MIB))
    many = body(*[{"aid": key, "e": "pv"}] * (EVENTS_MAX + 1))
    cases: list[tuple[str, bytes, bytes, dict[str, str]]] = [
        ("body_too_large", long, long, {}),
        ("body_too_large", gzip.compress(long * 2), long * 2, {"content_encoding": "gzip"}),
        ("body_too_large", zstd.compress(long * 2), long * 2, {"content_encoding": "zstd"}),
        ("body_too_large", gzip.compress(bomb), bomb, {}),
        ("body_too_large", zstd.compress(bomb), bomb, {"content_encoding": "zstd"}),
        ("body_too_large", brotli.compress(bomb, quality=4), bomb, {"content_encoding": "br"}),
        ("too_many_events", many, many, {}),
        ("too_many_events", gzip.compress(many), many, {"content_encoding": "gzip"}),
    ]
    wanted = []
    for reason, sent, meant, headers in cases:
        answer = post(gateway, sent, **headers)
        told = answer.json()
        assert (answer.status_code, told["error"]) == (200, reason)
        assert told["dropped"] == "all events of the request"
        wanted.append((reason, meant[:START_BYTES_MAX]))
    chunked = post(gateway, (long[at : at + 50_000] for at in range(0, len(long), 50_000)))
    assert chunked.status_code == 200
    wanted.append(("body_too_large", long[:START_BYTES_MAX]))

    kept = world.rejected()
    assert [(reason, len(raw)) for reason, raw in kept] == [(reason, len(raw)) for reason, raw in wanted]
    assert kept == wanted
    assert world.events(0) == []
    topic = Topics(world.settings.topic_prefix).rejected
    details = [
        dict(item.headers())["__connect.errors.exception.detail"].decode() for item in read_all(world.settings, topic)
    ]
    assert all(f"kept are its first {START_BYTES_MAX} bytes" in detail for detail in details)
    assert counted(gateway, 'headrace_events_rejected_total{reason="body_too_large"}') == 7
    assert counted(gateway, 'headrace_requests_refused_total{reason="body_too_large"}') == 7
    assert counted(gateway, "headrace_ingest_inflight_bytes") == 0, "all that was held was given back"


def test_what_names_no_known_key_is_never_told_as_taken(world: GatewayWorld, gateway: GatewayProcess) -> None:
    for content in (
        body(event("wk_unknown", 0, "a" * 5 * MIB)),
        body(event(world.write_key, 0, "a" * 5 * MIB)).replace(b'"aid"', b'"aidx"'),
        b"\xff" * 5 * MIB,
    ):
        answer = post(gateway, content)
        assert (answer.status_code, answer.json()["error"]) == (401, "unknown_write_key")
    assert world.rejected() == []
    basic = httpx.post(gateway.url + PATH, content=b"\xff" * 5 * MIB, auth=(world.write_key, ""), timeout=30)
    assert basic.status_code == 200, "a key in the header does as well"
    assert [reason for reason, _ in world.rejected()] == ["body_too_large"]


def test_policy_and_quota_hold_for_what_is_kept(world: GatewayWorld, gateway: GatewayProcess) -> None:
    long = body(event(world.write_key, 0, "secret " * MIB))

    def decide(policy: Policy) -> None:
        with connect_control(world.settings) as control:
            write_policy(control, world.customer_id, policy)

    decide(Policy(drop=("se_la",)))
    assert post(gateway, long).status_code == 200
    ((reason, raw),) = world.rejected()
    assert (reason, json.loads(raw)["bytes"]) == ("body_too_large", START_BYTES_MAX)
    assert b"secret" not in raw
    decide(Policy(honour_dnt=True))
    assert post(gateway, long, dnt="1").status_code == 200
    assert len(world.rejected()) == 1
    assert counted(gateway, "headrace_events_not_tracked_total") == 1
    decide(Policy(quota=Quota(per_month=0)))
    answer = post(gateway, long)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert len(world.rejected()) == 1
    assert counted(gateway, "headrace_ingest_inflight_bytes") == 0


def test_other_protocols_refuse_as_before_and_nothing_of_it_is_kept(
    world: GatewayWorld, gateway: GatewayProcess
) -> None:
    long = json.dumps({"batch": [{"type": "track", "event": "x" * 5 * MIB, "aid": world.write_key}]}).encode()
    answer = httpx.post(f"{gateway.url}/v1/batch", content=long, auth=(world.write_key, ""), timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")
    assert world.rejected() == []


def test_in_a_flood_each_that_is_told_as_taken_is_kept_and_memory_stays_bounded(
    world: GatewayWorld, gateway: GatewayProcess
) -> None:
    long = body(event(world.write_key, 0, "a" * 5 * MIB))
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    with ThreadPoolExecutor(40) as pool:
        statuses = list(pool.map(lambda _: post(gateway, long).status_code, range(160)))
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 100
    assert [reason for reason, _ in world.rejected()] == ["body_too_large"] * statuses.count(200)
    assert process.memory_info().rss - before < 150 * MIB
    assert counted(gateway, "headrace_ingest_inflight_bytes") == 0


def test_while_kafka_is_away_it_is_to_come_again(make_settings: MakeSettings, world: GatewayWorld) -> None:
    away = make_settings("postgres", kafka="127.0.0.1:9", ingest_publish_timeout_s=1.0)
    apart = GatewayWorld(away, world.customer_id, world.write_key, world.folder)
    gateway = GatewayProcess(apart.settings, world.folder / "away.log")
    try:
        gateway.wait_ready("/livez")
        answer = post(gateway, body(event(world.write_key, 0, "a" * 5 * MIB)))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
    finally:
        gateway.kill()
