"""Logs of events for the fold's properties, and the comparison with the reference fold."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from schemas.rollups import DIMENSIONS
from streams.fold import EventBatch, FoldRules, FrameContent, PartitionFold, rows, state
from tests.reference_fold import Key, ReferenceFold, ReferenceRules, fold_all

Record = tuple[dict[str, Any], int, int]
"""(event, offset, receive_us)"""
Value = tuple[int, bytes, int, int, bytes, bool]

START_US = 1_700_000_000_000_000 // 86_400_000_000 * 86_400_000_000
COLUMNS = pa.schema(
    [
        ("customer_id", pa.int64()),
        ("message_id", pa.string()),
        ("user_id", pa.string()),
        ("anonymous_id", pa.string()),
        ("timestamp_us", pa.int64()),
        ("value_e6", pa.int64()),
        *[(name, pa.string()) for name in DIMENSIONS],
    ]
)


@dataclass(frozen=True)
class Shape:
    """What a random log is like; rates in events a second, spreads in seconds."""

    events: int
    rate: float = 5.0
    customers: int = 3
    ids: int = 400
    names: int = 5
    paths: int = 12
    users: int = 40
    disorder_s: float = 30.0
    late: float = 0.05
    ancient: float = 0.02
    gap: float = 0.02
    offset_step: int = 40


def random_log(seed: int, shape: Shape) -> list[Record]:
    """Records in offset order. Offsets leave holes; receive times now and then step back; ids repeat."""
    rnd = random.Random(seed)
    out: list[Record] = []
    offset, receive_us = 0, START_US + 3_600_000_000
    for _ in range(shape.events):
        offset += 1 if rnd.random() < 0.9 else rnd.randrange(1, shape.offset_step)
        receive_us += int(rnd.expovariate(shape.rate) * 1e6)
        if rnd.random() < shape.gap:
            receive_us += rnd.choice([1, 61, 400, 3_700, 90_000]) * 1_000_000
        seen_us = receive_us - (rnd.randrange(2_000_000) if rnd.random() < 0.1 else 0)
        out.append((_event(rnd, shape, seen_us), offset, seen_us))
    return out


def _event(rnd: random.Random, shape: Shape, receive_us: int) -> dict[str, Any]:
    age_s = rnd.random() * shape.disorder_s
    if rnd.random() < shape.late:
        age_s = rnd.choice([400.0, 4_000.0, 90_000.0]) * rnd.random()
    if rnd.random() < shape.ancient:
        age_s = rnd.choice([3.0, 30.0, 500.0]) * 86_400 * rnd.random()
    if rnd.random() < 0.02:
        age_s = -rnd.random() * 4_000  # a clock ahead of ours
    return {
        "customer_id": 1 + int(rnd.paretovariate(1.1)) % shape.customers,
        "message_id": f"m{rnd.randrange(shape.ids)}",
        "user_id": f"user-{rnd.randrange(shape.users)}" if rnd.random() < 0.7 else None,
        "anonymous_id": f"anon-{rnd.randrange(shape.users)}" if rnd.random() < 0.8 else None,
        "timestamp_us": receive_us - int(age_s * 1e6),
        "value_e6": rnd.choice([0, 1, -5_000_000, rnd.randrange(-(10**9), 10**12)]) if rnd.random() < 0.4 else None,
        "name": f"event {rnd.randrange(shape.names)}",
        "path": rnd.choice([None, "", "(other)", f"/p/{rnd.randrange(shape.paths)}"]),
        "referrer_domain": rnd.choice([None, "a.example", "b.example"]),
        "utm_source": rnd.choice([None, "", "mail", "é"]),
        "country": rnd.choice(["DE", "FR", None]),
        "device": rnd.choice(["phone", "desktop"]),
        "browser": rnd.choice(["Firefox", "Chrome", None]),
        "os": rnd.choice(["Linux", "macOS"]),
    }


@contextmanager
def small_bounds(seed: int) -> Iterator[None]:
    """Now and then, pending batches are folded and dead rows are swept at sizes that a small log reaches."""
    rnd = random.Random(seed)
    with (
        patch.object(state, "PENDING_EVENTS_MAX", rnd.choice([2, 50, 65_536])),
        patch.object(rows, "DEAD_MIN", rnd.choice([0, 30, 4_096])),
        patch.object(rows, "TEXTS_SPARE", rnd.choice([0, 1_024])),
    ):
        yield


def batch_of(records: Sequence[Record], next_offset: int | None = None) -> EventBatch:
    """One batch; it ends behind its last record, or later where the log has a hole."""
    return EventBatch(
        events=pa.RecordBatch.from_pylist([r[0] for r in records], schema=COLUMNS),
        offsets=np.array([r[1] for r in records], dtype=np.int64),
        receive_us=np.array([r[2] for r in records], dtype=np.int64),
        next_offset=records[-1][1] + 1 if next_offset is None else next_offset,
        last_crc=records[-1][1] % 1000,
    )


def random_batches(rnd: random.Random, log: Sequence[Record], events_max: int) -> Iterator[EventBatch]:
    """The log, cut anywhere."""
    start = 0
    while start < len(log):
        end = min(len(log), start + rnd.randint(1, events_max))
        hole_end = log[end][1] if end < len(log) else log[-1][1] + 1
        yield batch_of(log[start:end], rnd.choice([log[end - 1][1] + 1, hole_end]))
        start = end


def rows_of(content: FrameContent) -> dict[Key, Value]:
    """A frame's rows by key."""
    out: dict[Key, Value] = {}
    for r in content.rows.to_pylist():
        key = Key(r["customer_id"], r["rollup"], r["grain"], r["window_start"], r["dims"], r["generation"])
        assert key not in out, f"{key} twice in one frame"
        out[key] = (r["events"], r["users"], r["value_e6"], r["values"], r["value_hist"], r["open"])
    return out


class Store:
    """What a sink holds after some frames."""

    def __init__(self) -> None:
        self.rows: dict[Key, Value] = {}
        self.duplicates: list[int] = []
        self.late = 0
        self.frames: list[FrameContent] = []

    def take(self, content: FrameContent) -> None:
        assert content.from_offset == (self.frames[-1].to_offset if self.frames else 0)
        self.rows.update(rows_of(content))
        self.duplicates += content.duplicates.tolist()
        self.late += content.late
        self.frames.append(content)


def flush(fold: PartitionFold, store: Store) -> None:
    """One frame, acknowledged."""
    content = fold.cut()
    if content is not None:
        store.take(content)
        fold.acknowledge()


def reference_rules(rules: FoldRules) -> ReferenceRules:
    return ReferenceRules(**{name: getattr(rules, name) for name in ReferenceRules.__dataclass_fields__})


def reference_of(rules: FoldRules, log: Sequence[Record], next_offset: int | None = None) -> ReferenceFold:
    fold = fold_all(reference_rules(rules), log)
    if next_offset is not None:
        fold.advance(next_offset)
    return fold


def assert_equal(store: Store, reference: ReferenceFold) -> None:
    """Every row, duplicate and late event as the reference has them."""
    expected = reference.table()
    for key in expected.keys() | store.rows.keys():
        assert store.rows.get(key) == expected.get(key), key
    assert store.duplicates == reference.duplicates
    assert store.late == reference.late
    if store.frames:
        assert store.frames[-1].watermark_us == reference.watermark_us
        assert store.frames[-1].receive_us == reference.receive_us
