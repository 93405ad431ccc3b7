"""Which values were in which row: counts of log buckets of all rows, in sorted runs as in hyperloglog.py.

A key packs slot << 12 | bucket; equal keys of two runs are summed when runs are merged and when a row is read.
"""

from typing import Final

import numpy as np

from schemas.sketches import HIST_BUCKET_BITS
from streams.fold.columns import I64, U64, run_lengths, run_starts
from streams.fold.runs import SlotRanges

_BUCKET_BITS: Final = np.uint64(HIST_BUCKET_BITS)
_BUCKET_MASK: Final = np.uint64((1 << HIST_BUCKET_BITS) - 1)


class BucketRuns:
    """Bucket counts by slot."""

    def __init__(self) -> None:
        self._keys: list[U64] = []
        self._counts: list[I64] = []
        self._ranges: list[SlotRanges] = []

    def __len__(self) -> int:
        return sum(map(len, self._keys))

    @property
    def bytes(self) -> int:
        """Memory it holds."""
        return 2 * sum(k.nbytes for k in self._keys) + sum(r.bytes for r in self._ranges)

    def add_values(self, slots: I64, buckets: I64) -> None:
        """Count one value in each bucket."""
        if len(slots):
            keys = np.sort(_packed(slots, buckets))
            starts = run_starts(keys)
            self._push(keys[starts], run_lengths(starts, len(keys)))

    def add_counts(self, slots: I64, buckets: I64, counts: I64) -> None:
        """Add counts to buckets; a bucket may come more than once."""
        if len(slots):
            self._push(*_summed(_packed(slots, buckets), counts))

    def of(self, slots: I64) -> tuple[I64, I64, I64]:
        """(place in `slots`, bucket, count) of all buckets of these rows, sorted by place and bucket."""
        keys, counts = [], []
        for run, count, ranges in zip(self._keys, self._counts, self._ranges, strict=True):
            owner, at = ranges.of(slots)
            if len(at):
                keys.append((owner.astype(np.uint64) << _BUCKET_BITS) | (run[at] & _BUCKET_MASK))
                counts.append(count[at])
        if not keys:
            nothing = np.empty(0, np.int64)
            return nothing, nothing, nothing
        key, total = keys[0], counts[0]
        if len(keys) > 1:
            key, total = _summed(np.concatenate(keys), np.concatenate(counts))
        return (key >> _BUCKET_BITS).astype(np.int64), (key & _BUCKET_MASK).astype(np.int64), total

    def renumber(self, slots: I64) -> None:
        """Slot i is `slots[i]` from now on, -1 gone; the order of slots is kept."""
        runs = list(zip(self._keys, self._counts, strict=True))
        self._keys, self._counts, self._ranges = [], [], []
        for keys, counts in runs:
            new = slots[(keys >> _BUCKET_BITS).astype(np.int64)]
            keep = new >= 0
            if keep.any():
                self._push(_packed(new[keep], keys[keep] & _BUCKET_MASK), counts[keep])

    def _push(self, keys: U64, counts: I64) -> None:
        while self._keys and 2 * len(keys) > len(self._keys[-1]):
            self._ranges.pop()
            keys = np.concatenate([self._keys.pop(), keys])
            keys, counts = _summed(keys, np.concatenate([self._counts.pop(), counts]))
        self._keys.append(keys)
        self._counts.append(counts)
        self._ranges.append(SlotRanges((keys >> _BUCKET_BITS).astype(np.int64)))


def _packed(slots: I64, buckets: I64 | U64) -> U64:
    return (slots.astype(np.uint64) << _BUCKET_BITS) | buckets.astype(np.uint64)


def _summed(keys: U64, counts: I64) -> tuple[U64, I64]:
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = run_starts(keys)
    return keys[starts], np.add.reduceat(counts[order], starts)
