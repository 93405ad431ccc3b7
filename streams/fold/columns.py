"""Columns of integers: their types, and the few operations on them that numpy has no name for."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def factorise(values: I64) -> tuple[I64, I64]:
    """(code of each value, distinct values): codes are dealt in order of first appearance."""
    encoded: Any = pa.array(values).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_numpy()


def run_starts(ordered: npt.NDArray[Any]) -> I64:
    """Where each run of equal values begins in a sorted column."""
    if not len(ordered):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def run_lengths(starts: I64, total: int) -> I64:
    """Lengths of the runs that begin at `starts`."""
    return np.diff(np.append(starts, total))


def ranges(starts: I64, counts: I64) -> I64:
    """start, start + 1, … start + count - 1 of each range, in turn."""
    total = int(counts.sum())
    out: I64 = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    out += np.arange(total)
    return out
