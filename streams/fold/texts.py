"""The texts of dimension tuples, each held once per fold and known by a small number.

Rows hold numbers; texts are written out when rows leave. Two texts with one 64-bit hash would be one text; see
rows.py for the odds. Texts that no row holds any more go when the owner calls `keep`.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa

from schemas.rollups import OTHER_DIMS
from streams.fold.columns import I64, U64
from streams.fold.hashing import hash_utf8
from streams.fold.index import KeyIndex

OTHER_ID: Final = 0
"""`(other)` is always there, as the first."""


class DimTexts:
    """Numbers texts in order of arrival."""

    def __init__(self) -> None:
        self._set(pa.array([OTHER_DIMS]))

    def __len__(self) -> int:
        return len(self.array)

    def _set(self, texts: Any) -> None:
        self.array: Any = texts
        self.hashes: U64 = hash_utf8(texts)
        self._index = KeyIndex(len(texts))
        self._index.insert(_never_zero(self.hashes), np.arange(len(texts)))

    def intern(self, hashes: U64, texts: Any, at: I64) -> I64:
        """The number of each text; row i's is `texts[at[i]]`, its XXH64 `hashes[i]`."""
        keys = _never_zero(hashes)
        ids = self._index.find(keys)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            new, first = np.unique(keys[missing], return_index=True)
            numbers = np.arange(len(self), len(self) + len(new))
            self._index.insert(new, numbers)
            fresh = texts.take(pa.array(at[missing[first]]))
            self.array = pa.concat_arrays([self.array, fresh])
            self.hashes = np.concatenate([self.hashes, hashes[missing[first]]])
            ids[missing] = self._index.find(keys[missing])
        return ids

    def take(self, ids: I64) -> Any:
        """The texts of these numbers, as an Arrow string array."""
        return self.array.take(pa.array(ids))

    def keep(self, used: I64) -> I64:
        """Forget all texts but `used` (ascending) and `(other)`; answers the new number of each old one."""
        used = np.union1d(used, [OTHER_ID])
        renumbered = np.full(len(self), -1, np.int64)
        renumbered[used] = np.arange(len(used))
        self._set(self.take(used))
        return renumbered


def _never_zero(hashes: U64) -> U64:
    return np.where(hashes == 0, np.uint64(1), hashes)
