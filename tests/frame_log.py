"""A log of events so simple that its fold fits on a page, and frames of it by as many writers as a test wants.

Event `i` of a partition adds `values[i]` to one row. So the state at any position is a plain sum over a prefix, a
frame over any span is what changed in it, and a store is right when its rows equal the sums up to its cursor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from headrace import kafka
from headrace.settings import Settings
from schemas.frame import ROWS_ARROW, FrameHeader, encode_frame
from schemas.topics import Topics

MINUTE_S = 60
FOLD_VERSION = "fold-1"

Row = tuple[int, int, int, int, str, int, int, int, int, int, bytes, bytes, bool]
"""customer, rollup, grain, window_start, dims, generation, part, events, value_e6, values, users, hist, open."""


@dataclass
class PartitionLog:
    """`size` events of one partition, over `customers`, drawn from `seed`."""

    partition: int
    customers: Sequence[int]
    size: int
    seed: int
    start_s: int = 1_767_225_600  # 2026-01-01
    topic_id: str = ""
    rows_per_customer: int = 40
    _customer: Any = field(init=False)
    _row: Any = field(init=False)
    _value: Any = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng((self.seed, self.partition))
        self._customer = rng.choice(np.array(self.customers, dtype=np.int64), self.size)
        self._row = rng.integers(0, self.rows_per_customer, self.size)
        self._value = rng.integers(-1000, 1000, self.size)

    def rows(self, changed_from: int, position: int) -> list[Row]:
        """The rows that events [changed_from, position) touched, as they are at `position`; sorted."""
        touched = set(
            zip(
                self._customer[changed_from:position].tolist(),
                self._row[changed_from:position].tolist(),
                strict=True,
            )
        )
        sums: dict[tuple[int, int], list[int]] = {}
        for customer, row, value in zip(
            self._customer[:position].tolist(),
            self._row[:position].tolist(),
            self._value[:position].tolist(),
            strict=True,
        ):
            if (customer, row) in touched:
                entry = sums.setdefault((customer, row), [0, 0])
                entry[0] += 1
                entry[1] += value
        return sorted(self._as_row(customer, row, *entry) for (customer, row), entry in sums.items())

    def frame(self, start: int, end: int, writer: str, seq: int, fold_version: str = FOLD_VERSION) -> list[bytes]:
        """The chunks of the frame [start, end)."""
        header = FrameHeader(
            partition=self.partition,
            from_offset=start,
            to_offset=end,
            writer=writer,
            seq=seq,
            fold_version=fold_version,
            topic_id=self.topic_id,
            watermark_us=end * 1000,
            receive_us=end * 1000,
            last_crc=0,
        )
        return encode_frame(header, arrow_rows(self.rows(start, end)), [], np.empty(0, dtype=np.int64))

    def _as_row(self, customer: int, row: int, events: int, value: int) -> Row:
        grain = row % 3
        window = (self.start_s + row * 7 * MINUTE_S) // (60, 3600, 86400)[grain] * (60, 3600, 86400)[grain]
        users = bytes([1, row % 251, events % 256]) * (row % 5)
        return (
            customer,
            row % 6,
            grain,
            window,
            f"d{row}",
            window,
            self.partition,
            events,
            value,
            events,
            users,
            users[:3],
            events < 40,
        )


def arrow_rows(rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows in the schema of a frame."""
    order = (0, 1, 2, 3, 4, 5, 7, 10, 8, 9, 11, 12)
    columns = [pa.array([row[i] for row in rows], item.type) for i, item in zip(order, ROWS_ARROW, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS_ARROW)


class FrameTopic:
    """Writes to `aggregates`."""

    def __init__(self, settings: Settings) -> None:
        self._topic = Topics(settings.topic_prefix).aggregates
        self._producer = kafka.producer(settings)

    def write(self, partition: int, chunks: Sequence[bytes]) -> None:
        """Append records in order."""
        for chunk in chunks:
            self._producer.produce(self._topic, chunk, partition=partition)
            self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all is acknowledged."""
        assert self._producer.flush(20) == 0


def write_in_frames(
    topic: FrameTopic, log: PartitionLog, step: int, *, begin: int = 0, end: int | None = None, writer: str = ""
) -> None:
    """The log from `begin` to `end` (default: all of it), in frames of `step` events."""
    end = log.size if end is None else end
    for seq, start in enumerate(range(begin, end, step), 1):
        topic.write(log.partition, log.frame(start, min(start + step, end), writer or f"{log.partition:032x}", seq))


def stored_rows(dsn: str) -> list[Row]:
    """What a shard holds, sorted."""
    with psycopg.connect(dsn) as connection:
        return sorted(
            connection.execute(
                """
                SELECT customer_id, rollup, grain, window_start, dims, generation, part, events, value_e6,
                    value_count, users, value_hist, open FROM rollup_rows
                """
            ).fetchall()
        )


def applied_to(dsn: str) -> dict[int, set[int]]:
    """The positions of a shard's cursors, by partition."""
    out: dict[int, set[int]] = {}
    with psycopg.connect(dsn) as connection:
        for partition, position in connection.execute("SELECT partition, applied_to FROM range_cursor"):
            out.setdefault(partition, set()).add(position)
    return out
