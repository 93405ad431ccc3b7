"""Closing: final minutes are added to their hours, final hours to their days, final days are let go.

It happens at source offsets that are multiples of CLOSE_EVERY, at the watermark there. Rows of one grain are added
in the order (generation, customer, rollup, window, dims); the order decides who gets a row of its own where a
coarser window is full, and nothing else.
"""

import numpy as np

from schemas.rollups import GRAIN_S, Grain
from streams.fold.columns import I64
from streams.fold.counting import RowState
from streams.fold.rows import Candidates, RowTable


def close_final(state: RowState, watermark_us: int) -> None:
    """Close every row that is final at this watermark, the finest first."""
    table = state.table
    for grain in (Grain.MINUTE, Grain.HOUR):
        slots = table.final(grain, watermark_us)
        if len(slots):
            _add_to_coarser(state, slots, grain)
            table.close(slots)
            table.open[slots] = False
            table.changed[slots] = True
    table.close(table.final(Grain.DAY, watermark_us))
    table.refresh_next_final()


def _add_to_coarser(state: RowState, slots: I64, grain: int) -> None:
    table = state.table
    length = GRAIN_S[grain + 1]
    text = table.text[slots].astype(np.int64)
    wanted = Candidates(
        customer=table.customer[slots],
        rollup=table.rollup[slots].astype(np.int64),
        grain=np.full(len(slots), grain + 1, np.int64),
        window=table.window[slots] // length * length,
        generation=table.generation[slots] // length * length,
        text_hash=table.texts.hashes[text],
        texts=table.texts.array,
        text=text,
    )
    coarser = table.locate(wanted, lambda at: _by_key(table, slots[at]))
    table.add(coarser, table.events[slots], table.value_e6[slots], table.values[slots])
    owner, entries = state.registers.of(slots)
    state.registers.add(coarser[owner], entries)
    owner, buckets, counts = state.buckets.of(slots)
    state.buckets.add_counts(coarser[owner], buckets, counts)


def _by_key(table: RowTable, slots: I64) -> I64:
    """Places in `slots`, sorted by (generation, customer, rollup, window, dims)."""
    ids, inverse = np.unique(table.text[slots], return_inverse=True)
    texts = [t.encode() for t in table.texts.take(ids).to_pylist()]
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=texts.__getitem__)] = np.arange(len(ids))
    order = (rank[inverse], table.window[slots], table.rollup[slots], table.customer[slots], table.generation[slots])
    return np.lexsort(order)
