"""Frames survive the wire; chunks accepted in any order of redelivery give the same rows and position."""

import random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import frame as frames
from schemas.accept import AcceptRule, Outcome
from schemas.frame import ROWS_ARROW, DedupeHour, FrameHeader, decode_chunk, encode_frame


def rows(count: int, seed: int) -> pa.RecordBatch:
    rng = random.Random(seed)
    values: dict[str, list[Any]] = {
        "customer_id": sorted(rng.randrange(50) for _ in range(count)),
        "dims": [f"d{rng.randrange(9)}" for _ in range(count)],
        "users": [rng.randbytes(rng.choice([0, 4, 40])) for _ in range(count)],
        "value_hist": [rng.randbytes(rng.choice([0, 7])) for _ in range(count)],
        "open": [rng.random() < 0.5 for _ in range(count)],
    }
    for item in ROWS_ARROW:
        values.setdefault(item.name, [rng.randrange(200) for _ in range(count)])
    return pa.RecordBatch.from_pydict(values, schema=ROWS_ARROW)


def header(start: int, end: int, seq: int = 1, writer: str = "w") -> FrameHeader:
    return FrameHeader(
        partition=3,
        from_offset=start,
        to_offset=end,
        writer=writer,
        seq=seq,
        fold_version="v",
        topic_id="t",
        watermark_us=7,
        receive_us=8,
        last_crc=9,
        late=1,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3000), st.integers(0, 2**32), st.lists(st.integers(0, 999), max_size=20), st.integers(0, 300_000)
)
def test_round_trip(count: int, seed: int, duplicates: list[int], ids: int) -> None:
    table = rows(count, seed)
    offsets = np.array(sorted(set(duplicates)), dtype=np.int64) + 1000
    hours = [DedupeHour(5, np.arange(ids, dtype=np.uint64)), DedupeHour(6, np.arange(3, dtype=np.uint64))]
    chunks = [decode_chunk(value) for value in encode_frame(header(1000, 2000), table, hours, offsets)]
    rule = AcceptRule(position=1000)
    outcomes = [rule.feed(i, chunk) for i, chunk in enumerate(chunks)]
    frame = outcomes[-1][1]
    assert frame is not None and rule.position == 2000
    assert frame.rows().equals(table)
    assert frame.duplicates.tolist() == offsets.tolist()
    assert sum(len(hour.ids) for hour in frame.dedupe) == ids + 3
    wanted = table.filter((table.column(0).to_numpy() >= 10) & (table.column(0).to_numpy() < 20))
    some = frame.rows((10, 20))
    mask = (some.column(0).to_numpy() >= 10) & (some.column(0).to_numpy() < 20)
    assert some.filter(pa.array(mask)).equals(wanted)


def test_a_large_frame_is_cut_into_chunks_that_fit() -> None:
    values = encode_frame(header(0, 9), rows(40_000, 1), [], np.empty(0, np.int64))
    assert len(values) > 1
    assert max(map(len, values)) < frames.CHUNK_BYTES_MAX * 1.1
    assert sum(decode_chunk(v).header.rows for v in values) == 40_000


def test_the_offsets_of_many_duplicates_are_spread_over_chunks() -> None:
    duplicates = np.arange(5, 5 + 900_000, dtype=np.int64)
    values = encode_frame(header(0, 1_000_000), rows(3_000, 1), [], duplicates)
    assert max(map(len, values)) < frames.CHUNK_BYTES_MAX * 1.1
    rule = AcceptRule()
    frame = [rule.feed(i, decode_chunk(value))[1] for i, value in enumerate(values)][-1]
    assert frame is not None
    assert np.array_equal(frame.duplicates, duplicates)


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_redelivery_gives_the_same_rows(rng: random.Random) -> None:
    """Frames of many chunks, sent again from any earlier frame on, read by a reader that crashes now and then."""
    bounds = sorted(rng.sample(range(1, 500), 5))
    tables = [rows(rng.randrange(2000), seed) for seed in range(5)]
    with patch.object(frames, "CHUNK_BYTES_MAX", 2048):
        log = [
            encode_frame(header(start, end, seq), tables[seq], [], np.empty(0, np.int64))
            for seq, (start, end) in enumerate(zip([0, *bounds[:-1]], bounds, strict=True))
        ]
    delivered = [chunk for frame in log for chunk in frame]
    for _ in range(rng.randrange(4)):
        delivered += [chunk for frame in log[rng.randrange(len(log)) :] for chunk in frame]
    rule, state, crashes, at = AcceptRule(), {}, 0, 0
    while at < len(delivered):
        outcome, frame = rule.feed(at, decode_chunk(delivered[at]))
        at += 1
        assert outcome is not Outcome.GAP
        if frame is not None:
            assert frame.header.to_offset not in state, "applied twice"
            state[frame.header.to_offset] = frame.rows()
        if rng.random() < 0.1 and crashes < 20:  # what is half read is lost; the position is not
            crashes, at = crashes + 1, rule.resume_offset
            rule = AcceptRule(rule.position, rule.resume_offset)
    assert rule.position == bounds[-1]
    assert sorted(state) == bounds
    assert all(state[end].equals(table) for end, table in zip(bounds, tables, strict=True))


def test_gaps_other_versions_and_other_incarnations_are_refused() -> None:
    chunk = decode_chunk(encode_frame(header(10, 20), rows(3, 1), [], np.empty(0, np.int64))[0])
    assert AcceptRule(position=9).feed(0, chunk) == (Outcome.GAP, None)
    assert AcceptRule(position=20).feed(0, chunk) == (Outcome.STALE, None)
    assert AcceptRule(position=10, fold_version="w").feed(0, chunk) == (Outcome.OTHER_VERSION, None)
    assert AcceptRule(position=10, topic_id="u").feed(0, chunk) == (Outcome.OTHER_INCARNATION, None)
    assert AcceptRule(position=12, fold_version="v", topic_id="t").feed(0, chunk)[0] is Outcome.ACCEPTED
