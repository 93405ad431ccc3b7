"""How the shard finds the rows: by its indexes, in the partitions that the range needs, whatever it holds besides."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.query import model, planner, question, rollup_sql
from api.query.planner import Retention, RollupPlan
from headrace.migrations import migrate
from tests.integration.conftest import Databases, MakeSettings

NOW_S = 1_774_952_430
TODAY_S = NOW_S // 86_400 * 86_400
RETENTION = Retention(48 * 3600, 400 * 86_400)
OLD_DAYS = 60
CUSTOMER = 11


@pytest.fixture
def shard(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> Iterator["psycopg.Connection[Any]"]:
    """30 customers with 60 days of hours and days, in two partitions a grain: the last ten days and before."""
    settings = make_settings("postgres")
    migrate(settings, shards={"shard-1": postgres.shards[0]})
    split_s = TODAY_S - 10 * 86_400
    with psycopg.connect(postgres.shard_dsn(0), autocommit=True) as owner:
        for name in ("minute", "hour", "day"):
            for part, since_s, until_s in (("new", split_s, NOW_S * 2), ("old", 0, split_s)):
                owner.execute(
                    f"CREATE TABLE p_{name}_{part} PARTITION OF rollup_rows_{name}"
                    f" FOR VALUES FROM ({since_s}) TO ({until_s})"
                )
        for grain, span_s, days, rollup, width in (
            *((0, 60, 2, 0, 1), (0, 60, 2, 2, 1)),
            *((1, 3600, OLD_DAYS, 0, 1), (1, 3600, OLD_DAYS, 2, 4)),
            *((2, 86_400, OLD_DAYS, 0, 1), (2, 86_400, OLD_DAYS, 2, 40)),
        ):
            open_from_s = {0: NOW_S - 900, 1: NOW_S - 7200, 2: 0}[grain]
            owner.execute(
                f"""
                INSERT INTO rollup_rows (customer_id, window_start, generation, ver, events, value_e6, value_count,
                                         rollup, grain, part, open, dims, users, value_hist)
                SELECT c, w, w, 1, 5, 0, 0, {rollup}, {grain}, 0, w >= {open_from_s},
                       CASE WHEN {rollup} = 0 THEN '' ELSE '/page/' || p END, '', ''
                FROM generate_series(1, 30) c, generate_series(1, {width}) p,
                     generate_series({TODAY_S - days * 86_400}, {NOW_S}, {span_s}) w
                """
            )
        owner.execute("ANALYZE rollup_rows")
    with psycopg.connect(postgres.shard_dsn(0, postgres.reader), autocommit=True) as reader:
        reader.execute("SELECT set_config('headrace.customer_id', %s, false)", (str(CUSTOMER),))
        yield reader


ASKED: list[tuple[dict[str, Any], bool]] = [
    ({"kind": "totals", "range": {"from": "-5d"}}, False),
    ({"kind": "totals", "range": {"from": "-30d"}}, True),
    ({"kind": "totals", "range": {"from": "-5d", "tz": "Europe/Paris"}}, False),
    ({"kind": "timeseries", "range": {"from": "-5d", "tz": "Europe/Paris"}, "interval": "day"}, False),
    ({"kind": "breakdown", "range": {"from": "-5d"}, "dimensions": ["path"]}, False),
    ({"kind": "totals", "range": {"from": "-5d"}, "filters": ["is", "path", ["/page/3"]]}, False),
]
"""Questions, and whether they need the partitions of before the last ten days."""


def test_rows_are_found_by_index_and_old_partitions_are_left_alone(shard: "psycopg.Connection[Any]") -> None:
    for asked, old_partitions in ASKED:
        _check_plan(shard, asked, old_partitions)


def _check_plan(shard: "psycopg.Connection[Any]", asked: dict[str, Any], old_partitions: bool) -> None:
    parsed = model.parse(asked, batch_max=1)
    assert not isinstance(parsed, list)
    definite = question.resolve(parsed, NOW_S * 1_000_000)
    plan = planner.plan(definite, RETENTION, NOW_S * 1_000_000)
    assert isinstance(plan, RollupPlan)
    statement = rollup_sql.grouped(
        definite, plan, CUSTOMER, by_bucket=bool(definite.buckets), users=True, histograms=False
    )
    row = shard.execute("EXPLAIN (FORMAT JSON, ANALYZE) " + statement.text, statement.values).fetchone()
    assert row is not None
    nodes = list(_nodes(row[0][0]["Plan"]))
    scans = [node for node in nodes if "Relation Name" in node and node.get("Actual Loops", 0) > 0]
    # An empty partition (minutes of before) is read whole.
    scans = [node for node in scans if node["Actual Rows"] or node.get("Rows Removed by Filter", 0)]
    assert scans, asked
    assert {node["Node Type"] for node in scans} <= {"Index Scan", "Bitmap Heap Scan", "Index Only Scan"}, asked
    touched = {node["Relation Name"] for node in scans}
    assert any(name.endswith("_old") for name in touched) == old_partitions, asked
    removed = sum(node.get("Rows Removed by Filter", 0) * node["Actual Loops"] for node in scans)
    kept = sum(node["Actual Rows"] * node["Actual Loops"] for node in scans)
    assert removed <= kept + 200, "the index finds the rows; a filter over a customer's whole history would not"


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)
