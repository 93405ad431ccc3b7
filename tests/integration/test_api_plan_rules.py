"""`/v1/plan` and `/v1/plan/violations`: the token's customer's plan, and counts from real Redis."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.plan_violations import (
    DAYS_KEPT,
    RULES_MAX,
    Count,
    Rule,
    add_violations,
    other_than,
    read_violations,
)
from headrace.shards.plans import parse_plan, remove_plan, write_plan
from tests.integration.api_world import World, make_world, running_api, settings_with_key
from tests.integration.conftest import Databases, MakeSettings

PLAN = parse_plan(b'{"mode": "warn", "events": {"order": {"schema": {"required": ["total"]}, "mode": "reject"}}}')
DAY_US = 86_400 * 1_000_000
MISSING = Rule("order", "$.total", "required", "reject")
STRAY = Rule("stray", "$", "unplanned", "warn")


@dataclass(frozen=True, slots=True)
class Asked:
    world: World
    url: str

    def get(self, path: str, customer: int = 0) -> httpx.Response:
        token = self.world.tokens[self.world.customers[customer]]
        return httpx.get(f"{self.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=20)

    def count(self, customer: int, counts: dict[Rule, Count], at_us: int) -> None:
        add(self.world.settings, self.world.customers[customer], counts, at_us)


def add(settings: Settings, customer_id: int, counts: dict[Rule, Count], at_us: int) -> None:
    async def do() -> None:
        async with Redis.from_url(settings.redis) as redis:
            await add_violations(redis, settings.topic_prefix, customer_id, counts, at_us)

    asyncio.run(do())


@pytest.fixture
def asked(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> Iterator[Asked]:
    settings = settings_with_key(make_settings("postgres", "redis"), tmp_path)
    world = make_world(settings, postgres.shards, count=10)
    with running_api(settings) as url:
        yield Asked(world, url)


def test_a_customer_sees_its_own_plan_and_no_other(asked: Asked) -> None:
    none = {"version": None, "updated_at": None, "plan": None}
    assert asked.get("/v1/plan").json() == none
    with connect_control(asked.world.settings) as control:
        write_plan(control, asked.world.customers[0], PLAN)
        assert write_plan(control, asked.world.customers[0], PLAN) == 2
    found = asked.get("/v1/plan").json()
    assert (found["version"], found["plan"]["events"]["order"]["mode"]) == (2, "reject")
    assert parse_plan(json.dumps(found["plan"]).encode()) == PLAN, "what it answers can be set again"
    assert found["updated_at"].endswith("Z")
    assert asked.get(f"/v1/plan?customer_id={asked.world.customers[0]}", customer=1).json() == none
    with connect_control(asked.world.settings) as control:
        assert remove_plan(control, asked.world.customers[0])
    assert asked.get("/v1/plan").json() == none


def test_violations_are_summed_over_days_and_belong_to_the_tokens_customer(asked: Asked) -> None:
    now_us = int(time.time()) * 1_000_000
    asked.count(0, {MISSING: Count(2, now_us), STRAY: Count(1, now_us)}, now_us)
    asked.count(0, {MISSING: Count(3, now_us - 5_000_000)}, now_us)
    asked.count(0, {STRAY: Count(9, now_us - DAY_US)}, now_us - DAY_US)
    asked.count(0, {STRAY: Count(100, 1)}, now_us - DAYS_KEPT * DAY_US)
    asked.count(1, {STRAY: Count(7, now_us)}, now_us)
    items = asked.get("/v1/plan/violations").json()["items"]
    assert [(item["event"], item["path"], item["rule"], item["mode"], item["count"]) for item in items] == [
        ("stray", "$", "unplanned", "warn", 10),
        ("order", "$.total", "required", "reject", 5),
    ]
    newest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_us // 1_000_000))
    assert [item["last_seen"] for item in items] == [newest, newest], "an older report does not set it back"
    today = asked.get("/v1/plan/violations?days=1").json()["items"]
    assert [item["count"] for item in today] == [5, 1]
    theirs = asked.get(f"/v1/plan/violations?customer_id={asked.world.customers[0]}", customer=1).json()["items"]
    assert [item["count"] for item in theirs] == [7]
    for wrong in ("0", str(DAYS_KEPT + 1), "x"):
        assert asked.get(f"/v1/plan/violations?days={wrong}").status_code == 400


def test_rules_beyond_the_bound_are_counted_together_and_days_end(make_settings: MakeSettings) -> None:
    """Names in rules come from senders: they must not fill Redis."""
    settings = make_settings("redis")
    now_us = time.time_ns() // 1000

    async def do() -> tuple[list[Any], list[int]]:
        async with Redis.from_url(settings.redis) as redis:
            for start in range(0, RULES_MAX + 100, 100):  # several gateways, each within its own bound
                some = {Rule(f"e{i}", "$", "unplanned", "warn"): Count(1, now_us) for i in range(start, start + 100)}
                await add_violations(redis, settings.topic_prefix, 7, some, now_us)
            await add_violations(
                redis, settings.topic_prefix, 7, {Rule("e0", "$", "unplanned", "warn"): Count(1, 1)}, now_us
            )
            ends = [await redis.ttl(key) for key in await redis.keys("*")]
            return await read_violations(redis, settings.topic_prefix, 7, now_us, 1), ends

    found, ends = asyncio.run(do())
    counts = {item.rule: item.count.times for item in found}
    other = other_than(Rule("", "", "", "warn"))
    assert (len(counts), counts[other], counts[Rule("e0", "$", "unplanned", "warn")]) == (RULES_MAX + 1, 100, 2)
    assert sum(counts.values()) == RULES_MAX + 101
    assert len(ends) == 1
    assert 0 < ends[0] <= DAYS_KEPT * 86_400


def test_without_redis_the_counts_are_a_named_problem_and_the_plan_is_there(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres"), tmp_path)
    world = make_world(settings, postgres.shards, count=10)
    with running_api(settings) as url:
        none = Asked(world, url).get("/v1/plan/violations")
        assert (none.status_code, none.json()["type"]) == (422, "urn:headrace:problem:not-answerable")
        assert Asked(world, url).get("/v1/plan").status_code == 200
    away = Settings.load(environ=settings.as_environment() | {"HEADRACE_REDIS": "redis://127.0.0.1:9/0"})
    with running_api(away) as url:
        gone = Asked(world, url).get("/v1/plan/violations")
        assert (gone.status_code, gone.json()["type"]) == (503, "urn:headrace:problem:source-unavailable")
        assert "retry-after" in gone.headers
