"""Dimensions and ids are bounded, and different ones stay different."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.event import DIMENSION_BYTES_MAX, bound_dimension, bound_message_id


@given(st.text(max_size=600))
def test_a_dimension_is_short_clean_and_stable(text: str) -> None:
    bounded = bound_dimension(text)
    assert len(bounded.encode()) <= DIMENSION_BYTES_MAX
    assert not {"\x00", "\x1f"} & set(bounded)
    assert bound_dimension(bounded) == bounded


def test_long_dimensions_that_differ_at_the_end_stay_different() -> None:
    first, second = ("/" + "a" * 2700 + end for end in "xy")
    assert bound_dimension(first) != bound_dimension(second)
    assert bound_dimension("/short") == "/short"


def test_a_long_message_id_becomes_its_hash() -> None:
    assert bound_message_id("a" * 100) == ("a" * 100, False)
    short, replaced = bound_message_id("é" * 101)
    assert replaced and len(short) <= 100
    assert bound_message_id("é" * 102)[0] != short
