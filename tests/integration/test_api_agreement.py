"""Rollup rows, raw events and a plain count in Python give the same answers to the same questions."""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import xxhash

from api.app import Deps
from api.problems import ProblemError
from api.query import filters, model, question
from api.query.filters import Branch, Leaf
from api.query.planner import RollupPlan
from api.query.postgres import SKETCH_STEP
from api.query.question import Question
from api.query.result import Group, Number, Result
from api.serve import make_deps
from headrace.clock import ManualClock, SystemClock
from schemas.sketches import hll_of
from tests.integration.api_world import Event, World, make_world, settings_with_key
from tests.integration.conftest import Databases, MakeSettings

SEED = 20261124
QUESTIONS = 120
USERS_ERROR = 0.08
"""Five standard errors of a HyperLogLog of 4,096 registers; the sketches here hold under 700 users, far below it."""
QUANTILE_ERROR = 0.0201

ZONES = ("UTC", "Europe/Paris", "America/New_York", "Asia/Tokyo")
CUTS = (["event"], ["path"], ["country"], ["referrer_domain"], ["utm_source", "referrer_domain"], ["device", "os"])
METRICS = (
    ["events", "sum(value)", "count(value)", "avg(value)"],
    ["events", "users", "events_per_user"],
    ["events", "users", "p50(value)", "p95(value)", "p99(value)"],
)


