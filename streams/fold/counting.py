"""Counting events into rows: which events share a row is found by codes, what they add by sums over codes.

Per rollup the events' (window, tuple) pairs are numbered in order of first appearance, which is the order in which
newcomers claim rows under the cardinality bound.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.rollups import ROLLUPS
from streams.fold.batch import Columns
from streams.fold.columns import I64, factorise
from streams.fold.histogram import BucketRuns
from streams.fold.hyperloglog import RegisterRuns
from streams.fold.rows import Candidates, RowTable


@dataclass(frozen=True, slots=True)
class Placed:
    """Events (places in the columns) with the windows that take them, in log order."""

    events: I64
    grain: I64
    window: I64
    generation: I64


@dataclass(slots=True)
class RowState:
    """All rows of a partition, with their sketches."""

    table: RowTable
    registers: RegisterRuns
    buckets: BucketRuns


def count_events(state: RowState, columns: Columns, placed: Placed) -> None:
    """Add events to their six rows each."""
    wanted, groups = _candidates(columns, placed)
    slots = state.table.locate(wanted)
    first = 0
    parts = []
    for group in groups:
        rows = int(group.max()) + 1
        parts.append((group, slots[first : first + rows]))
        first += rows
    _add_counts(state, columns, placed, parts)
    _add_users(state, columns, placed, parts)
    _add_values(state, columns, placed, parts)


def _candidates(columns: Columns, placed: Placed) -> tuple[Candidates, list[I64]]:
    """The rows of all rollups, one after the other, and for each rollup each event's row among its own."""
    at, distinct = _windows(columns.customer[placed.events], placed)
    groups, windows, codes, rollups = [], [], [], []
    texts, hashes, first_text = [], [], 0
    for rollup, tuples in zip(ROLLUPS, columns.tuples, strict=True):
        size = len(tuples.texts)
        group, pairs = (
            factorise(at * size + tuples.code[placed.events]) if size > 1 else (at, np.arange(len(distinct)))
        )
        groups.append(group)
        windows.append(distinct[pairs // size])
        codes.append(pairs % size + first_text)
        rollups.append(np.full(len(pairs), rollup.code, np.int64))
        texts.append(tuples.texts)
        hashes.append(tuples.hashes)
        first_text += size
    example, code = np.concatenate(windows), np.concatenate(codes)
    wanted = Candidates(
        customer=columns.customer[placed.events[example]],
        rollup=np.concatenate(rollups),
        grain=placed.grain[example],
        window=placed.window[example],
        generation=placed.generation[example],
        text_hash=np.concatenate(hashes)[code],
        texts=pa.concat_arrays(texts),
        text=code,
    )
    return wanted, groups


def _windows(customer: I64, placed: Placed) -> tuple[I64, I64]:
    """(code of each event's (customer, grain, window, generation), first event of each code)."""
    codes, windows = factorise(placed.window * 4 + placed.grain)
    if not np.array_equal(placed.generation, placed.window):
        generations, distinct = factorise(placed.generation)
        codes, windows = factorise(codes * len(distinct) + generations)
    customers, distinct = factorise(customer)
    codes, windows = factorise(codes * len(distinct) + customers)
    first = np.empty(len(windows), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return codes, first


def _add_counts(state: RowState, columns: Columns, placed: Placed, parts: list[tuple[I64, I64]]) -> None:
    valued = columns.has_value[placed.events]
    some = np.flatnonzero(valued)
    value = columns.value_e6[placed.events[some]]
    for group, slots in parts:
        rows = len(slots)
        sums = np.zeros(rows, np.int64)
        np.add.at(sums, group[some], value)
        state.table.add(slots, np.bincount(group), sums, np.bincount(group[some], minlength=rows))


def _add_users(state: RowState, columns: Columns, placed: Placed, parts: list[tuple[I64, I64]]) -> None:
    known = np.flatnonzero(columns.has_user[placed.events])
    entries = columns.user[placed.events[known]]
    slots = np.concatenate([slots[group[known]] for group, slots in parts])
    state.registers.add(slots, np.tile(entries, len(parts)))


def _add_values(state: RowState, columns: Columns, placed: Placed, parts: list[tuple[I64, I64]]) -> None:
    some = np.flatnonzero(columns.has_value[placed.events])
    if len(some):
        buckets = columns.bucket[placed.events[some]]
        slots = np.concatenate([slots[group[some]] for group, slots in parts])
        state.buckets.add_values(slots, np.tile(buckets, len(parts)))
