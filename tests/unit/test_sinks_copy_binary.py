"""Binary COPY: what is written is what a reader of the format gets back."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.copy_binary import HEADER, TRAILER, copy_rows

rows = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1), st.integers(-(2**15), 2**15 - 1), st.booleans(), st.text(), st.binary()
    ),
    max_size=40,
)


def parse(data: bytes) -> list[list[bytes]]:
    """The fields of each row, by the format's description in Postgres' manual."""
    assert data.startswith(HEADER)
    assert data.endswith(TRAILER)
    at, end = len(HEADER), len(data) - len(TRAILER)
    out = []
    while at < end:
        (count,) = struct.unpack_from(">h", data, at)
        at += 2
        fields = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", data, at)
            fields.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        out.append(fields)
    assert at == end
    return out


def encode(items: list[tuple[int, int, bool, str, bytes]]) -> bytes:
    columns: list[Any] = [list(column) for column in zip(*items, strict=True)] if items else [[], [], [], [], []]
    return copy_rows(
        [
            (">i8", np.array(columns[0], dtype=np.int64)),
            (">i2", np.array(columns[1], dtype=np.int16)),
            ("?", np.array(columns[2], dtype=np.bool_)),
        ],
        [pa.array(columns[3], pa.string()), pa.array(columns[4], pa.binary())],
    )


@settings(deadline=None)
@given(rows)
def test_every_row_reads_back(items: list[tuple[int, int, bool, str, bytes]]) -> None:
    expected = [[struct.pack(">q", a), struct.pack(">h", b), bytes([c]), d.encode(), e] for a, b, c, d, e in items]
    assert parse(encode(items)) == expected


@settings(deadline=None)
@given(rows, st.integers(0, 5), st.integers(0, 5))
def test_slices_of_columns_read_back_too(
    items: list[tuple[int, int, bool, str, bytes]], skip: int, drop: int
) -> None:
    texts = pa.array([item[3] for item in items], pa.string())
    part = texts.slice(skip, max(0, len(items) - skip - drop))
    numbers = np.arange(len(part), dtype=np.int64)
    assert [row[1] for row in parse(copy_rows([(">i8", numbers)], [part]))] == [
        value.encode() for value in part.to_pylist()
    ]
