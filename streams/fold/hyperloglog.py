"""Which users were in which row: HyperLogLog registers of all rows, in sorted runs.

An entry packs slot << 18 | register << 6 | rank into 64 bits. Each flush adds one sorted run; a run that has grown
to half of the one before is merged into it, so an entry is merged a handful of times. Nothing is looked up when
entries are added: the highest rank of a register wins when runs are merged and when a row is read.
"""

from typing import Final

import numpy as np

from schemas.sketches import HLL_ENTRY_BITS, HLL_RANK_BITS
from streams.fold.columns import I64, U64
from streams.fold.runs import SlotRanges

ENTRY_MASK: Final = np.uint64((1 << HLL_ENTRY_BITS) - 1)
_ENTRY_BITS: Final = np.uint64(HLL_ENTRY_BITS)
_RANK_BITS: Final = np.uint64(HLL_RANK_BITS)


class RegisterRuns:
    """Registers by slot."""

    def __init__(self) -> None:
        self._runs: list[U64] = []
        self._ranges: list[SlotRanges] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    @property
    def bytes(self) -> int:
        """Memory it holds."""
        return sum(r.nbytes for r in self._runs) + sum(r.bytes for r in self._ranges)

    def add(self, slots: I64, entries: U64) -> None:
        """Raise registers: `entries` are register << 6 | rank."""
        if len(slots):
            packed = slots.astype(np.uint64) << _ENTRY_BITS
            packed |= entries
            packed.sort()
            self._push(_highest(packed))

    def of(self, slots: I64) -> tuple[I64, U64]:
        """(place in `slots`, entry) of all registers of these rows, sorted by place and register."""
        parts = []
        for run, ranges in zip(self._runs, self._ranges, strict=True):
            owner, at = ranges.of(slots)
            if len(at):
                part = run[at]
                part &= ENTRY_MASK
                part |= owner.view(np.uint64) << _ENTRY_BITS
                parts.append(part)
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.uint64)
        packed = parts[0]
        if len(parts) > 1:
            packed = np.concatenate(parts)
            packed.sort()
            packed = _highest(packed)
        return (packed >> _ENTRY_BITS).view(np.int64), packed & ENTRY_MASK

    def renumber(self, slots: I64) -> None:
        """Slot i is `slots[i]` from now on, -1 gone; the order of slots is kept."""
        runs, self._runs, self._ranges = self._runs, [], []
        for run in runs:
            new = slots[(run >> _ENTRY_BITS).astype(np.int64)]
            keep = new >= 0
            kept = (new[keep].astype(np.uint64) << _ENTRY_BITS) | (run[keep] & ENTRY_MASK)
            if len(kept):
                self._push(kept)

    def _push(self, run: U64) -> None:
        while self._runs and 2 * len(run) > len(self._runs[-1]):
            self._ranges.pop()
            run = _highest(np.sort(np.concatenate([self._runs.pop(), run]), kind="stable"))
        self._runs.append(run)
        self._ranges.append(SlotRanges((run >> _ENTRY_BITS).astype(np.int64)))


def _highest(ordered: U64) -> U64:
    """Of sorted entries, the last one of each slot and register: the one of the highest rank."""
    register = ordered >> _RANK_BITS
    last = np.ones(len(ordered), np.bool_)
    np.not_equal(register[1:], register[:-1], out=last[:-1])
    return ordered[last]
