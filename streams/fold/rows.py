"""The rows that a partition holds in memory: integer columns by slot, found by a 64-bit key.

A row's key mixes (customer, grain, window, generation) with (rollup, XXH64 of the dimension text). Two rows with one
key would be counted as one. Only rows in memory at the same time can collide: with n of them the odds of any
collision are n**2 / 2**65, 3e-8 for a million rows and 3e-6 for ten million; over a year of a full turnover every
minute, a million rows collide once in 70 years. Sums are 64-bit and wrap, so that they never depend on order; the
door bounds values (schemas.event.VALUE_E6_MAX) so that they do not.

The first `cardinality_max` tuples of a (customer, rollup, window, generation), in order of arrival, have rows of
their own; later ones share the row `(other)`.

Life of a row: live; `closed` when it is final (it takes nothing more); dead once a frame with its last value is
acknowledged. Dead rows are swept when a third of the slots is dead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from streams.fold.columns import I64, U64, run_lengths, run_starts
from streams.fold.hashing import mix
from streams.fold.index import KeyIndex
from streams.fold.texts import OTHER_ID, DimTexts
from streams.fold.windows import final_at_us

SLOTS_MIN: Final = 1024
DEAD_MIN: Final = 64
TEXTS_SPARE: Final = 1024
DEAD_FRACTION: Final = 3
NEVER_US: Final = 2**63 - 1

_WINDOW_SALT: Final = np.uint64(0x9E3779B97F4A7C15)
_GENERATION_SALT: Final = np.uint64(0xD6E8FEB86659FD93)
_ROLLUP_SALT: Final = np.uint64(0xA0761D6478BD642F)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows to find or open, in order of arrival. `text` is a place in `texts`, `text_hash` the text's XXH64."""

    customer: I64
    rollup: I64
    grain: I64
    window: I64
    generation: I64
    text_hash: U64
    texts: Any
    text: I64

    def __len__(self) -> int:
        return len(self.customer)

    def windows(self) -> U64:
        """The hash of (customer, grain, window, generation) of each."""
        return window_hash(self.customer, self.grain, self.window, self.generation)

    def take(self, at: I64) -> "Candidates":
        return Candidates(
            self.customer[at],
            self.rollup[at],
            self.grain[at],
            self.window[at],
            self.generation[at],
            self.text_hash[at],
            self.texts,
            self.text[at],
        )


def window_hash(customer: I64, grain: I64, window: I64, generation: I64) -> U64:
    """64 bits of (customer, grain, window, generation)."""
    out = mix(customer.astype(np.uint64))
    out = mix(out ^ ((window * 4 + grain).astype(np.uint64) * _WINDOW_SALT))
    return mix(out ^ (generation.astype(np.uint64) * _GENERATION_SALT))


def row_key(windows: U64, rollup: I64, text_hash: U64) -> U64:
    """The key of a row; never 0."""
    keys = mix(mix(windows + rollup.astype(np.uint64) * _ROLLUP_SALT) ^ text_hash)
    return np.where(keys == 0, np.uint64(1), keys)


