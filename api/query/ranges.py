"""Half-open ranges of time, relative forms, time zones and buckets. Pure: `now_us` comes in.

Relative forms snap to their unit in the query's zone, so that a rollup can answer them: `-7d` is the local
midnight seven days before today's, `-24h` the full hour 24 hours before this one, `-30m` the minute; `today`,
`yesterday`, `week`, `month`, `year` are the starts of those; `now` is the end of the running minute.
Absolute forms are RFC 3339, or a local date, or a local date and time without an offset.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from api.problems import did_you_mean

SECOND_US: Final = 1_000_000
MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400
BUCKETS_MAX: Final = 5_000
"""Most intervals of one timeseries: three and a half days of minutes, seven months of hours."""
EARLIEST_US: Final = 946_684_800 * SECOND_US
"""2000-01-01: earlier events are rejected at the door."""
LATEST_US: Final = 4_102_444_800 * SECOND_US
"""2100-01-01."""
RELATIVE_MAX: Final = 100_000

INTERVALS: Final = ("minute", "hour", "day", "week", "month")
_RELATIVE = re.compile(r"-(\d{1,6})(mo|m|h|d|w|y)")
_ANCHORS: Final = ("now", "today", "yesterday", "week", "month", "year")


class RangeError(ValueError):
    """A range is wrong; `field` is `from`, `to`, `tz` or `interval`."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class TooManyBucketsError(RangeError):
    """The range holds more than BUCKETS_MAX intervals."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """`[from_us, to_us)` in microseconds since the epoch, looked at in `tz`."""

    from_us: int
    to_us: int
    tz: str

    @property
    def zone(self) -> ZoneInfo:
        """The zone itself."""
        return ZoneInfo(self.tz)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One interval of a timeseries. `[start_us, end_us)` is the whole interval, `[from_us, to_us)` what is asked."""

    start_us: int
    end_us: int
    from_us: int
    to_us: int


def zone(name: str) -> ZoneInfo:
    """The zone called `name`. Raises RangeError."""
    try:
        if not name or len(name) > 64 or name.startswith(("/", ".")) or ".." in name or "\x00" in name:
            raise ValueError(name)
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        near = did_you_mean(name, available_timezones())
        raise RangeError(f"unknown time zone {name[:64]!r}{near}", "tz") from error


def resolve(from_text: str, to_text: str, tz: str, now_us: int) -> TimeRange:
    """The range that a request's words mean at `now_us`. Raises RangeError."""
    local = zone(tz)
    start = _instant(from_text, local, now_us, "from")
    end = _instant(to_text, local, now_us, "to")
    if start >= end:
        raise RangeError("the range is empty: `from` must lie before `to`", "from")
    return TimeRange(start, end, tz)


def previous_period(asked: TimeRange) -> TimeRange:
    """The range before, of the same length: in whole local days where the range is one, else in seconds."""
    local = asked.zone
    start, end = _local(asked.from_us, local), _local(asked.to_us, local)
    if _midnight(start.date(), local) == asked.from_us and _midnight(end.date(), local) == asked.to_us:
        before = start.date() - (end.date() - start.date())
        return _checked(_midnight(before, local), asked.from_us, asked.tz)
    return _checked(asked.from_us - (asked.to_us - asked.from_us), asked.from_us, asked.tz)


def previous_year(asked: TimeRange) -> TimeRange:
    """The same local dates and times one year earlier.

    29 February is the 28th as a start; as an end, which is exclusive, it is 1 March: the 28th itself is in the
    range. Never empty, whatever the clocks did then.
    """
    local = asked.zone
    start, end = _local(asked.from_us, local).date(), _local(asked.to_us, local).date()
    from_us, to_us = _year_before(asked.from_us, local), _year_before(asked.to_us, local)
    if _is_leap_day(end) and start != end:
        to_us = _at_local_time(_months_before(end, 12) + timedelta(days=1), asked.to_us, local)
    if to_us <= from_us:
        # Both ends lie within one change of clocks, which that year had on another day.
        to_us = from_us + asked.to_us - asked.from_us
    return _checked(from_us, to_us, asked.tz)


def auto_interval(asked: TimeRange) -> str:
    """An interval that gives a readable number of buckets."""
    span_s = (asked.to_us - asked.from_us) // SECOND_US
    if span_s <= 6 * HOUR_S:
        return "minute"
    if span_s <= 3 * DAY_S:
        return "hour"
    if span_s <= 120 * DAY_S:
        return "day"
    return "week" if span_s <= 731 * DAY_S else "month"


def buckets(asked: TimeRange, interval: str) -> tuple[Bucket, ...]:
    """The intervals that touch the range, in order. Raises TooManyBucketsError."""
    shortest_s = {"minute": 60, "hour": 3600, "day": 82_800, "week": 6 * DAY_S, "month": 27 * DAY_S}[interval]
    if (asked.to_us - asked.from_us) // SECOND_US // shortest_s > BUCKETS_MAX + 1:
        raise TooManyBucketsError(f"more than {BUCKETS_MAX} intervals of a {interval}", "interval")
    out: list[Bucket] = []
    for start_us, end_us in _intervals(asked, interval):
        if len(out) == BUCKETS_MAX:
            raise TooManyBucketsError(f"more than {BUCKETS_MAX} intervals of a {interval}", "interval")
        out.append(Bucket(start_us, end_us, max(start_us, asked.from_us), min(end_us, asked.to_us)))
    return tuple(out)


