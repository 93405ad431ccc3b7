"""The fold against the reference, and the laws that exactness rests on."""

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.frame import FrameHeader, decode_chunk, encode_frame
from schemas.rollups import OTHER_DIMS, Grain
from streams.fold import EventBatch, FoldRules, FrameContent, PartitionFold
from tests.property.fold_logs import (
    Record,
    Shape,
    Store,
    assert_equal,
    batch_of,
    flush,
    random_batches,
    random_log,
    reference_of,
    rows_of,
    small_bounds,
)

SEEDS = st.integers(0, 2**32 - 1)
SLOWLY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _shape(rnd: random.Random) -> Shape:
    return Shape(
        events=rnd.choice([1, 30, 300, 1_000]),
        rate=rnd.choice([0.02, 0.5, 20.0]),
        offset_step=rnd.choice([2, 40, 3_000]),
        ids=rnd.choice([60, 100_000]),
        paths=rnd.choice([3, 40]),
    )


def _rules(rnd: random.Random) -> FoldRules:
    return FoldRules(
        grace_s=rnd.choice([0, 60, 300]),
        skew_s=rnd.choice([0, 300]),
        bound_s=rnd.choice([0, 0, 45]),
        dedupe_window_h=rnd.choice([1, 2, 24]),
        cardinality_max=rnd.choice([1, 3, 8, 1_000]),
        minute_retention_h=rnd.choice([1, 48]),
        hour_retention_d=rnd.choice([1, 400]),
    )


def _through_the_wire(content: FrameContent) -> FrameContent:
    """As a recovering worker reads it from the aggregates topic."""
    header = FrameHeader(
        partition=0,
        from_offset=content.from_offset,
        to_offset=content.to_offset,
        writer="0" * 32,
        seq=1,
        fold_version="v",
        topic_id="t",
        watermark_us=content.watermark_us,
        receive_us=content.receive_us,
        last_crc=content.last_crc,
    )
    chunks = [decode_chunk(c) for c in encode_frame(header, content.rows, content.dedupe, content.duplicates)]
    assert len(chunks) == 1
    (chunk,) = chunks
    assert chunk.duplicates.tolist() == content.duplicates.tolist()
    return replace(content, rows=chunk.rows(), dedupe=list(chunk.dedupe), duplicates=chunk.duplicates)


def _fold(rules: FoldRules, batches: list[EventBatch], rnd: random.Random, frames: float = 0.4) -> Store:
    fold, store = PartitionFold(rules, 0), Store()
    with small_bounds(rnd.randrange(2**32)):
        for batch in batches:
            fold.apply(batch)
            if rnd.random() < frames:
                flush(fold, store)
        flush(fold, store)
    return store


@SLOWLY
@given(seed=SEEDS)
def test_equals_the_reference_however_the_log_is_cut(seed: int) -> None:
    rnd = random.Random(seed)
    rules, log = _rules(rnd), random_log(seed, _shape(rnd))
    batches = list(random_batches(rnd, log, rnd.choice([1, 20, 500])))
    store = _fold(rules, batches, rnd)
    assert_equal(store, reference_of(rules, log, batches[-1].next_offset))


@SLOWLY
@given(seed=SEEDS)
def test_a_killed_fold_goes_on_from_frames_or_a_snapshot(seed: int) -> None:
    """Killed at any frame, with and without unacknowledged work, as often as it likes."""
    with small_bounds(seed):
        _kill_and_go_on(seed)


def _kill_and_go_on(seed: int) -> None:
    rnd = random.Random(seed)
    rules, log = _rules(rnd), random_log(seed, _shape(rnd))
    batches = list(random_batches(rnd, log, 60))
    fold, store = PartitionFold(rules, 3), Store()
    snapshot: tuple[int, list[bytes]] | None = None
    at = 0
    while at < len(batches):
        fold.apply(batches[at])
        at += 1
        if rnd.random() < 0.5:
            flush(fold, store)
            if rnd.random() < 0.4:
                whole = b"".join(fold.snapshot().sections())
                cut = rnd.randrange(len(whole))
                snapshot = (len(store.frames), [whole[:cut], whole[cut:]])
        if rnd.random() < 0.2:
            if rnd.random() < 0.5:
                fold.cut()  # never acknowledged: nobody saw it
            first, fold = 0, PartitionFold(rules, 3)
            if snapshot is not None and rnd.random() < 0.7:
                first, fold = snapshot[0], PartitionFold.restore(rules, 3, snapshot[1])
            for content in store.frames[first:]:
                fold.merge(_through_the_wire(content))
            at = next((i for i, b in enumerate(batches) if b.next_offset > fold.position), len(batches))
            if store.frames:
                assert (fold.position, fold.last_crc) == (store.frames[-1].to_offset, store.frames[-1].last_crc)
    flush(fold, store)
    assert_equal(store, reference_of(rules, log, batches[-1].next_offset))


@SLOWLY
@given(seed=SEEDS)
def test_frames_of_two_writers_that_cut_elsewhere(seed: int) -> None:
    """A reader takes whichever frame reaches past it and does not start after it; writers and zombies mixed."""
    rnd = random.Random(seed)
    rules, log = _rules(rnd), random_log(seed, _shape(rnd))
    batches = list(random_batches(rnd, log, 30))
    writers = [_fold(rules, batches, rnd, frames=rnd.choice([0.1, 0.3, 0.8])) for _ in range(3)]
    end = batches[-1].next_offset
    stop = rnd.choice([b.next_offset for b in batches])
    reader, store = PartitionFold(rules, 0), Store()
    while reader.position < stop:
        usable = [f for w in writers for f in w.frames if f.from_offset <= reader.position < f.to_offset]
        content = rnd.choice(usable)
        reader.merge(content)
        store.rows.update(rows_of(content))
    for batch in batches:
        if batch.next_offset > reader.position:
            reader.apply(batch)
            if rnd.random() < 0.3:
                _take(reader, store)
    _take(reader, store)
    assert reader.position == end
    expected = reference_of(rules, log, end).table()
    assert store.rows == expected