class RowTable:
    """Columns by slot; `count` slots are in use, dead ones included."""

    _COLUMNS: Final = {
        "key": np.uint64,
        "customer": np.int64,
        "rollup": np.uint8,
        "grain": np.uint8,
        "window": np.int64,
        "generation": np.int64,
        "final_at_us": np.int64,
        "text": np.int32,
        "group": np.int32,
        "events": np.int64,
        "value_e6": np.int64,
        "values": np.int64,
        "open": np.bool_,
        "closed": np.bool_,
        "dead": np.bool_,
        "changed": np.bool_,
    }
    key: U64
    customer: I64
    rollup: Any
    grain: Any
    window: I64
    generation: I64
    final_at_us: I64
    text: Any
    group: Any
    events: I64
    value_e6: I64
    values: I64
    open: Any
    closed: Any
    dead: Any
    changed: Any

    def __init__(self, cardinality_max: int, grace_s: int) -> None:
        self._cardinality_max = cardinality_max
        self._grace_s = grace_s
        self.count = 0
        self.dead_count = 0
        self.texts = DimTexts()
        self.next_final_us = NEVER_US
        self._index = KeyIndex()
        self._groups = KeyIndex()
        self._group_keys: U64 = np.empty(0, np.uint64)
        self._group_tuples: I64 = np.empty(0, np.int64)
        for name, kind in self._COLUMNS.items():
            setattr(self, name, np.zeros(SLOTS_MIN, kind))

    @property
    def bytes(self) -> int:
        """Memory it holds, texts aside."""
        columns = sum(int(getattr(self, name).nbytes) for name in self._COLUMNS)
        return columns + self._index.bytes + self._groups.bytes + int(self.texts.array.nbytes)

    @property
    def open_rows(self) -> int:
        """Rows that may still change."""
        return self.count - int(np.count_nonzero(self.closed[: self.count]))

    def locate(self, wanted: Candidates, arrival: Callable[[I64], I64] | None = None) -> I64:
        """The slot of each candidate, opened where there is none; `(other)`'s for a newcomer past the bound.

        `arrival` sorts places of newcomers into the order in which they claim a row, by default the given order;
        it is only asked when a bound is hit.
        """
        keys = row_key(wanted.windows(), wanted.rollup, wanted.text_hash)
        slots = self._index.find(keys)
        new = np.flatnonzero(slots < 0)
        if len(new):
            slots[new] = self._admit(wanted.take(new), keys[new], new, arrival)
        return slots

    def replace(self, wanted: Candidates) -> I64:
        """New slots for rows that are read back whole; what was held under their keys dies. Keys are distinct."""
        keys = row_key(wanted.windows(), wanted.rollup, wanted.text_hash)
        old = self._index.find(keys)
        known = np.flatnonzero(old >= 0)
        slots = np.empty(len(wanted), np.int64)
        if len(known):
            self.kill(old[known])
            slots[known] = self._open(wanted.take(known), keys[known], self.group[old[known]], known_keys=True)
        new = np.flatnonzero(old < 0)
        if len(new):
            newcomers = wanted.take(new)
            slots[new] = self._open(newcomers, keys[new], self._group_of(newcomers), known_keys=False)
        return slots

    def find(self, wanted: Candidates) -> I64:
        """Slots of the candidates, -1 where there is no row."""
        return self._index.find(row_key(wanted.windows(), wanted.rollup, wanted.text_hash))

    def add(self, slots: I64, events: I64, value_e6: I64, values: I64) -> None:
        """Add to rows; a slot may come more than once."""
        np.add.at(self.events, slots, events)
        np.add.at(self.value_e6, slots, value_e6)
        np.add.at(self.values, slots, values)
        self.changed[slots] = True

    def final(self, grain: int, watermark_us: int) -> I64:
        """Slots of this grain that take nothing more at this watermark and were not closed yet."""
        n = self.count
        return np.flatnonzero((self.final_at_us[:n] <= watermark_us) & (self.grain[:n] == grain) & ~self.closed[:n])

    def close(self, slots: I64) -> None:
        """These rows are final."""
        self.closed[slots] = True

    def refresh_next_final(self) -> None:
        """Look up the lowest watermark at which some row becomes final."""
        live = self.final_at_us[: self.count][~self.closed[: self.count]]
        self.next_final_us = int(live.min()) if len(live) else NEVER_US

    def kill(self, slots: I64) -> None:
        """These rows are gone, but for their slots."""
        fresh = slots[~self.dead[slots]]
        self.dead[fresh] = True
        self.closed[fresh] = True
        self.changed[fresh] = False
        self.dead_count += len(fresh)

    @property
    def sweep_due(self) -> bool:
        return self.dead_count > max(DEAD_MIN, self.count // DEAD_FRACTION)

    def sweep(self) -> I64:
        """Drop dead rows; answers the new slot of each old one (-1 for the dead). Order is kept."""
        keep = np.flatnonzero(~self.dead[: self.count])
        renumbered = np.full(self.count, -1, np.int64)
        renumbered[keep] = np.arange(len(keep))
        size = max(SLOTS_MIN, 2 * len(keep))
        for name in self._COLUMNS:
            column = getattr(self, name)
            smaller = np.zeros(size, column.dtype)
            smaller[: len(keep)] = column[keep]
            setattr(self, name, smaller)
        self.count, self.dead_count = len(keep), 0
        self._index = KeyIndex(len(keep))
        live = np.flatnonzero(~self.closed[: self.count])
        self._index.insert(self.key[live], live)
        self._sweep_groups(live)
        self._sweep_texts()
        return renumbered

    def _sweep_groups(self, live: I64) -> None:
        used = np.unique(self.group[live])
        renumbered = np.full(len(self._group_keys), -1, np.int32)
        renumbered[used] = np.arange(len(used), dtype=np.int32)
        self.group[: self.count] = renumbered[self.group[: self.count]]
        self._group_keys, self._group_tuples = self._group_keys[used], self._group_tuples[used]
        self._groups = KeyIndex(len(used))
        self._groups.insert(self._group_keys, np.arange(len(used)))

    def _sweep_texts(self) -> None:
        used = np.unique(self.text[: self.count]).astype(np.int64)
        if len(self.texts) > 2 * len(used) + TEXTS_SPARE:
            self.text[: self.count] = self.texts.keep(used)[self.text[: self.count]]

    def _admit(self, wanted: Candidates, keys: U64, at: I64, arrival: Callable[[I64], I64] | None) -> I64:
        """Slots for candidates without a row; `at` are their places in the caller's columns."""
        texts = self.texts.intern(wanted.text_hash, wanted.texts, wanted.text)
        groups = self._group_of(wanted)
        newcomers = np.flatnonzero(texts != OTHER_ID)
        crowded = self._crowded(groups[newcomers])
        if not crowded.any():
            return self._open_distinct(wanted, keys, groups, texts)
        order = newcomers if arrival is None else newcomers[arrival(at[newcomers])]
        refused = self._refused(keys[order], groups[order])
        texts[order[refused]] = OTHER_ID
        hashes = wanted.text_hash.copy()
        hashes[order[refused]] = self.texts.hashes[OTHER_ID]
        keys = row_key(wanted.windows(), wanted.rollup, hashes)
        slots = self._index.find(keys)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            opened = self._open_distinct(wanted.take(missing), keys[missing], groups[missing], texts[missing])
            slots[missing] = opened
        return slots

    def _crowded(self, groups: I64) -> Any:
        """Whether the newcomers, were they all distinct, could be too many in their group."""
        distinct, inverse, need = np.unique(groups, return_inverse=True, return_counts=True)
        return (need + self._group_tuples[distinct] > self._cardinality_max)[inverse]

    def _refused(self, keys: U64, groups: I64) -> I64:
        """Places of newcomers past their group's bound; in order of arrival, a key may come more than once."""
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        by_arrival = np.argsort(first)
        grouped = by_arrival[np.argsort(groups[first[by_arrival]], kind="stable")]
        sorted_groups = groups[first[grouped]]
        starts = run_starts(sorted_groups)
        rank = np.arange(len(grouped)) - np.repeat(starts, run_lengths(starts, len(grouped)))
        refused = np.zeros(len(distinct), np.bool_)
        refused[grouped] = rank + self._group_tuples[sorted_groups] >= self._cardinality_max
        return np.flatnonzero(refused[inverse])

    def _open_distinct(self, wanted: Candidates, keys: U64, groups: I64, texts: I64) -> I64:
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        slots = self._open(wanted.take(first), distinct, groups[first], known_keys=False, texts=texts[first])
        return slots[inverse]

    def _open(self, wanted: Candidates, keys: U64, groups: I64, *, known_keys: bool, texts: I64 | None = None) -> I64:
        """Slots of new rows with distinct keys; `known_keys` are in the index already and now point here."""
        if texts is None:
            texts = self.texts.intern(wanted.text_hash, wanted.texts, wanted.text)
        slots = np.arange(self.count, self.count + len(keys))
        self._reserve(self.count + len(keys))
        own = slice(self.count, self.count + len(keys))
        self.count += len(keys)
        self.key[own], self.customer[own], self.rollup[own] = keys, wanted.customer, wanted.rollup
        self.grain[own], self.window[own], self.generation[own] = wanted.grain, wanted.window, wanted.generation
        self.text[own], self.group[own], self.open[own] = texts, groups, True
        final_at = final_at_us(wanted.generation, wanted.grain, self._grace_s)
        self.final_at_us[own] = final_at
        self.next_final_us = min(self.next_final_us, int(final_at.min()))
        if known_keys:
            self._index.replace(keys, slots)
        else:
            self._index.insert(keys, slots)
            np.add.at(self._group_tuples, groups[texts != OTHER_ID], 1)
        return slots

    def _group_of(self, wanted: Candidates) -> I64:
        keys = row_key(wanted.windows(), wanted.rollup, np.zeros(len(wanted), np.uint64))
        groups = self._groups.find(keys)
        missing = np.flatnonzero(groups < 0)
        if len(missing):
            new = np.unique(keys[missing])
            numbers = np.arange(len(self._group_keys), len(self._group_keys) + len(new))
            self._groups.insert(new, numbers)
            self._group_keys = np.concatenate([self._group_keys, new])
            self._group_tuples = np.concatenate([self._group_tuples, np.zeros(len(new), np.int64)])
            groups[missing] = self._groups.find(keys[missing])
        return groups

    def _reserve(self, count: int) -> None:
        size = len(self.key)
        if count <= size:
            return
        for name in self._COLUMNS:
            column = getattr(self, name)
            bigger = np.zeros(max(count, 2 * size), column.dtype)
            bigger[:size] = column
            setattr(self, name, bigger)
