"""The rows of several frames as one table, each key once: what the newest frame says of it."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from schemas.frame import ROWS_ARROW, FrameHeader

KEY: Final = ("customer_id", "rollup", "grain", "window_start", "dims", "generation", "part")
"""What makes a row one row."""


def newest_rows(parts: Sequence[tuple[FrameHeader, pa.RecordBatch]]) -> pl.DataFrame:
    """ROWS_ARROW's columns, `ver` and `part`, of frames in the order of their log.

    A row is absolute, so of two with one key only the later one needs writing.
    """
    table = pa.Table.from_batches([rows for _, rows in parts], schema=ROWS_ARROW)
    counts = [rows.num_rows for _, rows in parts]
    table = table.append_column("ver", _repeated([header.to_offset for header, _ in parts], counts, np.int64))
    table = table.append_column("part", _repeated([header.partition for header, _ in parts], counts, np.int16))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame if len(parts) < 2 else frame.unique(KEY, keep="last", maintain_order=True)


def _repeated(values: Sequence[int], counts: Sequence[int], kind: npt.DTypeLike) -> Any:
    return pa.array(np.repeat(np.array(values, dtype=kind), np.array(counts, dtype=np.int64)))
