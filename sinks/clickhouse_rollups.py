"""Rollup rows in ClickHouse: the same rows as in the Postgres shards. A `lane.FrameStore`.

A row replaces those of its key with a smaller `ver`, so a frame that is inserted again changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from headrace.settings import Settings
from headrace.shards.map import INT8_END, INT8_MIN
from schemas.frame import Frame
from sinks.clickhouse_store import ClickHouseStore, InsertCursor, completed, moved
from sinks.cursors import Applied, Cursor
from sinks.versioned_rows import newest_rows

TABLE: Final = "rollup_rows"
SINK: Final = "rollups"
INTERVAL_S: Final = 2.0
"""Inserts start no closer together: each makes a part in every month it touches. Nobody watches these rows, answers
come from the shards."""


class RollupStore:
    """Inserts frames' rows, and then the cursors of their partitions."""

    name = "clickhouse"
    part = SINK

    def __init__(self, settings: Settings) -> None:
        self._store = ClickHouseStore(settings, SINK)
        self._cursors: dict[int, InsertCursor] = {}
        self._topic_id = ""

    def close(self) -> None:
        """Let go of the client; the next call makes a new one."""
        self._store.close()

    def cursors(self, partitions: Sequence[int], topic_id: str) -> list[Cursor]:
        """One range for each partition, which covers all customers. Raises as ClickHouseStore.cursors."""
        self._topic_id = topic_id
        self._cursors = self._store.cursors(partitions, topic_id)
        return [
            Cursor(
                partition,
                0,
                INT8_MIN,
                INT8_END,
                topic_id,
                cursor.next_offset,
                cursor.resume_at,
                cursor.fold_version,
                False,
                max(cursor.receive_us, cursor.complete_us),
            )
            for partition, cursor in self._cursors.items()
        ]

    def apply(self, frames: Sequence[Frame], resume_at: Mapping[int, int]) -> Applied:
        """Insert the rows of accepted frames. Raises UnavailableError; may be repeated."""
        rows = frame_rows(frames)
        self._store.insert(TABLE, rows)
        cursors = dict(self._cursors)
        for frame in frames:
            header = frame.header
            cursors[header.partition] = moved(
                cursors[header.partition],
                {
                    "next_offset": header.to_offset,
                    "resume_at": resume_at[header.partition],
                    "fold_version": header.fold_version,
                    "watermark_us": header.watermark_us,
                    "receive_us": header.receive_us,
                },
            )
        touched = {frame.header.partition for frame in frames}
        self._store.advance([cursors[partition] for partition in sorted(touched)], self._topic_id)
        self._cursors = cursors
        receive_us = max((frame.header.receive_us for frame in frames), default=0)
        return Applied(rows.num_rows, 0, {}, receive_us, behind=False)

    def complete(self, event_ends: Mapping[int, int], at_us: int) -> None:
        """Note that cursors at or past these ends of `events` hold all that there was at `at_us`.

        Raises UnavailableError.
        """
        level = completed(list(self._cursors.values()), event_ends, at_us)
        self._store.advance(level, self._topic_id)
        self._cursors |= {cursor.partition: cursor for cursor in level}


def frame_rows(frames: Sequence[Frame]) -> pa.Table:
    """The newest row of each key in `frames`, in the columns of the table."""
    newest = newest_rows([(frame.header, frame.rows()) for frame in frames])
    return newest.rename({"values": "value_count"}).to_arrow()
