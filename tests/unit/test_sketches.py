"""Sketches: byte layout (golden), estimates against exact counts, quantiles against exact order."""

import random

import numpy as np
import pytest
import xxhash

from schemas.sketches import (
    HIST_COUNT_MAX,
    bucket_middle,
    decode_hists,
    decode_hlls,
    encode_hists,
    encode_hlls,
    hist_buckets,
    hist_count,
    hist_merge,
    hist_of,
    hist_quantile,
    hll_entries,
    hll_estimate,
    hll_merge,
    hll_of,
)
from tests.reference_fold import bucket_of


def test_golden_hll_bytes() -> None:
    users = [xxhash.xxh64_intdigest(u) for u in (b"user-1", b"user-2", b"")]
    assert users == [0xA173746B114C6BE8, 0x7395DD9943AB55E9, 0xEF46DB3751D8E999]
    assert hll_of(users).hex() == "01427a0141660201fa02"
    assert hll_of([]) == b""


def test_golden_register_and_rank() -> None:
    hashes = np.array([0, 2**64 - 1, 2**12 | 5, 2**63 | 7, 3 << 61], dtype=np.uint64)
    entries = hll_entries(hashes)
    assert (entries >> np.uint64(6)).tolist() == [0, 4095, 5, 7, 0]
    assert (entries & np.uint64(63)).tolist() == [53, 1, 52, 1, 2]


def test_golden_hist_bytes() -> None:
    sketch = hist_of([0, 1, 1, -5_000_000, 2**63 - 1, -(2**63)])
    entries = ["bb0301000000", "7d0601000000", "000801000000", "010802000000", "450c01000000"]
    assert sketch.hex() == "01" + "".join(entries)
    assert hist_count(sketch) == 6
    assert hist_of([]) == b""


def test_rank_equals_leading_zeros() -> None:
    rnd = random.Random(7)
    hashes = [rnd.getrandbits(64) >> rnd.randrange(60) for _ in range(20_000)]
    expected = [(h & 4095) << 6 | (53 - (h >> 12).bit_length()) for h in hashes]
    assert hll_entries(np.array(hashes, dtype=np.uint64)).tolist() == expected


def _users(seed: int, count: int) -> list[int]:
    rng = np.random.default_rng(seed)
    users: list[int] = rng.integers(0, 2**64, count, dtype=np.uint64).tolist()
    return users


@pytest.mark.parametrize(
    "exact", [1, 2, 5, 20, 100, 700, 1_023, 3_000, 8_000, 12_000, 20_000, 60_000, 300_000, 1_000_000]
)
def test_estimate_against_exact_counts(exact: int) -> None:
    """Every single estimate within four standard errors, their mean without bias."""
    runs = 5 if exact > 100_000 else 30
    errors = [hll_estimate(hll_of(_users(seed, exact))) / exact - 1 for seed in range(runs)]
    assert max(map(abs, errors)) < 4 * 0.01625, errors
    assert abs(float(np.mean(errors))) < 4 * 0.01625 / runs**0.5


def test_few_users_are_counted_exactly() -> None:
    for exact in range(1, 60):
        assert round(hll_estimate(hll_of(_users(3, exact)))) == exact
    assert hll_estimate(b"") == 0.0


def test_dense_from_1024_registers() -> None:
    registers = [r | 1 << 63 for r in range(1024)]
    assert len(hll_of(registers[:1023])) == 1 + 3 * 1023
    dense = hll_of(registers)
    assert dense[0] == 2
    assert len(dense) == 4097
    assert hll_merge([hll_of(registers[:600]), hll_of(registers[500:])]) == dense


def test_merge_is_union() -> None:
    for sizes in ((10, 20), (2_000, 3), (5_000, 5_000), (0, 4)):
        a, b = _users(1, sizes[0]), _users(2, sizes[1])
        assert hll_merge([hll_of(a), hll_of(b)]) == hll_of(a + b) == hll_merge([hll_of(b + a), hll_of(a), b""])
    assert hll_merge([]) == hll_merge([b"", b""]) == b""


