"""Rollup rows as the bytes of `COPY … WITH (FORMAT binary)`, built from columns, without a loop over rows.

Layout (Postgres manual, "COPY", Binary Format): a header, then for each row a 16-bit field count and for each field a
32-bit length and its bytes, all big-endian, and a trailer. Fields of fixed width come first, so that they are one
constant-width block a row; fields of varying width follow.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def copy_rows(fixed: Sequence[tuple[str, npt.NDArray[Any]]], varying: Sequence[pa.Array]) -> bytes:
    """The rows' bytes, header and trailer included.

    `fixed`: (big-endian numpy type such as ">i8", values), one value a row. `varying`: pa.string or pa.binary arrays
    without nulls, one value a row. In the table or column list the fixed ones come first.
    """
    count = len(fixed[0][1])
    block = _fixed_block(fixed, len(fixed) + len(varying), count)
    spans = [_span(array) for array in varying]
    lengths = block.shape[1] + sum((4 + length for _, _, length in spans), np.zeros(count, dtype=np.int64))
    ends = np.cumsum(lengths, dtype=np.int64)
    out = np.empty(int(ends[-1]) if count else 0, dtype=np.uint8)
    at = ends - lengths
    _scatter_rows(out, at, block)
    at = at + block.shape[1]
    for data, starts, length in spans:
        _scatter_rows(out, at, np.ascontiguousarray(length.astype(">i4")).view(np.uint8).reshape(count, 4))
        at = at + 4
        _scatter_spans(out, at, data, starts, length)
        at = at + length
    return b"".join((HEADER, out.tobytes(), TRAILER))


def _fixed_block(fixed: Sequence[tuple[str, npt.NDArray[Any]]], fields: int, count: int) -> Bytes:
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for index, (kind, _) in enumerate(fixed):
        layout += [(f"length{index}", ">i4"), (f"value{index}", kind)]
    block = np.empty(count, dtype=layout)
    block["fields"] = fields
    for index, (kind, values) in enumerate(fixed):
        block[f"length{index}"] = np.dtype(kind).itemsize
        block[f"value{index}"] = values
    return block.view(np.uint8).reshape(count, block.dtype.itemsize)


def _span(array: pa.Array) -> tuple[Bytes, Integers, Integers]:
    """Data, and where in it each value starts and how long it is."""
    assert array.null_count == 0
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    wide = offsets.astype(np.int64)
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer is not None else np.empty(0, dtype=np.uint8)
    return data, wide[:-1], np.diff(wide)


def _scatter_rows(out: Bytes, at: Integers, block: Bytes) -> None:
    """Write row i of `block` at `at[i]`."""
    for column in range(block.shape[1]):
        out[at + column] = block[:, column]


def _scatter_spans(out: Bytes, at: Integers, data: Bytes, starts: Integers, lengths: Integers) -> None:
    """Write `data[starts[i] : starts[i] + lengths[i]]` at `at[i]`."""
    total = int(lengths.sum())
    if not total:
        return
    first = np.cumsum(lengths) - lengths
    within = np.arange(total, dtype=np.int64) - np.repeat(first, lengths)
    out[np.repeat(at, lengths) + within] = data[np.repeat(starts, lengths) + within]
