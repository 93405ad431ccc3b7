"""The fold's structures against the plainest ones: an index against a dict, id windows against a dict of hours."""

import random

import numpy as np
import pyarrow as pa
import pytest

from streams.fold.columns import factorise, ranges
from streams.fold.dedupe import DedupeWindow
from streams.fold.hashing import hash_utf8, mix
from streams.fold.histogram import BucketRuns
from streams.fold.hyperloglog import RegisterRuns
from streams.fold.index import KeyIndex
from streams.fold.texts import OTHER_ID, DimTexts


@pytest.mark.parametrize(("key_max", "keys"), [(2**64 - 1, 200), (2**24, 12)])
def test_index_equals_a_dict(key_max: int, keys: int) -> None:
    """Also with keys that all want the same place."""
    rnd = random.Random(keys)
    index, expected = KeyIndex(), dict[int, int]()
    for _ in range(40):
        new = {rnd.randint(1, key_max) for _ in range(rnd.randrange(keys))}
        fresh = sorted(new - expected.keys())
        slots = [len(expected) + i for i in range(len(fresh))]
        index.insert(np.array(fresh, dtype=np.uint64), np.array(slots, dtype=np.int64))
        expected.update(zip(fresh, slots, strict=True))
        if expected:
            moved = rnd.sample(sorted(expected), min(5, len(expected)))
            index.replace(np.array(moved, dtype=np.uint64), np.array([7] * len(moved)))
            expected |= dict.fromkeys(moved, 7)
        asked = [*expected, *(rnd.randrange(1, 2**64) for _ in range(50))]
        assert index.find(np.array(asked, dtype=np.uint64)).tolist() == [expected.get(k, -1) for k in asked]
        assert len(index) == len(expected)


@pytest.mark.parametrize("seed", range(6))
def test_dedupe_equals_a_dict_of_hours(seed: int) -> None:
    rnd = random.Random(seed)
    window_h = rnd.choice([1, 5, 24, 240])
    window, seen, hour = DedupeWindow(window_h), dict[int, int](), 400_000
    hashes = mix(np.arange(1, 3_000, dtype=np.uint64)).tolist()
    for _ in range(60):
        hour += rnd.choice([0, 0, 0, 1, 1, 2, window_h, window_h + 1, 300 if rnd.random() < 0.1 else 0])
        window.advance(hour)
        ids = rnd.choices(hashes, k=rnd.randrange(1, 400))
        first = []
        for one in ids:
            first.append(seen.get(one, -(10**9)) < hour - window_h)
            if first[-1]:
                seen[one] = hour
        assert window.first_arrivals(np.array(ids, dtype=np.uint64)).tolist() == first
        live = {i: h for i, h in seen.items() if h >= hour - window_h}
        assert {int(i): h for h, some in window.seen().by_hour() for i in some} == live
        assert len(window) == len(live)
        if rnd.random() < 0.2:
            copy = DedupeWindow(window_h)
            copy.advance(hour)
            for h, some in [*window.seen().by_hour(), *window.seen().by_hour()]:
                copy.restore(some, h)
            window = copy


def test_ids_that_crowd_are_found() -> None:
    """Hashes that share their upper bits, as somebody may choose them."""
    window = DedupeWindow(24)
    ids = np.arange(1, 2_001, dtype=np.uint64)
    window.advance(5)
    assert window.first_arrivals(ids).all()
    again = np.concatenate([ids[::-7], np.array([2**63, 2_001], dtype=np.uint64)])
    assert window.first_arrivals(again).tolist() == [False] * (len(again) - 2) + [True, True]


def test_texts_are_held_once_and_forgotten() -> None:
    texts = DimTexts()
    words = pa.array(["a", "b", "(other)", "a"])
    ids = texts.intern(hash_utf8(words), words, np.arange(4))
    assert ids[0] == ids[3]
    assert ids[2] == OTHER_ID
    assert texts.take(ids).to_pylist() == ["a", "b", "(other)", "a"]
    renumbered = texts.keep(np.array([ids[1]]))
    assert len(texts) == 2
    assert texts.take(renumbered[ids[1:3]]).to_pylist() == ["b", "(other)"]
    assert texts.intern(hash_utf8(words), words, np.arange(4)).tolist() == [2, renumbered[ids[1]], 0, 2]


def test_registers_keep_the_highest_rank() -> None:
    rnd = random.Random(3)
    runs, expected = RegisterRuns(), dict[tuple[int, int], int]()
    for step in range(60):
        added = [(rnd.randrange(50), rnd.randrange(200), rnd.randrange(1, 54)) for _ in range(rnd.randrange(300))]
        slots = np.array([a[0] for a in added], dtype=np.int64)
        runs.add(slots, np.array([a[1] << 6 | a[2] for a in added], dtype=np.uint64))
        for slot, register, rank in added:
            expected[slot, register] = max(rank, expected.get((slot, register), 0))
        if step == 30:  # slots 0 to 9 go, the others move down
            runs.renumber(np.concatenate([np.full(10, -1), np.arange(40)]))
            expected = {(s - 10, r): k for (s, r), k in expected.items() if s >= 10}
    asked = np.array([3, 49, 17, 200, 0])
    owner, entries = runs.of(asked)
    found = [(int(asked[o]), int(e) >> 6, int(e) & 63) for o, e in zip(owner, entries, strict=True)]
    assert found == [(s, r, k) for a in asked.tolist() for (s, r), k in sorted(expected.items()) if s == a]


def test_buckets_are_summed() -> None:
    rnd = random.Random(4)
    runs, expected = BucketRuns(), dict[tuple[int, int], int]()
    for step in range(60):
        added = [
            (rnd.randrange(50), rnd.randrange(955, 3_142), rnd.randrange(1, 9)) for _ in range(rnd.randrange(99))
        ]
        slots, buckets, counts = (np.array([a[i] for a in added], dtype=np.int64) for i in range(3))
        if step % 2:
            runs.add_counts(slots, buckets, counts)
        else:
            runs.add_values(np.repeat(slots, counts), np.repeat(buckets, counts))
        for slot, bucket, count in added:
            expected[slot, bucket] = expected.get((slot, bucket), 0) + count
        if step == 30:
            runs.renumber(np.concatenate([np.full(10, -1), np.arange(40)]))
            expected = {(s - 10, b): c for (s, b), c in expected.items() if s >= 10}
    asked = np.array([3, 49, 17, 200, 0])
    found = [(int(asked[o]), int(b), int(c)) for o, b, c in zip(*runs.of(asked), strict=True)]
    assert found == [(s, b, c) for a in asked.tolist() for (s, b), c in sorted(expected.items()) if s == a]


def test_codes_are_dealt_by_first_appearance() -> None:
    codes, distinct = factorise(np.array([9, -3, 9, 7, -3]))
    assert codes.tolist() == [0, 1, 0, 2, 1]
    assert distinct.tolist() == [9, -3, 7]
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
