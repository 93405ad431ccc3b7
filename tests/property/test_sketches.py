"""Laws of the sketches: merging is a union (or a sum), whatever the order and the grouping."""

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.sketches import hist_count, hist_merge, hist_of, hist_quantile, hll_estimate, hll_merge, hll_of

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=80)
VALUES = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60)
MANY = st.integers(0, 3_000)


def _many(seed: int) -> list[int]:
    """Enough hashes for dense sketches, made from one number."""
    return [(i * 0x9E3779B97F4A7C15 + seed) % 2**64 for i in range(seed)]


@settings(deadline=None)
@given(a=HASHES, b=HASHES, c=MANY)
def test_hll_merge_is_a_union(a: list[int], b: list[int], c: int) -> None:
    x, y, z = hll_of(a), hll_of(b), hll_of(_many(c))
    whole = hll_of(a + b + _many(c))
    assert hll_merge([x, y, z]) == hll_merge([hll_merge([z, y]), x]) == whole
    assert hll_merge([whole, x, whole]) == whole
    assert hll_estimate(whole) >= max(hll_estimate(s) for s in (x, y, z)) * 0.999


@settings(deadline=None)
@given(a=VALUES, b=VALUES, c=VALUES)
def test_hist_merge_is_a_sum(a: list[int], b: list[int], c: list[int]) -> None:
    x, y, z = hist_of(a), hist_of(b), hist_of(c)
    whole = hist_of(a + b + c)
    assert hist_merge([x, y, z]) == hist_merge([hist_merge([z, y]), x]) == whole
    assert hist_count(whole) == len(a) + len(b) + len(c)


@settings(deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60), q=st.floats(0, 1))
def test_quantiles_are_within_two_percent(values: list[int], q: float) -> None:
    exact = sorted(values)[int(q * (len(values) - 1))]
    estimate = hist_quantile(hist_of(values), q)
    assert estimate is not None
    assert abs(estimate - exact) <= abs(exact) * (0.02 + 1e-9)
