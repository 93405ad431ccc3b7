"""Which raw events may be inserted: covered ones, each once, from any cursor that was ever stored."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.accept import AcceptRule
from schemas.frame import FrameHeader, decode_chunk, encode_frame
from sinks.clickhouse_events import EventRecord, EventsPartition
from sinks.clickhouse_store import InsertCursor
from sinks.consumer import FrameRecord
from tests.frame_log import arrow_rows

EVENTS = 60


def frame_records(ends: list[int], duplicates: set[int]) -> list[FrameRecord]:
    """One frame up to each of `ends`, each naming its duplicates."""
    out, start = [], 0
    for number, end in enumerate(ends):
        header = FrameHeader(
            partition=0,
            from_offset=start,
            to_offset=end,
            writer="w" * 32,
            seq=number,
            fold_version="v",
            topic_id="t",
            watermark_us=end,
            receive_us=end,
            last_crc=0,
        )
        named = np.array(sorted(d for d in duplicates if start <= d < end), dtype=np.int64)
        value = encode_frame(header, arrow_rows([]), [], named)[0]
        out.append(FrameRecord(0, number, decode_chunk(value), len(value)))
        start = end
    return out


def opened(cursor: InsertCursor) -> EventsPartition:
    return EventsPartition(cursor, AcceptRule(cursor.next_offset, cursor.resume_at, topic_id="t"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_each_covered_event_is_taken_once_through_restarts(data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, EVENTS), min_size=1, max_size=8)))
    duplicates = data.draw(st.sets(st.integers(0, EVENTS - 1), max_size=10))
    holes = data.draw(st.sets(st.integers(0, EVENTS - 1), max_size=5))
    log = [EventRecord(offset, b"x", None) for offset in range(EVENTS) if offset not in holes]
    frames = frame_records(ends, duplicates)
    part = opened(InsertCursor(0))
    stored: list[InsertCursor] = [InsertCursor(0)]
    taken: set[int] = set()
    at: dict[str, int] = {"events": 0, "frames": 0}
    for _ in range(200):
        action = data.draw(st.sampled_from(["event", "frame", "take", "restart"]))
        if action == "event" and at["events"] < len(log):
            part.add_record(log[at["events"]])
            at["events"] += 1
        elif action == "frame" and at["frames"] < len(frames):
            part.add_frame_record(frames[at["frames"]])
            at["frames"] += 1
        elif action == "take":
            piece = part.take(data.draw(st.integers(1, 20)))
            if piece is not None:
                take_all(piece, taken, stored[-1].next_offset, duplicates)
                stored.append(piece.cursor)
        elif action == "restart":
            part = opened(stored[-1])
            at["events"] = sum(record.offset < stored[-1].next_offset for record in log)
            at["frames"] = stored[-1].resume_at
    for record in log[at["events"] :]:
        part.add_record(record)
    for item in frames[at["frames"] :]:
        part.add_frame_record(item)
    while (piece := part.take(7)) is not None:
        take_all(piece, taken, stored[-1].next_offset, duplicates)
        stored.append(piece.cursor)
    seen_to = log[-1].offset + 1 if log else 0
    assert taken == {offset for offset in range(min(ends[-1], seen_to)) if offset not in holes}
    assert part.buffered_bytes == sum(record.offset >= min(ends[-1], seen_to) for record in log)


def take_all(piece: Any, taken: set[int], start: int, duplicates: set[int]) -> None:
    offsets = [record.offset for record in piece.records]
    end = piece.cursor.next_offset
    assert not taken & set(offsets)
    assert all(start <= offset < end for offset in offsets)
    assert {d for d in piece.duplicates.tolist() if start <= d < end} == {d for d in duplicates if start <= d < end}
    taken.update(offsets)


def test_nothing_is_taken_that_no_frame_covers() -> None:
    part = opened(InsertCursor(0))
    for offset in range(10):
        part.add_record(EventRecord(offset, b"x", None))
    assert part.take(100) is None
    part.add_frame_record(frame_records([4], set())[0])
    piece = part.take(100)
    assert piece is not None
    assert [record.offset for record in piece.records] == [0, 1, 2, 3]
    assert piece.cursor.next_offset == 4
    assert part.take(100) is None
