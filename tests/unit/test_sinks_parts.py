"""The sinks' pure parts: back-off, leaves, starting points, what a transaction takes, lag."""

import json
import random

import numpy as np
import pyarrow as pa

from headrace.cli.lag import Position, lag_of
from schemas.codec import event_arrow
from schemas.frame import Frame, decode_chunk
from sinks.backoff import Backoff
from sinks.clickhouse_events import sample
from sinks.clickhouse_store import InsertCursor, completed, moved
from sinks.cursors import Cursor
from sinks.lane import starting_rules
from sinks.leaf_partitions import DAY_S, GRAINS, Leaf, leaves_ahead, leaves_of
from sinks.postgres import foremost, too_far_behind
from sinks.shard_store import _plan
from sinks.versioned_rows import newest_rows
from tests.frame_log import PartitionLog

LOG = PartitionLog(0, (1, 2, 100_001), size=300, seed=1)


def cursor(range_id: int, applied_to: int, *, start: int = 0, end: int = 50_000, hold: bool = False) -> Cursor:
    return Cursor(0, range_id, start, end, "", applied_to, applied_to, "", hold)


def frame(start: int, end: int) -> Frame:
    chunks = tuple(decode_chunk(value) for value in LOG.frame(start, end, "w" * 32, end))
    return Frame(chunks[0].header, chunks)