def _take(fold: PartitionFold, store: Store) -> None:
    content = fold.cut()
    if content is not None:
        store.rows.update(rows_of(content))
        fold.acknowledge()


@SLOWLY
@given(seed=SEEDS)
def test_second_arrivals_change_nothing(seed: int) -> None:
    """Every row is the same whether resent events are in the log or holes are in their place."""
    rnd = random.Random(seed)
    rules = _rules(rnd)
    shape = replace(_shape(rnd), ids=10**9)
    once = [(e | {"timestamp_us": min(e["timestamp_us"], r)}, o, r) for e, o, r in random_log(seed, shape)]
    once = _without_steps_back(once)
    resent: list[Record] = []
    kept: list[Record] = []
    for event, _, receive_us in once:
        kept.append((event, len(resent), receive_us))
        resent.append(kept[-1])
        while rnd.random() < 0.3:
            earlier, _, first_us = rnd.choice(kept)
            if receive_us - first_us < rules.dedupe_window_h * 3_600_000_000:
                resent.append((earlier, len(resent), receive_us))
    end = len(resent)
    with_copies = _fold(rules, [*random_batches(rnd, resent, 50)], rnd)
    without = _fold(rules, [*random_batches(rnd, kept[:-1], 50), batch_of(kept[-1:], end)], rnd)
    assert with_copies.rows == without.rows
    assert len(with_copies.duplicates) == len(resent) - len(kept)
    assert without.duplicates == []


def _without_steps_back(log: list[Record]) -> list[Record]:
    highest = np.maximum.accumulate([r for _, _, r in log])
    return [(e, o, int(r)) for (e, o, _), r in zip(log, highest, strict=True)]


@SLOWLY
@given(seed=SEEDS)
def test_order_within_the_grace_does_not_matter(seed: int) -> None:
    """Events that come up to `grace` out of order give the minute rows of the ordered log."""
    rnd = random.Random(seed)
    rules = FoldRules()
    shape = Shape(events=400, rate=2.0, ids=10**9, disorder_s=0.0, late=0.0, ancient=0.0, gap=0.0)
    ordered = [(e | {"timestamp_us": r - 10**9}, o, r) for e, o, r in _without_steps_back(random_log(seed, shape))]
    receive_us = ordered[-1][2]
    ordered = [(e, i, receive_us) for i, (e, _, _) in enumerate(ordered)]
    shaken_us = [e["timestamp_us"] + rnd.randrange(rules.grace_s * 1_000_000) for e, _, _ in ordered]
    shaken = [ordered[i] for i in sorted(range(len(ordered)), key=shaken_us.__getitem__)]
    shaken = [(e, i, r) for i, (e, _, r) in enumerate(shaken)]
    first = _fold(rules, list(random_batches(rnd, ordered, 50)), rnd)
    second = _fold(rules, list(random_batches(rnd, shaken, 50)), rnd)
    assert first.late == second.late == 0
    assert first.rows == second.rows


@SLOWLY
@given(seed=SEEDS)
def test_no_event_is_lost_or_counted_twice_by_closing(seed: int) -> None:
    """Days, open hours and open minutes add up to the events, for every customer and rollup."""
    rnd = random.Random(seed)
    rules, log = _rules(rnd), random_log(seed, _shape(rnd))
    store = _fold(rules, list(random_batches(rnd, log, 100)), rnd)
    duplicates = set(store.duplicates)
    expected: dict[int, int] = defaultdict(int)
    for event, offset, _ in log:
        expected[event["customer_id"]] += offset not in duplicates
    for rollup in range(6):
        counted: dict[int, int] = defaultdict(int)
        for key, value in store.rows.items():
            if key.rollup == rollup and (value[5] or key.grain == Grain.DAY):
                counted[key.customer_id] += value[0]
        assert counted == expected, rollup


@SLOWLY
@given(seed=SEEDS, cardinality_max=st.integers(1, 6))
def test_tuples_are_bounded_in_every_window(seed: int, cardinality_max: int) -> None:
    rnd = random.Random(seed)
    rules = replace(_rules(rnd), cardinality_max=cardinality_max)
    log = random_log(seed, replace(_shape(rnd), paths=30))
    store = _fold(rules, list(random_batches(rnd, log, 100)), rnd)
    tuples: dict[tuple[int, ...], int] = defaultdict(int)
    for k in store.rows:
        tuples[k.customer_id, k.rollup, k.grain, k.window_start, k.generation] += k.dims != OTHER_DIMS
    assert max(tuples.values(), default=0) <= cardinality_max


@pytest.mark.parametrize("events", [9_000])
def test_many_small_batches_equal_one(events: int) -> None:
    """Across several closing offsets, folded in one go and event by event."""
    rules = FoldRules()
    log = random_log(77, Shape(events=events, rate=4.0, offset_step=3, ids=4_000, users=3_000))
    one, many = Store(), Store()
    fold = PartitionFold(rules, 0)
    fold.apply(batch_of(log))
    flush(fold, one)
    fold = PartitionFold(rules, 0)
    for start in range(0, events, 7):
        fold.apply(batch_of(log[start : start + 7]))
        if start % 301 == 0:
            flush(fold, many)
    flush(fold, many)
    assert one.rows == many.rows
    assert one.duplicates == many.duplicates
    assert one.late == many.late
    assert_equal(one, reference_of(rules, log))
