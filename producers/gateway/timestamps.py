"""Times as senders write them, as microseconds since the epoch, UTC; and the skew rule.

Pure: `received_at_us` is given. A time without an offset is UTC.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from headrace.errors import PoisonError
from schemas.event import TIMESTAMP_US_MAX, TIMESTAMP_US_MIN

SKEW_TOLERANCE_US: Final = 60_000_000
"""Up to this difference between receipt and sending, the sender's clock is believed (it may be a late retry)."""

TimeRule = Callable[[int, int | None, int], int]
"""From the event's own time, when the sender says it sent, and receipt: the time that counts. Microseconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXPANDED_YEAR = re.compile(r"[+-]\d{5,}|\d{5,}-")
_LEAP_SECOND = re.compile(r"([T ]\d\d:\d\d:)60(?=[.,Z+-]|$)")
_MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds (1973 in milliseconds, the year 5138 in seconds)."""
_NUMBER_MAX = 1e15


def parse_us(value: Any) -> int:
    """An ISO-8601 text, or a number of seconds or milliseconds, in microseconds.

    Raises PoisonError: `timestamp_invalid`, or `timestamp_out_of_range` for what no calendar here can hold.
    """
    if isinstance(value, str):
        elapsed = _moment(value) - _EPOCH
        return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
    # Compared, not asked by math.isfinite: an integer may lie beyond what a double holds.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
        if abs(value) > _NUMBER_MAX:
            raise out_of_range(value)
        return round(value * 1000) if abs(value) >= _MILLISECONDS_FROM else round(value * 1_000_000)
    raise PoisonError("timestamp_invalid", f"timestamp {_shown(value)!r} is not a time")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        if _EXPANDED_YEAR.match(text):
            raise out_of_range(text) from None
        moment = _leap_second(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _leap_second(text: str) -> datetime:
    """A time whose second is 60: the one after, as clocks without leap seconds count."""
    earlier, found = _LEAP_SECOND.subn(r"\g<1>59", text, count=1)
    try:
        if not found:
            raise ValueError(text)
        return datetime.fromisoformat(earlier) + timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise PoisonError("timestamp_invalid", f"timestamp {text[:40]!r} is not ISO-8601") from None


def parse_sent_us(value: Any) -> int | None:
    """When the sender says it sent; None when it does not say or cannot know (no time, or an absurd one)."""
    if value is None:
        return None
    try:
        sent_us = parse_us(value)
    except PoisonError:
        return None
    return sent_us if is_plausible(sent_us) else None


def stored_us(timestamp_us: int, sent_us: int | None, received_us: int) -> int:
    """The time that counts: the event's own, moved by the difference of the clocks if that is too great."""
    if sent_us is None or abs(received_us - sent_us) <= SKEW_TOLERANCE_US:
        return timestamp_us
    return received_us - (sent_us - timestamp_us)


def always_moved_us(timestamp_us: int, sent_us: int | None, received_us: int) -> int:
    """As `stored_us`, without tolerance: for senders whose protocol always counts from when they sent."""
    return timestamp_us if sent_us is None else received_us - (sent_us - timestamp_us)


def as_sent_us(timestamp_us: int, sent_us: int | None, received_us: int) -> int:  # noqa: ARG001 (a TimeRule)
    """The event's own time: for protocols that never move it."""
    return timestamp_us


def is_plausible(us: int) -> bool:
    """Whether a time lies within what is stored: 2000 to 2100."""
    return TIMESTAMP_US_MIN <= us < TIMESTAMP_US_MAX


def out_of_range(value: Any) -> PoisonError:
    """The refusal of a time before 2000 or after 2100."""
    return PoisonError("timestamp_out_of_range", f"timestamp {_shown(value)} is not between 2000 and 2100")


def _shown(value: Any) -> str:
    # Python refuses to write integers of more than 4,300 digits.
    too_long = isinstance(value, int) and value.bit_length() > 1024
    return "of more than 300 digits" if too_long else str(value)[:40]