@pytest.mark.parametrize("damaged", [b"\x03abc", b"\x01ab", b"\x02" + bytes(17)])
def test_unknown_hll_layout_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="layout"):
        hll_merge([damaged])


@pytest.mark.parametrize("damaged", [b"\x02abcdef", b"\x01abc"])
def test_unknown_hist_layout_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="layout"):
        hist_merge([damaged])


def test_buckets_equal_the_definition() -> None:
    rnd = random.Random(5)
    values = [0, 1, -1, 2, 3, 2**63 - 1, -(2**63), 10**6, -(10**6)]
    values += [rnd.getrandbits(rnd.randrange(1, 63)) * rnd.choice([1, -1]) for _ in range(3_000)]
    assert hist_buckets(np.array(values)).tolist() == [bucket_of(v) for v in values]


def test_bucket_middle_is_within_two_percent() -> None:
    rnd = random.Random(6)
    for _ in range(3_000):
        value = rnd.getrandbits(rnd.randrange(1, 63)) * rnd.choice([1, -1])
        middle = bucket_middle(int(hist_buckets(np.array([value]))[0]))
        assert abs(middle - value) <= abs(value) * (0.02 + 1e-12), value


def test_quantiles_within_two_percent() -> None:
    rng = np.random.default_rng(8)
    for values in (
        rng.integers(-(10**9), 10**9, 5_001),
        (rng.lognormal(16, 2, 4_000)).astype(np.int64),
        -(rng.lognormal(16, 2, 77)).astype(np.int64),
        np.concatenate([np.zeros(500, np.int64), rng.integers(1, 10**6, 500)]),
        np.array([42]),
    ):
        sketch, ordered = hist_of(values.tolist()), np.sort(values)
        for q in (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0):
            exact = int(ordered[int(q * (len(ordered) - 1))])
            estimate = hist_quantile(sketch, q)
            assert estimate is not None
            assert abs(estimate - exact) <= abs(exact) * (0.02 + 1e-12), (q, exact, estimate)


def test_quantile_of_nothing_and_out_of_range() -> None:
    assert hist_quantile(b"", 0.5) is None
    with pytest.raises(ValueError, match="quantile"):
        hist_quantile(hist_of([1]), 1.5)


def test_hist_merge_sums() -> None:
    a, b = [1, 2, 3, -4, 0] * 100, [3, 3, 10**12]
    assert hist_merge([hist_of(a), b"", hist_of(b)]) == hist_of(a + b)
    assert hist_merge([]) == b""


def test_hist_count_saturates() -> None:
    data, _ = encode_hists(np.array([0]), np.array([2048]), np.array([2**40]), 1)
    assert hist_count(data.tobytes()) == HIST_COUNT_MAX
    assert hist_count(hist_merge([data.tobytes()] * 3)) == HIST_COUNT_MAX


def test_many_at_once_equal_one_by_one() -> None:
    """The fold's builders write the bytes that the single-sketch functions write, and read them back."""
    rnd = random.Random(9)
    users = [_users(i, rnd.choice([0, 1, 3, 900, 1_200, 4_000])) for i in range(40)]
    sketches = [hll_of(u) for u in users]
    offsets = np.cumsum([0] + [len(s) for s in sketches])
    owner, entries = decode_hlls(np.frombuffer(b"".join(sketches), np.uint8), offsets)
    order = np.lexsort((entries, owner))
    data, places = encode_hlls(owner[order], entries[order], len(users))
    assert data.tobytes() == b"".join(sketches)
    assert places.tolist() == offsets.tolist()
    values = [[rnd.randrange(-(10**6), 10**9) for _ in range(rnd.choice([0, 1, 50]))] for _ in range(40)]
    hists = [hist_of(v) for v in values]
    offsets = np.cumsum([0] + [len(s) for s in hists])
    data, places = encode_hists(*decode_hists(np.frombuffer(b"".join(hists), np.uint8), offsets), len(values))
    assert data.tobytes() == b"".join(hists)
    assert places.tolist() == offsets.tolist()
