"""What ranges, relative times and intervals mean, by hand-checked examples."""

from datetime import UTC, datetime

import pytest

from api.query import ranges
from api.query.ranges import RangeError, TimeRange, TooManyBucketsError


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


NOW = us("2026-03-31T10:20:30.5+00:00")


@pytest.mark.parametrize(
    ("text", "tz", "expected"),
    [
        ("now", "UTC", "2026-03-31T10:21:00+00:00"),
        ("today", "UTC", "2026-03-31T00:00:00+00:00"),
        ("today", "Europe/Paris", "2026-03-31T00:00:00+02:00"),
        ("yesterday", "Asia/Tokyo", "2026-03-30T00:00:00+09:00"),
        ("week", "UTC", "2026-03-30T00:00:00+00:00"),
        ("month", "America/New_York", "2026-03-01T00:00:00-05:00"),
        ("year", "UTC", "2026-01-01T00:00:00+00:00"),
        ("-7d", "Europe/Paris", "2026-03-24T00:00:00+01:00"),
        ("-24h", "UTC", "2026-03-30T10:00:00+00:00"),
        ("-24h", "Asia/Kolkata", "2026-03-30T09:30:00+00:00"),
        ("-30m", "UTC", "2026-03-31T09:50:00+00:00"),
        ("-2w", "UTC", "2026-03-17T00:00:00+00:00"),
        ("-1mo", "UTC", "2026-02-28T00:00:00+00:00"),
        ("-1y", "UTC", "2025-03-31T00:00:00+00:00"),
        ("2026-03-29", "Europe/Paris", "2026-03-29T00:00:00+01:00"),
        ("2026-03-29T12:00", "Europe/Paris", "2026-03-29T12:00:00+02:00"),
        ("2026-03-29T12:00:00Z", "Europe/Paris", "2026-03-29T12:00:00+00:00"),
    ],
)
def test_times(text: str, tz: str, expected: str) -> None:
    found = ranges.resolve(text, "2099-01-01", tz, NOW)
    assert found.from_us == us(expected)


@pytest.mark.parametrize(
    ("from_", "to", "tz", "field"),
    [
        ("tomorrow", "now", "UTC", "from"),
        ("-7 d", "now", "UTC", "from"),
        ("-999999d", "now", "UTC", "from"),
        ("-5000y", "now", "UTC", "from"),
        ("1999-12-31", "now", "UTC", "from"),
        ("today", "275760-01-01", "UTC", "to"),
        ("now", "today", "UTC", "from"),
        ("today", "today", "UTC", "from"),
        ("today", "now", "Mars/Olympus", "tz"),
        ("today", "now", "../../etc/passwd", "tz"),
        ("today", "now", "", "tz"),
        ("today", "now", "Europe", "tz"),
        ("today", "now'; DROP TABLE events", "UTC", "to"),
    ],
)
def test_wrong_times_name_their_field(from_: str, to: str, tz: str, field: str) -> None:
    with pytest.raises(RangeError) as caught:
        ranges.resolve(from_, to, tz, NOW)
    assert caught.value.field == field


def test_a_misspelt_zone_is_suggested() -> None:
    with pytest.raises(RangeError, match='did you mean "Europe/Paris"'):
        ranges.zone("Europe/Pariss")


