"""A customer's tracking plan at a running gateway: real Kafka, Postgres and Redis; what is stored, what is not, what
the sender is told, what is counted."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.plan_violations import Rule, read_violations
from headrace.shards.plans import parse_plan, remove_plan, write_plan
from headrace.shards.write_keys import create_write_key
from producers.gateway.plan import PLAN_VIOLATION
from producers.gateway.plan_counts import FLUSH_S
from schemas.topics import Topics
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayWorld, make_gateway_world, read_all

SCHEMA = {"required": ["total"], "properties": {"total": {"type": "number", "minimum": 0}}}
FOLLOW_S = 10.0
MISSING = Rule("order", "$.total", "required", "reject")


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Any) -> GatewayWorld:
    settings = make_settings("kafka", "postgres", "redis", write_key_cache_s=0.2)
    return make_gateway_world(settings, postgres.shards, tmp_path)


def set_plan(world: GatewayWorld, mode: str, unplanned: str = "allow") -> None:
    document = {"mode": mode, "unplanned": unplanned, "events": {"order": {"schema": SCHEMA}}}
    with connect_control(world.settings) as control:
        write_plan(control, world.customer_id, parse_plan(json.dumps(document).encode()))


def order(number: int, **properties: Any) -> dict[str, Any]:
    return {"type": "track", "event": "order", "messageId": f"m-{number}", "userId": "u", "properties": properties}


def send(client: httpx.Client, key: str, *events: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/batch", json={"batch": events}, auth=(key, ""))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert told["success"] is True
    return told


def counted(settings: Settings, customer_id: int) -> dict[Rule, int]:
    async def read() -> dict[Rule, int]:
        async with Redis.from_url(settings.redis) as redis:
            now_us = time.time_ns() // 1000
            found = await read_violations(redis, settings.topic_prefix, customer_id, now_us, 2)
            return {item.rule: item.count.times for item in found}

    return asyncio.run(read())


def wait_for(what: Any, timeout_s: float = FOLLOW_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_mode_reject_sets_events_aside_and_tells_the_sender_event_property_and_rule(world: GatewayWorld) -> None:
    set_plan(world, "reject", unplanned="reject")
    with world.running() as gateway, httpx.Client(base_url=gateway.url, timeout=20) as client:
        stray = {"type": "track", "event": "stray", "messageId": "s"}
        identify = {"type": "identify", "messageId": "i", "userId": "u", "traits": {"total": "any"}}
        told = send(client, world.write_key, order(0, total=1), order(1), order(2, total=-1), stray, identify)
        missing = "event 'order' breaks its plan at $.total: required"
        negative = "event 'order' breaks its plan at $.total: minimum 0"
        unplanned = "event 'stray' is not in the tracking plan"
        assert [item["index"] for item in told["rejected"]] == [1, 2, 3]
        assert {item["reason"] for item in told["rejected"]} == {PLAN_VIOLATION}
        assert [item["detail"] for item in told["rejected"]] == [missing, negative, unplanned]
        assert {row["message_id"] for row in world.events(2)} == {"m-0", "i"}
        assert [(reason, json.loads(raw)["messageId"]) for reason, raw in world.rejected()] == [
            (PLAN_VIOLATION, "m-1"),
            (PLAN_VIOLATION, "m-2"),
            (PLAN_VIOLATION, "s"),
        ]
        topic = Topics(world.settings.topic_prefix).rejected
        headers = [dict(message.headers()) for message in read_all(world.settings, topic)]
        details = [item["__connect.errors.exception.detail"].decode() for item in headers]
        assert details == [missing, negative, unplanned]
        exposition = client.get("/metrics").text
        assert 'headrace_plan_violations_total{mode="reject"} 3.0' in exposition
        assert 'headrace_events_rejected_total{reason="plan_violation"} 3.0' in exposition
        assert "stray" not in exposition, "no name of an event is a label"
        wait_for(lambda: sum(counted(world.settings, world.customer_id).values()) == 3)
        assert counted(world.settings, world.customer_id)[MISSING] == 1


def test_mode_warn_stores_and_counts_and_a_change_of_plan_is_followed(world: GatewayWorld) -> None:
    """From none over warn, reject and removed to reject again: each within the time that a key is trusted."""
    with world.running() as gateway, httpx.Client(base_url=gateway.url, timeout=20) as client:

        def rejected() -> int:
            return len(send(client, world.write_key, order(1)).get("rejected", ()))

        assert rejected() == 0
        set_plan(world, "warn")
        warned = Rule("order", "$.total", "required", "warn")
        wait_for(lambda: rejected() or counted(world.settings, world.customer_id).get(warned, 0) > 0)
        assert rejected() == 0
        assert world.rejected() == []
        set_plan(world, "reject")
        wait_for(lambda: rejected() == 1)
        with connect_control(world.settings) as control:
            assert remove_plan(control, world.customer_id)
        wait_for(lambda: rejected() == 0)
        set_plan(world, "reject")
        wait_for(lambda: rejected() == 1)
        set_plan(world, "off", unplanned="reject")
        wait_for(lambda: rejected() == 0)


def test_a_plan_is_its_customers_alone_and_what_waits_is_counted_when_a_gateway_stops(world: GatewayWorld) -> None:
    set_plan(world, "reject")
    with connect_control(world.settings) as control:
        other = create_customer(control, "another shop").customer_id
        other_key = create_write_key(control, other, "test").secret
    with world.running() as gateway, httpx.Client(base_url=gateway.url, timeout=20) as client:
        assert "rejected" not in send(client, other_key, order(1))
        started = time.monotonic()
        assert len(send(client, world.write_key, *[order(i) for i in range(700)])["rejected"]) == 700
        assert gateway.stop() == 0, gateway.log
        assert time.monotonic() - started < FLUSH_S + 10
    assert counted(world.settings, world.customer_id) == {MISSING: 700}
    assert counted(world.settings, other) == {}


def test_events_are_judged_and_answered_while_redis_is_away(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Any
) -> None:
    settings = make_settings("kafka", "postgres", redis="redis://127.0.0.1:9/0")
    world = make_gateway_world(settings, postgres.shards, tmp_path)
    set_plan(world, "reject")
    with world.running() as gateway, httpx.Client(base_url=gateway.url, timeout=20) as client:
        for number in range(3):
            started = time.monotonic()
            assert len(send(client, world.write_key, order(number), order(number, total=1))["rejected"]) == 1
            assert time.monotonic() - started < 5
        wait_for(lambda: "plan_violations_unsent" in gateway.log)
        assert 'headrace_plan_violations_total{mode="reject"} 3.0' in client.get("/metrics").text
    assert len(world.events(3)) == len(world.rejected()) == 3
