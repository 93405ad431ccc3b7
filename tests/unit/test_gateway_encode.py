"""A few rows one by one and many rows by columns are the same bytes."""

import io
import itertools
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.gateway.encode import FEW_ROWS, encode_rows
from producers.gateway.wire import MOMENT_MAX_US, MOMENT_MIN_US, SIZES_MAX, long, moments, size, sizes, text
from schemas.codec import decode_events, event_arrow
from schemas.event import TIMESTAMP_US_MAX, TIMESTAMP_US_MIN

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = {"int64": st.integers(-(2**63), 2**63 - 1), "int32": st.integers(-(2**31), 2**31 - 1)}


def column(item: Any) -> st.SearchStrategy[Any]:
    values = NUMBERS.get(str(item.type), TEXTS)
    return st.none() | values if item.nullable else values


ROWS = st.lists(st.tuples(*(column(item) for item in event_arrow())), min_size=1, max_size=15)


@given(ROWS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_both_ways_give_the_same_bytes_and_the_same_events(some: list[tuple[Any, ...]]) -> None:
    rows = list(itertools.islice(itertools.cycle(some), FEW_ROWS + len(some)))
    records = encode_rows(rows)
    assert [encode_rows([row])[0] for row in rows] == records
    decoded = decode_events(records)
    assert not decoded.poison
    assert [tuple(row.values()) for row in decoded.events.to_pylist()] == rows


MOMENTS = st.integers(MOMENT_MIN_US, MOMENT_MAX_US - 1)


@given(st.lists(MOMENTS | st.sampled_from((TIMESTAMP_US_MIN, TIMESTAMP_US_MAX)), max_size=30))
def test_times_are_longs_of_eight_bytes(us: list[int]) -> None:
    assert MOMENT_MIN_US < TIMESTAMP_US_MIN < TIMESTAMP_US_MAX < MOMENT_MAX_US
    assert moments(us) == [long(item) for item in us] == [_varint(item) for item in us]


def _varint(number: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    return out.getvalue()


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_long_is_as_fastavro_writes_it(number: int) -> None:
    assert long(number) == _varint(number)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_refused(number: int) -> None:
    with pytest.raises(OverflowError):
        long(number)


def test_long_texts_have_their_length_in_front_too() -> None:
    for length in (0, 63, 64, SIZES_MAX - 1, SIZES_MAX, 2**20):
        assert sizes([b"x" * length]) == [size(length)] == [_varint(length)]
        assert text("é" * length) == _varint(2 * length) + ("é" * length).encode()
