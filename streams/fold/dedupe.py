"""Which message ids were seen within the window.

Ids are 64-bit hashes (XXH64 of the message id, mixed with the customer), in a few sorted arrays, each at least
LEVEL_FACTOR times as long as the next; new ids are merged into the shortest, so that a small frame never copies the
whole window. Each id has the monotone receive hour of its first arrival, a byte modulo 256; ids of an hour that
leaves the window go as soon as the hour changes, so whatever is found is within the window. An id lives at least
`window_h` hours and less than one more. 9 bytes an id, and one or two for the table that finds its place.

A collision drops an event that is no duplicate. Only ids of one partition within one window can collide: with n of
them the odds of any collision are n**2 / 2**65, 5e-7 for 4 million (10**8 over 24 partitions) and 3e-4 for 10**8 in
a single partition. The hash is not secret: who can foretell another customer's message ids could send an event
that makes one of them look like a duplicate; SDKs draw them at random.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np

from streams.fold.columns import I64, U8, U64, Bools, run_starts

LEVEL_FACTOR: Final = 4
WINDOW_H_MAX: Final = 240
"""So that an age in hours fits a byte, with room for a clock that runs on before ids are dropped."""
IDS_PER_PLACE: Final = 4
WALK_MAX: Final = 32
"""Steps within a range before the rest is searched: someone may choose ids whose hashes crowd."""
HOURS_CYCLE: Final = 256


class SortedIds:
    """Sorted ids with their hours, and a table of where each range of upper bits begins."""

    def __init__(self, ids: U64, hours: U8) -> None:
        self.ids, self.hours = ids, hours
        bits = max(1, (len(ids) // IDS_PER_PLACE).bit_length())
        self._shift = np.uint64(64 - bits)
        counts = np.bincount((ids >> self._shift).astype(np.int64), minlength=1 << bits)
        self._starts = np.zeros((1 << bits) + 1, np.int32)
        np.cumsum(counts, out=self._starts[1:])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        return self.ids.nbytes + self.hours.nbytes + self._starts.nbytes

    def contains(self, ids: U64) -> Bools:
        """Which of `ids` are here. Hashes are even, so a range holds a handful, walked for all at once."""
        place = (ids >> self._shift).astype(np.int64)
        at, end = self._starts[place].astype(np.int64), self._starts[place + 1]
        out = np.zeros(len(ids), np.bool_)
        todo = np.flatnonzero(at < end)
        for _ in range(WALK_MAX):
            if not len(todo):
                return out
            here, wanted = self.ids[at[todo]], ids[todo]
            out[todo[here == wanted]] = True
            todo = todo[here < wanted]
            at[todo] += 1
            todo = todo[at[todo] < end[todo]]
        found = np.searchsorted(self.ids, ids[todo])
        out[todo] = self.ids[np.minimum(found, len(self.ids) - 1)] == ids[todo]
        return out

    def merged(self, other: "SortedIds") -> "SortedIds":
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids, kind="stable")
        return SortedIds(ids[order], np.concatenate([self.hours, other.hours])[order])

    def filtered(self, keep: Bools) -> "SortedIds":
        return SortedIds(self.ids[keep], self.hours[keep])


@dataclass(frozen=True, slots=True)
class SeenIds:
    """What a window remembers at one moment; never changes, so any thread may read it. `hour`: the current one."""

    levels: tuple[SortedIds, ...]
    hour: int

    def by_hour(self) -> list[tuple[int, U64]]:
        """All ids, sorted, by hour."""
        whole = reduce(SortedIds.merged, reversed(self.levels), _nothing())
        ages = _ages(whole.hours, self.hour)
        return [(self.hour - int(age), whole.ids[ages == age]) for age in np.unique(ages)[::-1]]


class DedupeWindow:
    """Ids of the current hour and of `window_h` hours before it."""

    def __init__(self, window_h: int) -> None:
        assert 0 < window_h <= WINDOW_H_MAX, window_h
        self._window_h = window_h
        self.hour = 0
        self._levels: list[SortedIds] = []

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    @property
    def bytes(self) -> int:
        """Memory it holds."""
        return sum(level.bytes for level in self._levels)

    def advance(self, hour: int) -> None:
        """The monotone receive hour is `hour` now; ids that leave the window are dropped."""
        if hour <= self.hour:
            return
        passed, self.hour = hour - self.hour, hour
        aged = [self._aged(level, passed) for level in self._levels] if passed <= self._window_h else []
        self._levels = [level for level in aged if len(level)]

    def first_arrivals(self, ids: U64) -> Bools:
        """Which records of the current hour are first arrivals; those are remembered. In log order."""
        order = np.argsort(ids)
        ordered = ids[order]
        starts = run_starts(ordered)
        first = np.minimum.reduceat(order, starts) if len(starts) < len(ids) else order
        distinct = ordered[starts]
        new = ~self._contains(distinct)
        out = np.zeros(len(ids), np.bool_)
        out[first[new]] = True
        self._add(distinct[new], self.hour)
        return out

    def restore(self, ids: U64, hour: int) -> None:
        """Remember ids of an earlier (or the current) hour, as read from a frame or a snapshot."""
        if self.hour - hour <= self._window_h:
            distinct = np.unique(ids)
            self._add(distinct[~self._contains(distinct)], hour)

    def seen(self) -> SeenIds:
        """What is remembered now."""
        return SeenIds(tuple(self._levels), self.hour)

    def _add(self, ids: U64, hour: int) -> None:
        if not len(ids):
            return
        level = SortedIds(ids, np.full(len(ids), hour % HOURS_CYCLE, np.uint8))
        while self._levels and len(self._levels[-1]) < LEVEL_FACTOR * len(level):
            level = self._levels.pop().merged(level)
        self._levels.append(level)

    def _contains(self, ids: U64) -> Bools:
        out = np.zeros(len(ids), np.bool_)
        for level in self._levels:
            out |= level.contains(ids)
        return out

    def _aged(self, some: SortedIds, passed: int) -> SortedIds:
        ages = _ages(some.hours, self.hour - passed) + passed
        keep = ages <= self._window_h
        return some if keep.all() else some.filtered(keep)


def _ages(hours: U8, now: int) -> I64:
    return (now - hours.astype(np.int64)) % HOURS_CYCLE


def _nothing() -> SortedIds:
    return SortedIds(np.empty(0, np.uint64), np.empty(0, np.uint8))
