"""What a fold promises its worker: refusals, one frame at a time, rows that leave memory, bounded waiting."""

from typing import Any

import numpy as np
import pytest

from headrace.errors import ConfigurationError, FatalError, GapError, PoisonError
from schemas.frame import ROWS_ARROW
from schemas.rollups import DIMS_SEPARATOR, Grain
from schemas.sketches import hist_count, hll_estimate
from streams.fold import EventBatch, FoldRules, PartitionFold
from streams.fold.rules import CLOSE_EVERY
from tests.property.fold_logs import START_US, Store, batch_of, flush, random_log, rows_of
from tests.property.fold_logs import Shape as LogShape

MINUTE_US = 60_000_000


def _event(message: str, minute: float, **values: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"customer_id": 7, "message_id": message, "name": "Order", "user_id": "u"}
    return event | {"timestamp_us": START_US + int(minute * MINUTE_US)} | values


def _batch(events: list[dict[str, Any]], first: int, receive_minute: float = 2_000) -> EventBatch:
    receive_us = START_US + int(receive_minute * MINUTE_US)
    return batch_of([(event, first + i, receive_us) for i, event in enumerate(events)])


def _jump(fold: PartitionFold, minute: float) -> EventBatch:
    """One event at `minute`, then a hole up to the next closing offset."""
    offset = fold.position
    batch = _batch([_event(f"jump {minute}", minute, name="Jump")], offset)
    return EventBatch(batch.events, batch.offsets, batch.receive_us, (offset // CLOSE_EVERY + 1) * CLOSE_EVERY, 0)


def test_one_event_makes_six_minute_rows() -> None:
    fold = PartitionFold(FoldRules(), 0)
    values = {"value_e6": 5, "path": "/a", "referrer_domain": "r", "utm_source": "s", "country": "DE", "device": "d"}
    fold.apply(_batch([_event("m1", 3.5, **values)], 0))
    content = fold.cut()
    assert content is not None
    assert content.rows.schema.equals(ROWS_ARROW)
    rows = rows_of(content)
    assert {(k.rollup, k.dims) for k in rows} == {
        (0, ""),
        (1, "Order"),
        (2, "/a"),
        (3, f"r{DIMS_SEPARATOR}s"),
        (4, "DE"),
        (5, f"d{DIMS_SEPARATOR}{DIMS_SEPARATOR}"),
    }
    for key, (events, users, value_e6, valued, hist, is_open) in rows.items():
        assert (key.customer_id, key.grain, key.generation) == (7, Grain.MINUTE, key.window_start)
        assert key.window_start == START_US // 1_000_000 + 180
        assert (events, value_e6, valued, hist_count(hist), is_open) == (1, 5, 1, 1, True)
        assert round(hll_estimate(users)) == 1


def test_an_event_without_user_or_value() -> None:
    fold = PartitionFold(FoldRules(), 0)
    fold.apply(_batch([_event("m1", 1, user_id=None), _event("m2", 1, user_id=None, anonymous_id="a")], 0))
    content = fold.cut()
    assert content is not None
    (row,) = [v for k, v in rows_of(content).items() if k.rollup == 0]
    assert (row[0], round(hll_estimate(row[1])), row[3], row[4]) == (2, 1, 0, b"")


def test_a_late_event_goes_to_the_watermarks_generation() -> None:
    fold, store = PartitionFold(FoldRules(), 0), Store()
    fold.apply(_batch([_event("m1", 10), _event("m2", 30.5), _event("m3", 10.2)], 0))
    flush(fold, store)
    late = [k for k in store.rows if k.generation != k.window_start]
    start_s = START_US // 1_000_000
    assert {(k.window_start, k.generation) for k in late} == {(start_s + 600, start_s + 1_800)}
    assert store.late == 1


def test_final_rows_leave_memory_only_when_acknowledged() -> None:
    fold, store = PartitionFold(FoldRules(), 0), Store()
    fold.apply(_batch([_event("m1", 0)], 0))
    flush(fold, store)
    assert fold.stats.open_rows == 6
    fold.apply(_jump(fold, 600))
    content = fold.cut()
    assert content is not None
    minutes = {k: v for k, v in rows_of(content).items() if k.dims == "Order"}
    assert {(k.grain, v[5]) for k, v in minutes.items()} == {(0, False), (1, False), (2, True)}
    assert all(v[0] == 1 for v in minutes.values())
    fold.acknowledge()
    fold.apply(_batch([_event("m2", 600)], fold.position))
    assert {k.grain for k in rows_of(_cut(fold))} == {Grain.MINUTE}


def test_old_events_start_at_coarser_grains() -> None:
    fold = PartitionFold(FoldRules(minute_retention_h=2, hour_retention_d=3), 0)
    receive = 5 * 24 * 60
    old = [_event("m1", receive), _event("m2", receive - 121), _event("m3", receive - 3 * 1_440 - 1)]
    fold.apply(_batch(old, 0, receive))
    assert {k.grain: v[0] for k, v in rows_of(_cut(fold)).items() if k.rollup == 0} == {0: 1, 1: 1, 2: 1}


def test_a_clock_ahead_is_clamped() -> None:
    fold = PartitionFold(FoldRules(skew_s=60), 0)
    fold.apply(_batch([_event("m1", 10_000_000)], 0, receive_minute=5))
    content = _cut(fold)
    assert content.watermark_us == START_US + 6 * MINUTE_US


def _cut(fold: PartitionFold) -> Any:
    content = fold.cut()
    assert content is not None
    return content


def test_batches_must_go_on_from_the_position() -> None:
    fold = PartitionFold(FoldRules(), 5)
    fold.apply(_batch([_event("m1", 1)], 10))
    assert fold.position == 11
    for wrong in (_batch([_event("m2", 1)], 10), _batch([_event("m2", 1), _event("m3", 1)], 10)):
        with pytest.raises(GapError, match="partition 5"):
            fold.apply(wrong)


def test_one_frame_at_a_time() -> None:
    fold = PartitionFold(FoldRules(), 0)
    assert fold.cut() is None
    fold.apply(_batch([_event("m1", 1)], 0))
    assert fold.cut() is not None
    cleans = [fold.clean]
    with pytest.raises(AssertionError, match="not acknowledged"):
        fold.cut()
    fold.acknowledge()
    assert [*cleans, fold.clean] == [False, True]
    assert fold.cut() is None
    with pytest.raises(AssertionError):
        fold.acknowledge()


def test_a_batch_without_events_moves_the_position() -> None:
    fold = PartitionFold(FoldRules(), 0)
    empty = _batch([_event("m1", 1)], 0)
    fold.apply(EventBatch(empty.events.slice(0, 0), empty.offsets[:0], empty.receive_us[:0], 9, 77))
    content = _cut(fold)
    assert (content.from_offset, content.to_offset, content.last_crc, content.rows.num_rows) == (0, 9, 77, 0)


def test_events_between_cut_and_acknowledge_are_in_the_next_frame() -> None:
    fold, store = PartitionFold(FoldRules(), 0), Store()
    fold.apply(_batch([_event("m1", 1)], 0))
    store.take(_cut(fold))
    fold.apply(_batch([_event("m2", 1), _event("m1", 1)], 1))
    fold.acknowledge()
    flush(fold, store)
    assert {v[0] for v in store.rows.values()} == {2}
    assert store.duplicates == [2]


def test_merge_skips_what_is_covered_and_refuses_a_gap() -> None:
    fold, store = PartitionFold(FoldRules(), 0), Store()
    for i in range(3):
        fold.apply(_batch([_event(f"m{i}", i)], i))
        flush(fold, store)
    reader = PartitionFold(FoldRules(), 0)
    with pytest.raises(GapError, match="follows position 0"):
        reader.merge(store.frames[1])
    reader.merge(store.frames[0])
    reader.merge(store.frames[0])
    assert (reader.position, reader.clean) == (1, True)
    reader.apply(_batch([_event("own", 1)], 1))
    with pytest.raises(AssertionError, match="changes of its own"):
        reader.merge(store.frames[1])


def _snapshot() -> tuple[PartitionFold, bytes]:
    fold, store = PartitionFold(FoldRules(), 4), Store()
    fold.apply(batch_of(random_log(5, LogShape(events=500))))
    flush(fold, store)
    return fold, b"".join(fold.snapshot().sections())


def test_snapshot_restores_the_same_bytes() -> None:
    fold, whole = _snapshot()
    restored = PartitionFold.restore(fold.rules, 4, [whole[:99], whole[99:]])
    assert b"".join(restored.snapshot().sections()) == whole
    assert (restored.position, restored.last_crc) == (fold.position, fold.last_crc)
    assert restored.stats.open_rows == fold.stats.open_rows > 0
    assert restored.stats.dedupe_ids == fold.stats.dedupe_ids > 0


def test_a_snapshot_is_of_its_moment_whenever_its_bytes_are_made() -> None:
    fold, whole = _snapshot()
    taken = fold.snapshot()
    later = [record for record in random_log(5, LogShape(events=2_000)) if record[1] >= fold.position]
    fold.apply(batch_of(later))
    _cut(fold)
    fold.acknowledge()
    assert fold.position == later[-1][1] + 1
    assert b"".join(taken.sections()) == whole


def test_damaged_snapshots_are_refused() -> None:
    fold, whole = _snapshot()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for wrong in (bytes(damaged), whole[:-1], whole[: len(whole) // 3], whole[20:], b""):
        with pytest.raises(PoisonError, match="snapshot"):
            PartitionFold.restore(fold.rules, 4, [wrong])


def test_foreign_snapshots_are_refused() -> None:
    fold, whole = _snapshot()
    with pytest.raises(FatalError, match="partition 4"):
        PartitionFold.restore(fold.rules, 3, [whole])
    with pytest.raises(FatalError, match="fold version"):
        PartitionFold.restore(FoldRules(grace_s=60), 4, [whole])


def test_a_snapshot_needs_a_clean_fold() -> None:
    fold, _ = _snapshot()
    fold.apply(_batch([_event("m", 0)], fold.position))
    with pytest.raises(AssertionError, match="acknowledged"):
        fold.snapshot()


def test_memory_stays_bounded_over_days() -> None:
    """Rows of final windows, their texts and ids past the window all go."""
    fold = PartitionFold(FoldRules(dedupe_window_h=1, cardinality_max=50), 0)
    held = []
    for hour in range(72):
        minutes = [hour * 60 + i / 50 for i in range(3_000)]
        events = [_event(f"{hour}/{i}", m, path=f"/{hour}/{i}") for i, m in enumerate(minutes)]
        offset = fold.position
        records = [(e, offset + i, e["timestamp_us"]) for i, e in enumerate(events)]
        fold.apply(batch_of(records, (offset // CLOSE_EVERY + 1) * CLOSE_EVERY))
        assert fold.cut() is not None
        fold.acknowledge()
        held.append((fold.stats.open_rows, fold.stats.dedupe_ids, fold.stats.bytes))
    assert max(held[36:]) < (1_500, 7_000, 0)
    assert max(b for _, _, b in held[36:]) < 4_000_000, held
    assert max(b for _, _, b in held[48:]) <= 1.5 * max(b for _, _, b in held[24:48])


def test_version_depends_on_every_rule() -> None:
    rules = FoldRules()
    others = [
        FoldRules(grace_s=60),
        FoldRules(skew_s=1),
        FoldRules(bound_s=1),
        FoldRules(dedupe_window_h=1),
        FoldRules(cardinality_max=1),
        FoldRules(minute_retention_h=1),
        FoldRules(hour_retention_d=1),
        FoldRules(partitions=12),
    ]
    assert len({r.version for r in [rules, *others]}) == len(others) + 1
    assert FoldRules().version == rules.version
    assert len(rules.version) == 16


@pytest.mark.parametrize(
    "wrong",
    [{"grace_s": 90}, {"grace_s": -60}, {"dedupe_window_h": 0}, {"dedupe_window_h": 500}, {"cardinality_max": 0}],
)
def test_rules_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        FoldRules(**wrong)


def test_sums_wrap_and_do_not_depend_on_order() -> None:
    values = [2**62, 2**62, 2**62, -5]
    totals = set()
    for order in (values, values[::-1]):
        fold = PartitionFold(FoldRules(), 0)
        fold.apply(_batch([_event(f"m{i}", 1, value_e6=v) for i, v in enumerate(order)], 0))
        totals |= {v[2] for v in rows_of(_cut(fold)).values()}
    assert totals == {int(np.int64(np.uint64(sum(values) % 2**64)))}
