"""The demo's own totals of the file, and the comparison that the check is made of."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from headrace.demo import totals
from headrace.demo.answers import amount
from headrace.demo.comparison import Comparison, Count
from producers.data import online_retail
from tests.data_totals import online_retail_totals


def test_two_computations_of_the_file_agree_and_the_shift_moves_days_alone() -> None:
    path, days = online_retail(), 5000
    mine, other = totals.from_file(path, days), online_retail_totals(path)
    assert (mine.events, mine.users, mine.revenue) == (other.events, other.users, other.revenue)
    assert (mine.events, mine.users) == (541_909, 4_372)
    for name in ("by_country", "by_product", "by_event"):
        found = {key: (count.events, count.revenue) for key, count in getattr(mine, name).items()}
        assert found == getattr(other, name), name
    moved = {(date.fromisoformat(day) + timedelta(days=days)).isoformat(): n for day, n in other.by_day.items()}
    assert {day: (count.events, count.revenue) for day, count in mine.by_day.items()} == moved
    every = totals.days(mine)
    assert len(every) == 374 and every == sorted(every) and set(mine.by_day) < set(every)


@pytest.mark.parametrize(("moment", "days"), [((2011, 12, 10, 12, 49), 0), ((2011, 12, 10, 12, 50), 1)])
def test_the_last_order_comes_to_lie_within_a_day(moment: tuple[int, ...], days: int) -> None:
    assert totals.whole_days_to(online_retail(), datetime(*moment, tzinfo=UTC)) == days  # type: ignore[misc,arg-type]


def test_a_comparison_holds_only_when_all_of_it_does() -> None:
    assert not Comparison().equal, "nothing compared is no proof"
    comparison = Comparison()
    comparison.count("events", 5, 5)
    comparison.money("revenue", Decimal("1.004"), Decimal("1.0"))
    comparison.estimate("users", 1000, 1048)
    comparison.table("days", {"a": Count(1, Decimal("2.5"))}, {"a": Count(1, Decimal("2.50"))})
    assert comparison.equal


def test_every_kind_of_difference_is_found_and_named() -> None:
    comparison = Comparison()
    comparison.count("events", 5, 6)
    comparison.money("revenue", Decimal("1.00"), Decimal("1.01"))
    comparison.estimate("users", 1000, 1050)
    one = Count(1, Decimal(1))
    comparison.table("count", {"a": one}, {"a": Count(2, Decimal(1))})
    comparison.table("amount", {"a": one}, {"a": Count(1, Decimal("1.01"))})
    comparison.table("missing", {"a": one, "b": one}, {"a": one})
    comparison.table("unexpected", {"a": one}, {"a": one, "b": one})
    assert [line.equal for line in comparison.lines] == [False] * 7
    assert [line.note for line in comparison.lines[:2]] == ["off by +1", "off by +0.01"]
    assert "b is missing" in comparison.lines[5].note and "b is unexpected" in comparison.lines[6].note


def test_amounts_are_read_as_printed() -> None:
    assert [amount(value) for value in (9747747.934, 12, None, "1.10")] == [
        Decimal("9747747.934"), Decimal(12), Decimal(0), Decimal("1.10"),
    ]  # fmt: skip
