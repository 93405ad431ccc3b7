"""The fold, one record at a time, in plain Python: slow, and meant to be obviously right.

It defines what streams.fold computes: tests compare every row of the real fold with the rows of this one. It shares
no code with the fold but the numbers in schemas.rollups; sketches are kept exact (sets of register ranks, dicts of
buckets) and encoded by the simplest code that follows the byte layout.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import xxhash

from schemas.rollups import DIMS_SEPARATOR, GRAIN_S, OTHER_DIMS, ROLLUPS

CLOSE_EVERY = 4096
HOUR_US = 3_600_000_000
SECOND_US = 1_000_000


class Key(NamedTuple):
    """A row's key, in the order in which closing rows are added to coarser ones."""

    customer_id: int
    rollup: int
    grain: int
    window_start: int
    dims: str
    generation: int


@dataclass
class Row:
    events: int = 0
    ranks: dict[int, int] = field(default_factory=dict)
    value_e6: int = 0
    values: int = 0
    buckets: dict[int, int] = field(default_factory=dict)
    open: bool = True

    def add(self, other: "Row") -> None:
        self.events += other.events
        self.value_e6 += other.value_e6
        self.values += other.values
        for register, rank in other.ranks.items():
            self.ranks[register] = max(self.ranks.get(register, 0), rank)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count


@dataclass(frozen=True)
class ReferenceRules:
    grace_s: int = 300
    skew_s: int = 300
    bound_s: int = 0
    dedupe_window_h: int = 24
    cardinality_max: int = 1000
    minute_retention_h: int = 48
    hour_retention_d: int = 400


class ReferenceFold:
    """Feed it every record of a partition in offset order; `rows` then holds every row that ever was."""

    def __init__(self, rules: ReferenceRules) -> None:
        self.rules = rules
        self.position = 0
        self.watermark_us = 0
        self.receive_us = 0
        self.late = 0
        self.seen: dict[tuple[int, str], int] = {}
        self.duplicates: list[int] = []
        self.rows: dict[Key, Row] = {}
        self.tuples: dict[tuple[int, int, int, int, int], set[str]] = {}
        self.live: dict[Key, None] = {}

    def record(self, event: Mapping[str, Any], offset: int, receive_us: int) -> None:
        """Fold the record at `offset`; offsets that are left out were not events."""
        self.advance(offset)
        self.receive_us = max(self.receive_us, receive_us)
        timestamp_us = min(event["timestamp_us"], receive_us + self.rules.skew_s * SECOND_US)
        if self._is_duplicate(event):
            self.duplicates.append(offset)
        else:
            self._count(event, timestamp_us, receive_us)
        self.watermark_us = max(self.watermark_us, timestamp_us - self.rules.bound_s * SECOND_US)
        self.advance(offset + 1)

    def advance(self, next_offset: int) -> None:
        """Everything below `next_offset` has been seen; closing happens at multiples of CLOSE_EVERY."""
        if next_offset // CLOSE_EVERY > self.position // CLOSE_EVERY:
            self._close()
        self.position = max(self.position, next_offset)

    def dedupe_ids(self) -> int:
        """Ids that a record received now would be compared with."""
        oldest = self.receive_us // HOUR_US - self.rules.dedupe_window_h
        return sum(hour >= oldest for hour in self.seen.values())

    def _is_duplicate(self, event: Mapping[str, Any]) -> bool:
        hour = self.receive_us // HOUR_US
        identity = (event["customer_id"], event["message_id"])
        if identity in self.seen and self.seen[identity] >= hour - self.rules.dedupe_window_h:
            return True
        self.seen[identity] = hour
        return False

    def _count(self, event: Mapping[str, Any], timestamp_us: int, receive_us: int) -> None:
        grain = self._grain(receive_us - timestamp_us)
        length = GRAIN_S[grain]
        window = timestamp_us // SECOND_US // length * length
        generation = window
        if self._final(window, grain):
            generation = self.watermark_us // SECOND_US // length * length
            self.late += 1
        one = self._one(event)
        for rollup in ROLLUPS:
            dims = DIMS_SEPARATOR.join(event.get(d) or "" for d in rollup.dimensions)
            self._add(Key(event["customer_id"], rollup.code, grain, window, dims, generation), one)

    def _grain(self, age_us: int) -> int:
        if age_us > self.rules.hour_retention_d * 24 * HOUR_US:
            return 2
        return 1 if age_us > self.rules.minute_retention_h * HOUR_US else 0

    def _final(self, start: int, grain: int) -> bool:
        return self.watermark_us >= (start + GRAIN_S[grain] + self.rules.grace_s) * SECOND_US

    def _one(self, event: Mapping[str, Any]) -> Row:
        row = Row(events=1)
        user = event.get("user_id")
        user = event.get("anonymous_id") if user is None else user
        if user is not None:
            digest = xxhash.xxh64_intdigest(user.encode())
            rest = digest >> 12
            row.ranks[digest & 4095] = 1 + 52 - rest.bit_length()
        value = event.get("value_e6")
        if value is not None:
            row.value_e6, row.values = value, 1
            row.buckets[bucket_of(value)] = 1
        return row

    def _add(self, key: Key, row: Row) -> None:
        group = (key.customer_id, key.rollup, key.grain, key.window_start, key.generation)
        tuples = self.tuples.setdefault(group, set())
        if key.dims not in tuples and key.dims != OTHER_DIMS:
            if len(tuples) < self.rules.cardinality_max:
                tuples.add(key.dims)
            else:
                key = key._replace(dims=OTHER_DIMS)
        if key not in self.rows:
            self.rows[key] = Row()
            self.live[key] = None
        assert key in self.live, f"{key} was final"
        self.rows[key].add(row)

    def _close(self) -> None:
        """Add final minutes to hours and final hours to days, generation by generation, sorted by key."""
        for grain in (0, 1):
            length = GRAIN_S[grain + 1]
            for key in sorted(self._final_rows(grain), key=_closing_order):
                del self.live[key]
                self.rows[key].open = False
                coarser = key._replace(
                    grain=grain + 1,
                    window_start=key.window_start // length * length,
                    generation=key.generation // length * length,
                )
                self._add(coarser, self.rows[key])
        for key in self._final_rows(2):
            del self.live[key]

    def _final_rows(self, grain: int) -> list[Key]:
        return [k for k in self.live if k.grain == grain and self._final(k.generation, grain)]

    def table(self) -> dict[Key, tuple[int, bytes, int, int, bytes, bool]]:
        """Every row ever written, as stored: events, users, value_e6, values, value_hist, open."""
        return {key: _stored(row) for key, row in self.rows.items()}


