"""Time as a dependency, so that tests own it.

`now_us` is wall-clock time for stamping data; `monotonic` is for durations. The fold uses neither: it
reads time from the log alone.
"""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What a part that needs the time asks for. Never blocks, never fails."""

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(slots=True)
class ManualClock:
    """A clock that stands until it is told to move."""

    us: int = 0

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6

    def advance(self, seconds: float) -> None:
        """Move on by `seconds` (not negative)."""
        assert seconds >= 0
        self.us += round(seconds * 1e6)