def test_days_follow_the_clock_changes() -> None:
    asked = ranges.resolve("2026-03-28", "2026-03-31", "Europe/Paris", NOW)
    lengths = [(bucket.end_us - bucket.start_us) // 3_600_000_000 for bucket in ranges.buckets(asked, "day")]
    assert lengths == [24, 23, 24]
    asked = ranges.resolve("2025-10-26", "2025-10-27", "Europe/Paris", NOW)
    hours = ranges.buckets(asked, "hour")
    assert len(hours) == 25
    assert len({ranges.rfc3339(bucket.start_us, asked.zone) for bucket in hours}) == 25


def test_a_day_that_a_zone_skipped_is_no_bucket() -> None:
    asked = ranges.resolve("2011-12-29", "2012-01-01", "Pacific/Apia", NOW)
    starts = [ranges.rfc3339(bucket.start_us, asked.zone)[:10] for bucket in ranges.buckets(asked, "day")]
    assert starts == ["2011-12-29", "2011-12-31"]


def test_a_day_without_midnight_starts_at_the_clock_change() -> None:
    asked = ranges.resolve("2018-11-03", "2018-11-06", "America/Sao_Paulo", NOW)
    starts = [ranges.rfc3339(bucket.start_us, asked.zone) for bucket in ranges.buckets(asked, "day")]
    assert starts[1] == "2018-11-04T01:00:00-02:00"
    assert len(starts) == 3


def test_the_first_and_last_bucket_are_whole_and_their_asked_part_is_known() -> None:
    asked = TimeRange(us("2026-03-04T05:06:00+00:00"), us("2026-03-19T00:00:00+00:00"), "UTC")
    first, second, third = ranges.buckets(asked, "week")
    assert (first.start_us, first.from_us) == (us("2026-03-02T00:00:00+00:00"), asked.from_us)
    assert second.start_us == second.from_us
    assert (third.end_us, third.to_us) == (us("2026-03-23T00:00:00+00:00"), asked.to_us)


@pytest.mark.parametrize(
    ("from_", "expected"),
    [("-3h", "minute"), ("-2d", "hour"), ("-7d", "day"), ("-90d", "day"), ("-1y", "week"), ("-9y", "month")],
)
def test_auto_interval(from_: str, expected: str) -> None:
    assert ranges.auto_interval(ranges.resolve(from_, "now", "UTC", NOW)) == expected


def test_ten_years_of_minutes_are_refused_before_they_are_counted() -> None:
    asked = ranges.resolve("-10y", "now", "UTC", NOW)
    with pytest.raises(TooManyBucketsError):
        ranges.buckets(asked, "minute")


def test_the_previous_period_of_whole_days_is_whole_days() -> None:
    asked = ranges.resolve("2026-03-29", "2026-03-31", "Europe/Paris", NOW)
    before = ranges.previous_period(asked)
    assert before == TimeRange(us("2026-03-27T00:00:00+01:00"), asked.from_us, "Europe/Paris")
    asked = TimeRange(us("2026-03-31T10:00:00+00:00"), us("2026-03-31T10:21:00+00:00"), "UTC")
    assert ranges.previous_period(asked).from_us == us("2026-03-31T09:39:00+00:00")


def test_the_previous_year_keeps_local_times() -> None:
    asked = TimeRange(us("2024-02-29T00:00:00+00:00"), us("2024-03-31T12:00:00+00:00"), "Europe/Paris")
    before = ranges.previous_year(asked)
    assert ranges.rfc3339(before.from_us, asked.zone) == "2023-02-28T01:00:00+01:00"
    assert ranges.rfc3339(before.to_us, asked.zone) == "2023-03-31T14:00:00+02:00"


def test_rfc3339() -> None:
    assert ranges.rfc3339(us("2026-03-31T10:20:30.5+00:00")) == "2026-03-31T10:20:30.500000Z"
    assert datetime.fromisoformat(ranges.rfc3339(NOW)).astimezone(UTC).timestamp() * 1e6 == NOW


@pytest.mark.parametrize(
    ("from_", "to", "expected"),
    [
        ("2024-02-01", "2024-02-29", ("2023-02-01", "2023-03-01")),
        ("2024-02-28", "2024-02-29", ("2023-02-28", "2023-03-01")),
        ("2024-02-29", "2024-03-01", ("2023-02-28", "2023-03-01")),
        ("2024-02-01", "2024-03-01", ("2023-02-01", "2023-03-01")),
        ("2025-02-01", "2025-03-01", ("2024-02-01", "2024-03-01")),
        ("2025-02-01", "2025-02-28", ("2024-02-01", "2024-02-28")),
        ("2024-02-29T10:00", "2024-02-29T12:00", ("2023-02-28T10:00", "2023-02-28T12:00")),
        ("2024-02-28T10:00", "2024-02-29T09:00", ("2023-02-28T10:00", "2023-03-01T09:00")),
    ],
)
def test_the_year_before_a_leap_day_loses_no_day(from_: str, to: str, expected: tuple[str, str]) -> None:
    for tz in ("UTC", "America/New_York"):
        before = ranges.previous_year(ranges.resolve(from_, to, tz, NOW))
        assert before == ranges.resolve(*expected, tz, NOW), tz


def test_no_range_of_the_year_before_is_empty() -> None:
    # 1:30 to 1:10 of the hour that comes twice, which came on another day the year before.
    asked = TimeRange(us("2024-11-03T01:30-04:00"), us("2024-11-03T01:10-05:00"), "America/New_York")
    before = ranges.previous_year(asked)
    assert before.to_us - before.from_us == asked.to_us - asked.from_us