def rfc3339(us: int, local: ZoneInfo | None = None) -> str:
    """An instant as RFC 3339, in UTC with `Z` or with the zone's offset."""
    seconds, micros = divmod(us, SECOND_US)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
    if local is None or local.key == "UTC":
        return moment.replace(tzinfo=None).isoformat() + "Z"
    return moment.astimezone(local).isoformat()


def _intervals(asked: TimeRange, interval: str) -> Iterator[tuple[int, int]]:
    local = asked.zone
    if interval in ("minute", "hour"):
        step_s = MINUTE_S if interval == "minute" else HOUR_S
        start = _floor(asked.from_us, step_s, local)
        while start < asked.to_us:
            # Floored anew: a zone whose clocks change by half an hour moves its full hours.
            end = _floor(start + step_s * SECOND_US, step_s, local)
            end = end if end > start else start + step_s * SECOND_US
            yield start, end
            start = end
        return
    day = _local(asked.from_us, local).date()
    if interval == "week":
        day -= timedelta(days=day.weekday())
    elif interval == "month":
        day = day.replace(day=1)
    start = _midnight(day, local)
    while start < asked.to_us:
        day = _next_month(day) if interval == "month" else day + timedelta(days=7 if interval == "week" else 1)
        end = _midnight(day, local)
        if end > start:  # Samoa skipped a whole day
            yield start, end
            start = end


def _instant(text: str, local: ZoneInfo, now_us: int, field: str) -> int:
    at = _relative(text, local, now_us, field)
    if at is None:
        at = _absolute(text, local, field)
    if not EARLIEST_US <= at <= LATEST_US:
        # An event outside cannot exist; the bounds also keep all arithmetic on dates defined.
        raise RangeError("times lie between 2000-01-01 and 2100-01-01", field)
    return at


def _relative(text: str, local: ZoneInfo, now_us: int, field: str) -> int | None:
    today = _local(now_us, local).date()
    if text == "now":
        return -(-now_us // (MINUTE_S * SECOND_US)) * MINUTE_S * SECOND_US
    anchors = {
        "today": today,
        "yesterday": today - timedelta(days=1),
        "week": today - timedelta(days=today.weekday()),
        "month": today.replace(day=1),
        "year": today.replace(month=1, day=1),
    }
    if text in anchors:
        return _midnight(anchors[text], local)
    match = _RELATIVE.fullmatch(text)
    if match is None:
        return None
    count, unit = int(match[1]), match[2]
    if count > RELATIVE_MAX:
        raise RangeError(f"at most {RELATIVE_MAX} units back", field)
    if unit in ("m", "h"):
        step_s = MINUTE_S if unit == "m" else HOUR_S
        return _floor(now_us, step_s, local) - count * step_s * SECOND_US
    try:
        if unit in ("d", "w"):
            return _midnight(today - timedelta(days=count * (7 if unit == "w" else 1)), local)
        return _midnight(_months_before(today, count * (12 if unit == "y" else 1)), local)
    except (OverflowError, ValueError) as error:
        raise RangeError("times lie between 2000-01-01 and 2100-01-01", field) from error


def _absolute(text: str, local: ZoneInfo, field: str) -> int:
    try:
        if len(text) > 40:
            raise ValueError(text)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return _midnight(date.fromisoformat(text), local)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=local)
        return round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    except (ValueError, OverflowError) as error:
        forms = "RFC 3339, YYYY-MM-DD, -7d, -24h, -30m, -2w, -3mo, -1y, " + ", ".join(_ANCHORS)
        raise RangeError(f"not a time: {text[:40]!r}; known forms: {forms}", field) from error


def _local(us: int, local: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(us // SECOND_US, local)


def _floor(us: int, step_s: int, local: ZoneInfo) -> int:
    offset = _local(us, local).utcoffset()
    assert offset is not None
    offset_s = int(offset.total_seconds())
    seconds = us // SECOND_US + offset_s
    return (seconds - seconds % step_s - offset_s) * SECOND_US


def _midnight(day: date, local: ZoneInfo) -> int:
    """Start of a local day. Where midnight does not exist (clocks go forward at 0:00), the first instant after."""
    # fold=0 takes the offset before a gap, and 0:00 at that offset is the very instant the clocks change.
    return int(datetime.combine(day, time.min, tzinfo=local).timestamp()) * SECOND_US


def _checked(from_us: int, to_us: int, tz: str) -> TimeRange:
    if from_us < EARLIEST_US:
        raise RangeError("the range to compare with begins before 2000-01-01", "from")
    return TimeRange(from_us, to_us, tz)


def _year_before(us: int, local: ZoneInfo) -> int:
    return _at_local_time(_months_before(_local(us, local).date(), 12), us, local)


def _at_local_time(day: date, us: int, local: ZoneInfo) -> int:
    """The local day at the time of day that `us` has."""
    seconds = int(datetime.combine(day, _local(us, local).time(), tzinfo=local).timestamp())
    return seconds * SECOND_US + us % SECOND_US


def _is_leap_day(day: date) -> bool:
    return (day.month, day.day) == (2, 29)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _months_before(day: date, months: int) -> date:
    index = day.year * 12 + day.month - 1 - months
    year, month = divmod(index, 12)
    last = (_next_month(date(year, month + 1, 1)) - timedelta(days=1)).day
    return date(year, month + 1, min(day.day, last))
