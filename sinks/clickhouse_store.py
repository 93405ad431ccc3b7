"""ClickHouse as a sink sees it: inserts that are acknowledged, and cursors that are written after them.

ClickHouse has no transaction over tables, so a cursor may lag behind the rows it speaks of and never runs ahead:
rows that are inserted again collapse (the tables replace by key), and a cursor with a greater position wins.
Blocking; one thread at a time.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from headrace import clickhouse
from headrace.errors import IncarnationError, UnavailableError
from headrace.settings import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

INSERT_SETTINGS: Final = {
    # one insert may span decades of months; the default refuses more than 100 partitions, for ever (error 252)
    "max_partitions_per_insert_block": 0,
    # acknowledged means on disk, also where the server's profile says otherwise
    "async_insert": 0,
    "input_format_defaults_for_omitted_fields": 1,
}
_CURSOR_COLUMNS: Final = (
    "sink",
    "topic_id",
    "log_partition",
    "next_offset",
    "resume_at",
    "fold_version",
    "watermark_us",
    "receive_us",
    "prev_receive_us",
    "complete_us",
)


@dataclass(frozen=True, slots=True)
class InsertCursor:
    """How far one sink's rows go in one partition. `next_offset` counts in `events`, `resume_at` in `aggregates`."""

    partition: int
    next_offset: int = 0
    resume_at: int = 0
    fold_version: str = ""
    watermark_us: int = 0
    receive_us: int = 0
    prev_receive_us: int = 0
    complete_us: int = 0


class ClickHouseStore:
    """A client, made when needed and again after any failure."""

    def __init__(self, settings: Settings, sink: str) -> None:
        self._settings = settings
        self._sink = sink
        self._client: Client | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the client; the next call makes a new one."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def cursors(self, partitions: Sequence[int], topic_id: str) -> dict[int, InsertCursor]:
        """The cursors of these partitions; at zero where there is none.

        Raises IncarnationError when the store was filled from another topic, UnavailableError.
        """
        with self._failing() as client:
            rows = client.query(
                f"SELECT {', '.join(_CURSOR_COLUMNS[1:])} FROM sink_cursor FINAL WHERE sink = {{sink:String}}",
                parameters={"sink": self._sink},
            ).result_rows
        for row in rows:
            if row[0] != topic_id:
                raise IncarnationError(
                    f"ClickHouse holds {self._sink} of the events topic {row[0] or '(no id)'}, "
                    f"but the broker's has the id {topic_id or '(no id)'}",
                    remedy="point the sink at the broker that ClickHouse was filled from, or use an empty database",
                )
        known = {row[1]: InsertCursor(*row[1:]) for row in rows}
        return {partition: known.get(partition, InsertCursor(partition)) for partition in partitions}

    def insert(self, table: str, rows: pa.Table) -> None:
        """Insert and wait for the acknowledgement. Raises UnavailableError."""
        if rows.num_rows:
            with self._failing() as client:
                client.insert_arrow(table, rows, settings=INSERT_SETTINGS)

    def advance(self, cursors: Sequence[InsertCursor], topic_id: str) -> None:
        """Write cursors. Only after the rows they speak of are acknowledged. Raises UnavailableError."""
        if not cursors:
            return
        rows = [
            (
                self._sink,
                topic_id,
                cursor.partition,
                cursor.next_offset,
                cursor.resume_at,
                cursor.fold_version,
                cursor.watermark_us,
                cursor.receive_us,
                cursor.prev_receive_us,
                cursor.complete_us,
            )
            for cursor in cursors
        ]
        with self._failing() as client:
            client.insert("sink_cursor", rows, column_names=list(_CURSOR_COLUMNS), settings=INSERT_SETTINGS)

    @contextmanager
    def _failing(self) -> Iterator["Client"]:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        with self._lock:
            if self._client is None:
                self._client = clickhouse.connect(self._settings)
            client = self._client
        try:
            yield client
        except (ClickHouseError, OSError) as error:
            reason = str(error).split("\n")[0][:500]
            raise UnavailableError(f"ClickHouse failed: {reason}") from error


def moved(cursor: InsertCursor, changes: Mapping[str, Any]) -> InsertCursor:
    """`cursor` with changes; keeps the receive time that it had before a change of it."""
    if changes.get("receive_us", cursor.receive_us) != cursor.receive_us:
        changes = {**changes, "prev_receive_us": cursor.receive_us}
    return replace(cursor, **changes)


def completed(cursors: Sequence[InsertCursor], event_ends: Mapping[int, int], at_us: int) -> list[InsertCursor]:
    """The cursors that are level with the end of `events` as it was at `at_us`, noted as complete up to then."""
    return [
        replace(cursor, complete_us=at_us)
        for cursor in cursors
        if cursor.partition in event_ends and cursor.next_offset >= event_ends[cursor.partition]
    ]
