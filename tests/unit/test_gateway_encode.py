"""A few rows one by one and many rows by columns are the same bytes."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.gateway.encode import FEW_ROWS, encode_rows
from schemas.codec import decode_events, event_arrow

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = {"int64": st.integers(-(2**63), 2**63 - 1), "int32": st.integers(-(2**31), 2**31 - 1)}


def column(item: Any) -> st.SearchStrategy[Any]:
    values = NUMBERS.get(str(item.type), TEXTS)
    return st.none() | values if item.nullable else values


ROWS = st.lists(st.tuples(*(column(item) for item in event_arrow())), min_size=FEW_ROWS, max_size=FEW_ROWS + 3)


@given(ROWS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_both_ways_give_the_same_bytes_and_the_same_events(rows: list[tuple[Any, ...]]) -> None:
    records = encode_rows(rows)
    assert [encode_rows([row])[0] for row in rows] == records
    decoded = decode_events(records)
    assert not decoded.poison
    assert [tuple(row.values()) for row in decoded.events.to_pylist()] == rows
