"""What comes out of a fold: the rows that changed, and the private state that a successor needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.frame import ROWS_ARROW, DedupeHour
from schemas.sketches import decode_hists, decode_hlls, encode_hists, encode_hlls
from streams.fold.columns import I64, U8
from streams.fold.counting import RowState
from streams.fold.hashing import hash_utf8
from streams.fold.rows import Candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameContent:
    """The effect of the source offsets [from_offset, to_offset).

    `rows` (ROWS_ARROW, sorted by customer) are absolute values as of `to_offset`. `dedupe`: message ids seen for
    the first time. `duplicates`: offsets of second arrivals, ascending. `late`: events that went to a late
    generation. `watermark_us` and `receive_us` are as of `to_offset`; `last_crc` is of record to_offset - 1.
    """

    from_offset: int
    to_offset: int
    rows: pa.RecordBatch
    dedupe: Sequence[DedupeHour]
    duplicates: I64
    late: int
    watermark_us: int
    receive_us: int
    last_crc: int


def read_rows(state: RowState, slots: I64) -> pa.RecordBatch:
    """These rows as they are now, sorted by customer."""
    table = state.table
    slots = slots[np.argsort(table.customer[slots], kind="stable")]
    owner, entries = state.registers.of(slots)
    users = encode_hlls(owner, entries, len(slots))
    owner, buckets, counts = state.buckets.of(slots)
    hists = encode_hists(owner, buckets, counts, len(slots))
    columns = [
        pa.array(table.customer[slots]),
        pa.array(table.rollup[slots]),
        pa.array(table.grain[slots]),
        pa.array(table.window[slots]),
        table.texts.take(table.text[slots]),
        pa.array(table.generation[slots]),
        pa.array(table.events[slots]),
        _binary(*users),
        pa.array(table.value_e6[slots]),
        pa.array(table.values[slots]),
        _binary(*hists),
        pa.array(table.open[slots]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS_ARROW)


def write_rows(state: RowState, rows: pa.RecordBatch) -> None:
    """Take rows back whole; those that are final already are forgotten. Keys are distinct."""
    table = state.table
    wanted = _candidates(rows)
    is_open = _ints(rows, "open").astype(np.bool_)
    gone = table.find(wanted.take(np.flatnonzero(~is_open)))
    table.kill(gone[gone >= 0])
    if not is_open.any():
        return
    rows = rows.filter(pa.array(is_open))
    slots = table.replace(wanted.take(np.flatnonzero(is_open)))
    table.events[slots] = _ints(rows, "events")
    table.value_e6[slots] = _ints(rows, "value_e6")
    table.values[slots] = _ints(rows, "values")
    owner, entries = decode_hlls(*_bytes(rows, "users"))
    state.registers.add(slots[owner], entries)
    owner, buckets, counts = decode_hists(*_bytes(rows, "value_hist"))
    state.buckets.add_counts(slots[owner], buckets, counts)


def _candidates(rows: pa.RecordBatch) -> Candidates:
    encoded = rows.column("dims").dictionary_encode()
    texts, code = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
    return Candidates(
        customer=_ints(rows, "customer_id"),
        rollup=_ints(rows, "rollup"),
        grain=_ints(rows, "grain"),
        window=_ints(rows, "window_start"),
        generation=_ints(rows, "generation"),
        text_hash=hash_utf8(texts)[code],
        texts=texts,
        text=code,
    )


def _ints(rows: pa.RecordBatch, name: str) -> I64:
    values: Any = rows.column(name).to_numpy(zero_copy_only=False)
    ints: I64 = values.astype(np.int64)
    return ints


def _bytes(rows: pa.RecordBatch, name: str) -> tuple[U8, I64]:
    """Data and offsets of a binary column."""
    column: Any = rows.column(name)
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4).astype(np.int64)
    return np.frombuffer(data or b"", np.uint8), places


def _binary(data: U8, offsets: I64) -> Any:
    assert offsets[-1] < 2**31, "a frame's sketches fit Arrow's 32-bit offsets"
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