def is_fit(event: Mapping[str, Any]) -> bool:
    """Whether an event may be folded: what the door lets in, said once more in plain numbers."""
    dimensions = [event[name] or "" for rollup in ROLLUPS for name in rollup.dimensions]
    return (
        all(
            946_684_800 * SECOND_US <= event[name] < 4_102_444_800 * SECOND_US
            for name in ("timestamp_us", "received_at_us")
        )
        and abs(event["value_e6"] or 0) <= 10**15
        and all(len(d.encode()) <= 255 and "\x00" not in d and "\x1f" not in d for d in dimensions)
    )


def fold_all(rules: ReferenceRules, records: Iterable[tuple[Mapping[str, Any], int, int]]) -> ReferenceFold:
    """The fold of (event, offset, receive_us) records."""
    fold = ReferenceFold(rules)
    for event, offset, receive_us in records:
        fold.record(event, offset, receive_us)
    return fold


def _stored(row: Row) -> tuple[int, bytes, int, int, bytes, bool]:
    users, hist = encode_ranks(row.ranks), encode_buckets(row.buckets)
    return row.events, users, wrap_int64(row.value_e6), row.values, hist, row.open


def _closing_order(key: Key) -> tuple[int, int, int, int, bytes]:
    return key.generation, key.customer_id, key.rollup, key.window_start, key.dims.encode()


@lru_cache(maxsize=100_000)
def bucket_of(value: int) -> int:
    """The histogram bucket of a value: the smallest i with |value| <= (51/49)**i, to its side of 2048."""
    if value == 0:
        return 2048
    i, over, under = 0, 1, 1
    while abs(value) * under > over:
        i, over, under = i + 1, over * 51, under * 49
    return 2049 + i if value > 0 else 2047 - i


def encode_ranks(ranks: Mapping[int, int]) -> bytes:
    """The HLL's bytes: empty, sparse below 1,024 registers, dense from there."""
    if not ranks:
        return b""
    if len(ranks) >= 1024:
        return b"\x02" + bytes(ranks.get(register, 0) for register in range(4096))
    entries = sorted(register << 6 | rank for register, rank in ranks.items())
    return b"\x01" + b"".join(e.to_bytes(3, "little") for e in entries)


def encode_buckets(buckets: Mapping[int, int]) -> bytes:
    """The histogram's bytes: empty, or sorted (u16 bucket, u32 count)."""
    if not buckets:
        return b""
    return b"\x01" + b"".join(struct.pack("<HI", bucket, buckets[bucket]) for bucket in sorted(buckets))


def wrap_int64(value: int) -> int:
    """Sums wrap as 64-bit integers do; the door bounds values so that they never get there."""
    return (value + 2**63) % 2**64 - 2**63
