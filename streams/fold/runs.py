"""Where each slot's entries are in a run that is sorted by slot."""

from typing import Final

import numpy as np

from streams.fold.columns import I64, ranges

SLOTS_PER_ENTRY_MAX: Final = 4
"""A table of all slots is held where a run has at least one entry for every few of them; others are searched."""


class SlotRanges:
    """Finds the entries of slots in one sorted, non-empty run."""

    def __init__(self, slots: I64) -> None:
        self._first, last = int(slots[0]), int(slots[-1])
        span = last - self._first + 1
        self._slots: I64 | None = None
        self._starts: I64 | None = None
        if span <= SLOTS_PER_ENTRY_MAX * len(slots):
            self._starts = np.zeros(span + 1, np.int64)
            np.cumsum(np.bincount(slots - self._first, minlength=span), out=self._starts[1:])
        else:
            self._slots = slots

    @property
    def bytes(self) -> int:
        """Memory it holds."""
        return (0 if self._starts is None else self._starts.nbytes) + (
            0 if self._slots is None else self._slots.nbytes
        )

    def of(self, slots: I64) -> tuple[I64, I64]:
        """(place in `slots`, place in the run) of all entries of these slots, by place in `slots`."""
        if self._starts is not None:
            place = np.clip(slots - self._first, -1, len(self._starts) - 1)
            here = np.flatnonzero((place >= 0) & (place < len(self._starts) - 1))
            start, end = self._starts[place[here]], self._starts[place[here] + 1]
        else:
            assert self._slots is not None
            here = np.arange(len(slots))
            start, end = np.searchsorted(self._slots, slots), np.searchsorted(self._slots, slots, side="right")
        counts = end - start
        return np.repeat(here, counts), ranges(start, counts)