def test_waits_double_up_to_the_cap_and_start_again() -> None:
    backoff = Backoff(0.1, 5.0, random.Random(1))
    waits = [backoff.next_s() for _ in range(12)]
    for number, wait in enumerate(waits):
        ceiling = min(5.0, 0.1 * 2**number)
        assert ceiling / 2 <= wait <= ceiling
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_leaves_hold_the_generations_they_are_named_for() -> None:
    grains = np.array([0, 0, 1, 2], dtype=np.int64)
    generations = np.array([0, DAY_S, 33 * DAY_S, 513 * DAY_S], dtype=np.int64)
    assert leaves_of(grains, generations) == {Leaf(0, 0), Leaf(0, 1), Leaf(1, 1), Leaf(2, 1)}
    assert Leaf(1, 1).name == "rollup_rows_hour_1"
    for now_s in (0, 1_700_000_000):
        ahead = leaves_ahead(now_s)
        for table in GRAINS:
            assert {Leaf(table.grain, now_s // table.span_s), Leaf(table.grain, now_s // table.span_s + 1)} <= ahead


def test_a_rule_starts_at_the_hindmost_range_that_is_not_held() -> None:
    rules = starting_rules([cursor(1, 50), cursor(2, 30), cursor(3, 10, hold=True)], "t")
    assert (rules[0].position, rules[0].next_offset, rules[0].topic_id) == (30, 30, "t")
    assert starting_rules([cursor(3, 10, hold=True)], "t") == {}


def test_a_range_takes_frames_from_its_own_cursor_on() -> None:
    first, second = frame(0, 100), frame(100, 200)
    near, far = cursor(1, 100), cursor(2, 0, start=50_000, end=200_000)
    plan = _plan([first, second], [near, far])
    rows = {(row["customer_id"], row["ver"]) for row in newest_rows(plan.rows).iter_rows(named=True)}
    assert {ver for customer, ver in rows if customer < 50_000} == {200}
    assert {ver for customer, ver in rows if customer > 50_000} == {100, 200}
    assert {key: moved_to.applied_to for key, (moved_to, _) in plan.moved.items()} == {(0, 1): 200, (0, 2): 200}
    assert not plan.behind


def test_of_several_frames_each_row_is_written_once_as_the_newest_has_it() -> None:
    plan = _plan([frame(0, 100), frame(100, 200), frame(200, 300)], [cursor(1, 0, end=200_000)])
    newest = newest_rows(plan.rows)
    keys = newest.select("customer_id", "rollup", "grain", "window_start", "dims")
    assert keys.is_unique().all()
    final = {(row[0], row[4]): row[7] for row in LOG.rows(0, 300)}
    assert {(r["customer_id"], r["dims"]): r["events"] for r in newest.iter_rows(named=True)} == final


def test_held_stale_and_uncovered_ranges_take_nothing() -> None:
    held = _plan([frame(0, 100)], [cursor(1, 0, hold=True)])
    stale = _plan([frame(0, 100)], [cursor(1, 100)])
    gap = _plan([frame(100, 200)], [cursor(1, 50)])
    none = _plan([frame(0, 100)], [])
    for plan in (held, stale, gap, none):
        assert plan.moved == {}
        assert plan.rows == []
        assert plan.frames_skipped == 1
    assert [plan.behind for plan in (held, stale, gap, none)] == [False, False, True, True]


def test_lanes_far_behind_start_apart() -> None:
    wanted = {"a": {0: 5_000, 1: 10}, "b": {0: 4_500, 1: 10}, "c": {0: 10, 1: 10}, "empty": {}}
    ahead = foremost(wanted, [0, 1, 2])
    assert ahead == {0: 5_000, 1: 10, 2: 0}
    assert too_far_behind(wanted, ahead, 1_000) == {"c"}


def test_cursors_keep_the_receive_time_before_and_note_completeness() -> None:
    before = InsertCursor(3, next_offset=10, receive_us=100)
    after = moved(before, {"next_offset": 20, "receive_us": 200})
    assert (after.receive_us, after.prev_receive_us, after.next_offset) == (200, 100, 20)
    assert moved(after, {"next_offset": 30}).prev_receive_us == 100
    assert [c.complete_us for c in completed([after], {3: 20}, 77)] == [77]
    assert completed([after], {3: 21}, 77) == []
    assert completed([after], {4: 1}, 77) == []


def test_lag_counts_what_each_partition_lacks() -> None:
    lag = lag_of("s", [Position(0, 10, 3, 5_000_000)], {0: 15, 1: 7}, {0: 3, 1: 2}, 9_000_000)
    assert (lag.events, lag.frames, lag.age_s) == (12, 2, None)
    level = lag_of("s", [Position(0, 15, 3, 5_000_000)], {0: 15}, {0: 3}, 9_000_000)
    assert (level.events, level.frames, level.age_s) == (0, 0, 4.0)


def test_a_sample_shows_the_newest_of_each_customer_in_their_order() -> None:
    rng = np.random.default_rng(4)
    customers = rng.integers(0, 300, 5_000)
    names = [item.name for item in event_arrow() if item.name not in ("customer_id", "timestamp_us", "value_e6")]
    table = pa.table(
        {
            "customer_id": pa.array(customers),
            "timestamp": pa.array(np.arange(5_000)).cast(pa.timestamp("us", "UTC")),
            "value_e6": pa.array([None] * 5_000, pa.int64()),
            **{name: pa.array([""] * 5_000) for name in names if name != "message_id"},
            "message_id": pa.array([f"m{n}" for n in range(5_000)]),
        }
    )
    shown = sample(table, 3, 200)
    assert list(shown) == sorted(set(customers.tolist()))[:200]
    for customer, events in shown.items():
        newest = np.flatnonzero(customers == customer)[-3:]
        assert [json.loads(event)["message_id"] for event in events] == [f"m{n}" for n in newest]
    assert sample(table.slice(0, 0), 3, 200) == {}
    assert [len(events) for events in sample(table.slice(0, 1), 3, 200).values()] == [1]


def test_a_sampled_event_is_json_whatever_is_in_it() -> None:
    texts = ['"\\', "é ✓ 😀", "a\nb\x7f\x01", None]
    names = [item.name for item in event_arrow() if item.name not in ("customer_id", "timestamp_us", "value_e6")]
    table = pa.table(
        {
            "customer_id": pa.array([7] * 4),
            "timestamp": pa.array([0, 1_790_000_000_123_456, 1, 2]).cast(pa.timestamp("us", "UTC")),
            "value_e6": pa.array([None, 12_500_000, -1, 0], pa.int64()),
            **{name: pa.array(texts) for name in names},
        }
    )
    shown = [json.loads(event) for event in sample(table, 10, 1)[7]]
    assert [event["event"] for event in shown] == [event["path"] for event in shown] == texts
    assert [event["value"] for event in shown] == [None, 12.5, -1e-6, 0]
    assert shown[1]["timestamp"] == "2026-09-21T14:13:20.123456Z"
    assert set(shown[0]) == {
        "message_id", "type", "user_id", "anonymous_id", "path", "referrer_domain", "utm_source", "country", "device",
        "browser", "os", "event", "timestamp", "value",
    }  # fmt: skip