def test_rollups_raw_events_and_a_plain_count_agree(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres", "clickhouse"), tmp_path)
    world = make_world(settings, postgres.shards)
    clock = ManualClock((world.watermark_us // 1_000_000 + 5) * 1_000_000)
    asyncio.run(_compare(world, make_deps(settings, world.key, clock), random.Random(SEED)))


async def _compare(world: World, deps: Deps, rng: random.Random) -> None:
    from_rollups = 0
    assert deps.raw is not None
    async with deps.router:
        for number in range(QUESTIONS):
            asked = random_query(rng)
            parsed = model.parse(asked, batch_max=1)
            assert not isinstance(parsed, list)
            definite = question.resolve(parsed, deps.clock.now_us())
            customer = rng.choice(world.customers)
            label = f"seed {SEED}, question {number}, customer {customer}: {asked}"
            expected = count(definite, world.events[customer])
            raw = await deps.raw.answer(definite, customer)
            _same(definite, expected, raw.groups, label + " (raw)", exact=True)
            plan = deps.queries.plan(definite)
            if isinstance(plan, RollupPlan):
                from_rollups += 1
                rollups = await deps.queries._rollups.answer(definite, plan, customer, accept_folded=False)
                _same(definite, expected, rollups.groups, label + f" (rollups, {plan.pieces})", exact=False)
                assert rollups.total_rows == raw.total_rows, label
                assert (rollups.other is None) == (raw.other is None), label
                for mine, other in zip(rollups.other or (), raw.other or (), strict=True):
                    assert mine == pytest.approx(other), label
        await deps.raw.close()
    # Otherwise the comparison would have compared nothing.
    assert from_rollups > QUESTIONS / 3


def random_query(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(("totals", "breakdown", "timeseries"))
    asked: dict[str, Any] = {
        "kind": kind,
        "metrics": rng.choice(METRICS),
        "range": {"from": rng.choice(("-30m", "-5h", "today", "-2d", "-10d", "-6w", "-70w")), "to": "now"},
    }
    asked["range"]["tz"] = rng.choice(ZONES)
    if rng.random() < 0.4 and asked["range"]["from"] not in ("-30m", "-5h"):
        asked["range"]["to"] = "today" if asked["range"]["from"] != "today" else "now"
    if kind == "timeseries" and asked["range"]["from"] in ("-10d", "-6w", "-70w"):
        asked["interval"] = rng.choice(("day", "week", "month"))
    cut = rng.choice(CUTS)
    if kind == "breakdown" or (kind == "timeseries" and rng.random() < 0.3):
        asked["dimensions"] = cut
        asked["limit"] = rng.choice((1, 3, 50))
        asked["order_by"] = [[rng.choice(asked["metrics"][:2]), rng.choice(("asc", "desc"))]]
    if rng.random() < 0.5:
        asked["filters"] = random_filter(rng, rng.choice(cut), 2)
    return asked


def random_filter(rng: random.Random, name: str, depth: int) -> list[Any]:
    if depth and rng.random() < 0.4:
        combiner = rng.choice(("and", "or", "not"))
        if combiner == "not":
            return ["not", random_filter(rng, name, depth - 1)]
        return [combiner, [random_filter(rng, name, depth - 1) for _ in range(2)]]
    operator = rng.choice(("is", "is_not", "contains", "not_contains", "set", "not_set"))
    if operator in ("set", "not_set"):
        return [operator, name]
    known = ("signup", "page view", "it's \\odd\t", "/page/1", "France", "Österreich", "", "mail", "phone", "Linux")
    values = rng.sample(known, 2)
    if operator in ("contains", "not_contains"):
        values = [value[:3] or "x" for value in values]
    return [operator, name, values]


def count(definite: Question, events: Sequence[Event]) -> dict[tuple[int | None, tuple[str, ...]], list[Number]]:
    """All groups, without limit, by bucket and tuple."""
    asked = definite.asked
    groups: dict[tuple[int | None, tuple[str, ...]], list[Event]] = {}
    if definite.kind == "totals":
        groups[None, ()] = []
    for event in events:
        if not asked.from_us <= event.timestamp_us < asked.to_us or not keeps(definite.filters, event):
            continue
        bucket = None
        if definite.kind == "timeseries":
            bucket = next(
                i for i, item in enumerate(definite.buckets) if item.from_us <= event.timestamp_us < item.to_us
            )
        values = tuple(_value(event, dimension.name) for dimension in definite.dimensions)
        groups.setdefault((bucket, values), []).append(event)
    return {key: [measure(metric.function, found) for metric in definite.metrics] for key, found in groups.items()}


def measure(function: str, events: list[Event]) -> Number:
    values = sorted(event.value_e6 for event in events if event.value_e6 is not None)
    users = len({event.user for event in events if event.user})
    match function:
        case "events":
            return len(events)
        case "users":
            return users
        case "events_per_user":
            return len(events) / users if users else None
        case "sum":
            return sum(values) / 1e6
        case "count":
            return len(values)
        case "avg":
            return sum(values) / len(values) / 1e6 if values else None
        case _:
            quantile = {"p50": 0.5, "p95": 0.95, "p99": 0.99}[function]
            return values[math.floor(quantile * (len(values) - 1))] / 1e6 if values else None


def keeps(tree: filters.Filter | None, event: Event) -> bool:
    if tree is None:
        return True
    if isinstance(tree, Branch):
        kept = [keeps(item, event) for item in tree.items]
        return not kept[0] if tree.combiner == "not" else all(kept) if tree.combiner == "and" else any(kept)
    return _leaf(tree, _value(event, tree.dimension.name))


def _leaf(leaf: Leaf, value: str) -> bool:
    texts = [str(text) for text in leaf.values]
    match leaf.operator:
        case "is":
            return value in texts
        case "is_not":
            return value not in texts
        case "contains":
            return any(text in value for text in texts)
        case "not_contains":
            return not any(text in value for text in texts)
        case "set":
            return value != ""
        case _:
            return value == ""


def _value(event: Event, name: str) -> str:
    return event.dimension({"event": "name"}.get(name, name))


def _same(
    definite: Question,
    expected: dict[tuple[int | None, tuple[str, ...]], list[Number]],
    groups: list[Group],
    label: str,
    *,
    exact: bool,
) -> None:
    found = {(group.bucket, group.values): group.measures for group in groups}
    assert len(found) == len(groups), label
    assert found.keys() <= expected.keys(), label
    tuples = {values for _, values in expected}
    if len(tuples) <= definite.limit or not definite.dimensions:
        assert found.keys() == expected.keys(), label
    for key, measures in found.items():
        for metric, mine, theirs in zip(definite.metrics, measures, expected[key], strict=True):
            where = f"{label} at {key}: {metric.name}"
            if mine is None or theirs is None:
                assert mine is theirs, where
            elif exact or metric.function in ("events", "sum", "count", "avg"):
                assert mine == pytest.approx(theirs, rel=1e-12), where
            elif metric.function.startswith("p"):
                assert mine == pytest.approx(theirs, rel=QUANTILE_ERROR, abs=2e-6), where
            else:
                # Among few users one register shared by two is one user less.
                assert mine == pytest.approx(theirs, rel=USERS_ERROR, abs=0 if theirs < 10 else 2), where
    if definite.kind == "breakdown":
        _ordered(definite, expected, groups, label, exact=exact)


def _ordered(
    definite: Question,
    expected: dict[tuple[int | None, tuple[str, ...]], list[Number]],
    groups: list[Group],
    label: str,
    *,
    exact: bool,
) -> None:
    """The right tuples in the right order; where sketches order, only as right as they are."""
    name, direction = definite.order_by[0]
    place = [metric.name for metric in definite.metrics].index(name)
    if not exact and name not in ("events", "sum(value)"):
        return
    sign = -1 if direction == "desc" else 1
    ranked = sorted(expected, key=lambda key: (sign * (expected[key][place] or 0), key[1]))
    assert [group.values for group in groups] == [values for _, values in ranked[: definite.limit]], label


def test_ordering_by_users_looks_past_the_tuples_with_most_events(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    """The tuples with most users may be far down by events; those with fewer events than users found need no look."""
    settings = settings_with_key(make_settings("postgres"), tmp_path)
    world = make_world(settings, postgres.shards, count=10)
    customer, day_s = world.customers[0], 1_700_000_000 // 86_400 * 86_400
    paths: list[tuple[str, int, int]] = []  # path, events, users
    paths += [(f"/loud/{i}", 10_000 + i, 1) for i in range(2 * SKETCH_STEP)]
    paths += [(f"/liked/{i}", 500 + i, 400 + i) for i in range(20)]
    paths += [(f"/quiet/{i}", 30, 30) for i in range(4 * SKETCH_STEP)]
    with psycopg.connect(postgres.shard_dsn(0)) as shard:
        for path, events, users in paths:
            hashes = [xxhash.xxh64_intdigest(f"{path} {user}".encode()) for user in range(users)]
            shard.execute(
                "INSERT INTO rollup_rows (customer_id, rollup, grain, window_start, dims, generation, part, ver,"
                " open, events, users, value_e6, value_count, value_hist)"
                " VALUES (%s, 2, 2, %s, %s, %s, 0, 1, true, %s, %s, 0, 0, '')",
                (customer, day_s, path, day_s, events, hll_of(hashes)),
            )
    asked = {
        "kind": "breakdown",
        "metrics": ["users", "events"],
        "dimensions": ["path"],
        "order_by": [["users", "desc"]],
        "limit": 5,
        "range": {"from": "2023-11-14", "to": "2023-11-15"},
    }
    result = asyncio.run(_from_rollups(world, asked, customer))
    liked = {f"/liked/{i}" for i in range(20)}
    assert {group.values[0] for group in result.groups} <= liked
    assert [group.measures[0] for group in result.groups] == sorted(
        (group.measures[0] or 0 for group in result.groups), reverse=True
    )
    assert result.total_rows == len(paths)
    assert result.other is not None
    assert result.other[1] == sum(events for _, events, _ in paths) - sum(
        group.measures[1] or 0 for group in result.groups
    )


def test_a_top_list_by_sketch_is_never_made_of_some_of_the_tuples(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More tuples than candidates: proven by their events, or answered from the raw events, or not answered."""
    monkeypatch.setattr("api.query.postgres.CANDIDATES_MAX", 20)
    settings = settings_with_key(make_settings("postgres", "clickhouse"), tmp_path)
    world = make_world(settings, postgres.shards, count=1500)
    asyncio.run(_few_candidates(world))


async def _few_candidates(world: World) -> None:
    customer = world.customers[0]
    deps = make_deps(world.settings, world.key, SystemClock())
    without = replace(world.settings, clickhouse="")
    alone = make_deps(without, world.key, SystemClock())
    assert deps.raw is not None

    def asked(order: list[str], limit: int) -> Question:
        query = {
            "kind": "breakdown",
            "metrics": ["users", "p95(value)", "events"],
            "dimensions": ["path"],
            "order_by": [order],
            "limit": limit,
            "range": {"from": "-10d"},
        }
        parsed = model.parse(query, batch_max=1)
        assert not isinstance(parsed, list)
        return question.resolve(parsed, deps.clock.now_us())

    async with deps.router, alone.router:
        for order, limit in ((["users", "asc"], 5), (["p95(value)", "desc"], 5), (["users", "desc"], 30)):
            definite = asked(order, limit)
            answer = await deps.queries.answer(definite, customer)
            assert answer["total_rows"] > 20
            assert answer["meta"]["source"] == "clickhouse", order
            assert "more than 20 tuples" in answer["meta"]["source_reason"]
            truth = count(definite, world.events[customer])
            place = {"users": 0, "p95(value)": 1}[order[0]]
            best = sorted((row[place] or 0 for row in truth.values()), reverse=order[1] == "desc")[:limit]
            assert [row[1 + place] or 0 for row in answer["rows"]] == pytest.approx(best), order
            with pytest.raises(ProblemError) as refused:
                await alone.queries.answer(definite, customer)
            assert refused.value.slug == "not-answerable"
        proven = await deps.queries.answer(asked(["users", "desc"], 1), customer)
        assert proven["meta"]["source"] == "postgres", "no other path has as many events as that one has users"
        await deps.raw.close()


async def _from_rollups(world: World, asked: dict[str, Any], customer: int) -> Result:
    deps = make_deps(world.settings, world.key, SystemClock())
    parsed = model.parse(asked, batch_max=1)
    assert not isinstance(parsed, list)
    definite = question.resolve(parsed, deps.clock.now_us())
    plan = deps.queries.plan(definite)
    assert isinstance(plan, RollupPlan)
    async with deps.router:
        return await deps.queries._rollups.answer(definite, plan, customer, accept_folded=False)
