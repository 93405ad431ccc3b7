"""Tokens that one gateway leased of one customer's bucket, and what it may say from them alone.

Pure: the time is given, in monotonic seconds. A token is an event that may pass. The bucket holds `per_second +
burst` events and gains `per_second` each second. A request larger than the whole bucket passes when the bucket is
full and leaves it in debt: refused, it could never pass.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from headrace.shards.policy import Quota

BURST_DEFAULT_S: Final = 10
"""Seconds of traffic at the sustained rate that a customer's `burst` is without one of its own."""
LEASE_S: Final = 0.1
"""Seconds of traffic at the sustained rate that one gateway leases at once, beside what a request needs."""
CLOSED_MIN_S: Final = 0.02
CLOSED_MAX_S: Final = LEASE_S
"""Once found empty the bucket is left alone for so long: it bounds what a flood asks of the ledger."""
RETRY_MIN_S: Final = 1
RETRY_MAX_S: Final = 300
"""Of Retry-After: SDKs ignore longer ones. A month may end later; who comes back then is told the same again."""

_NEVER: Final = float("-inf")
_ROUNDING: Final = 1e-3

Kind = Literal["rate", "month"]


@dataclass(frozen=True, slots=True)
class Over:
    """Why events may not pass now, and after how many seconds they may."""

    kind: Kind
    limit: int
    retry_after_s: int


def retry_after_s(seconds: float) -> int:
    """What to tell a sender who has to wait for `seconds`."""
    return min(max(math.ceil(seconds), RETRY_MIN_S), RETRY_MAX_S)


def granted_of(level: float, capacity: float, need: float, spare: float) -> float:
    """What a bucket at `level` gives: `need` and what is there of `spare`, or else only of `spare`."""
    if level >= min(need, capacity):
        return max(need, min(level, need + spare))
    return max(0.0, min(level, spare))


class Lease:
    """Tokens of one customer in one gateway, and the bucket that they come from as last seen."""

    __slots__ = ("_closed_bytes", "_closed_until_s", "_level", "_level_at_s", "capacity", "rate", "tokens")

    def __init__(self, quota: Quota, now_s: float) -> None:
        self.rate = quota.per_second or 0
        burst = BURST_DEFAULT_S * self.rate if quota.burst is None else quota.burst
        self.capacity = self.rate + burst if self.rate else 0
        self.tokens = 0.0
        self._level, self._level_at_s = float(self.capacity), now_s
        self._closed_until_s, self._closed_bytes = _NEVER, math.inf

    @property
    def slice(self) -> float:
        """Tokens of LEASE_S."""
        return self.rate * LEASE_S

    def closed(self, now_s: float) -> bool:
        """Whether asking for more is of no use yet."""
        return not self.rate or now_s < self._closed_until_s

    def closed_to(self, body_bytes: int | None, now_s: float) -> bool:
        """Whether a request of so many bytes is over the rate, whatever its events are: there is no token, or one
        with no larger body was refused since the bucket was found empty."""
        if not self.closed(now_s):
            return False
        return self.tokens < 1 or (body_bytes is not None and body_bytes >= self._closed_bytes)

    def runs_low(self, now_s: float) -> bool:
        """Whether to lease the next slice before somebody has to wait for it."""
        return 1 <= self.slice > 2 * self.tokens and not self.closed(now_s)

    def note_refused(self, body_bytes: int | None) -> None:
        """A request of so many bytes was over the rate."""
        if body_bytes is not None:
            self._closed_bytes = min(self._closed_bytes, body_bytes)

    def over(self, events: int, now_s: float) -> Over:
        """How long `events` have to wait."""
        if not self.rate:
            return Over("rate", 0, RETRY_MAX_S)
        missing = min(events, self.capacity) - self.tokens - self.level(now_s)
        return Over("rate", self.rate, retry_after_s(missing / self.rate))

    def level(self, now_s: float) -> float:
        """What the bucket holds now, if nobody else took from it since it was last seen."""
        return min(self.capacity, self._level + max(0.0, now_s - self._level_at_s) * self.rate)

    def take_in(self, need: float, spare: float, granted: float, level: float, now_s: float) -> None:
        """The bucket, asked for `need` and `spare`, gave `granted` and holds `level` now."""
        self.tokens += granted
        self._level, self._level_at_s = level, now_s
        self._closed_until_s, self._closed_bytes = _NEVER, math.inf
        if granted + _ROUNDING < need + spare:  # it is empty
            wait_s = (need - granted) / self.rate
            self._closed_until_s = now_s + min(max(wait_s, CLOSED_MIN_S), CLOSED_MAX_S)
