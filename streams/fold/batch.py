"""What goes into a fold: batches of decoded events, and their columns once they are folded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.rollups import DIMENSIONS, DIMS_SEPARATOR, ROLLUPS
from schemas.sketches import hist_buckets, hll_entries
from streams.fold.columns import I64, U64, Bools, factorise
from streams.fold.hashing import hash_utf8, mix

COLUMNS: Final = (
    "customer_id",
    "message_id",
    "user_id",
    "anonymous_id",
    "timestamp_us",
    "value_e6",
    *DIMENSIONS,
)
"""All that the fold reads of an event; nothing else is held while a batch waits."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Consecutive records of one partition, decoded.

    `events`: one row an event, with at least COLUMNS. `offsets`: their source offsets, ascending. `receive_us`:
    their broker's receive times, microseconds. `next_offset`: behind the last record of the batch, event or not.
    `last_crc`: CRC-32 of the value of the record before `next_offset`.
    """

    events: pa.RecordBatch
    offsets: I64
    receive_us: I64
    next_offset: int
    last_crc: int

    def narrowed(self) -> "EventBatch":
        """Without the columns that the fold does not read, so that their memory is not held."""
        narrow = self.events.select(list(COLUMNS))
        return EventBatch(narrow, self.offsets, self.receive_us, self.next_offset, self.last_crc)


@dataclass(frozen=True, slots=True)
class Tuples:
    """The dimension tuples of one rollup in some events: `code` of each event into `texts` and their XXH64."""

    code: I64
    texts: Any
    hashes: U64


@dataclass(frozen=True, slots=True)
class Columns:
    """Events as integers, one element an event in each.

    `message`: 64-bit identity of (customer, message id). `user`: HyperLogLog entry, where `has_user`. `bucket`:
    histogram bucket, where `has_value`. `tuples`: by rollup code.
    """

    offsets: I64
    receive_us: I64
    timestamp_us: I64
    customer: I64
    message: U64
    user: U64
    has_user: Bools
    value_e6: I64
    bucket: I64
    has_value: Bools
    tuples: tuple[Tuples, ...]

    def __len__(self) -> int:
        return len(self.offsets)


def read_columns(batches: Sequence[EventBatch]) -> Columns:
    """The columns of some batches, one after the other."""
    table: Any = pa.Table.from_batches([b.events for b in batches]).combine_chunks()
    column = {name: _single(table.column(name)) for name in COLUMNS}
    customer = column["customer_id"].to_numpy(zero_copy_only=False)
    users = column["user_id"]
    if users.null_count:
        users = pc.coalesce(users, column["anonymous_id"])
    value, has_value = _nullable_int(column["value_e6"])
    return Columns(
        offsets=np.concatenate([b.offsets for b in batches]),
        receive_us=np.concatenate([b.receive_us for b in batches]),
        timestamp_us=column["timestamp_us"].to_numpy(zero_copy_only=False),
        customer=customer,
        message=mix(hash_utf8(column["message_id"]) ^ mix(customer.astype(np.uint64))),
        user=hll_entries(hash_utf8(users)),
        has_user=_present(users),
        value_e6=value,
        bucket=hist_buckets(value) if has_value.any() else value,
        has_value=has_value,
        tuples=_tuples(column),
    )


def _single(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _present(column: Any) -> Bools:
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    present: Bools = column.is_valid().to_numpy(zero_copy_only=False)
    return present


def _nullable_int(column: Any) -> tuple[I64, Bools]:
    present = _present(column)
    if column.null_count:
        column = column.fill_null(0)
    values: I64 = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return values, present


def _tuples(column: dict[str, Any]) -> tuple[Tuples, ...]:
    """The tuples of every rollup; a null dimension is the empty text."""
    single: dict[str, tuple[I64, Any]] = {name: _encoded(column[name]) for name in DIMENSIONS}
    count = len(column["customer_id"])
    out = []
    for rollup in ROLLUPS:
        if not rollup.dimensions:
            code, texts = np.zeros(count, np.int64), pa.array([""])
        elif len(rollup.dimensions) == 1:
            code, texts = single[rollup.dimensions[0]]
        else:
            code, texts = _joined([single[d] for d in rollup.dimensions])
        out.append(Tuples(code, texts, hash_utf8(texts)))
    return tuple(out)


def _encoded(column: Any) -> tuple[I64, Any]:
    """(code of each value, distinct texts); null has the code of the empty text."""
    if column.null_count:
        column = column.fill_null("")
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _joined(parts: Sequence[tuple[I64, Any]]) -> tuple[I64, Any]:
    """Codes of the distinct tuples, and their texts joined."""
    combined = parts[0][0]
    for code, texts in parts[1:]:
        combined = combined * len(texts) + code
    codes, distinct = factorise(combined)
    values: list[list[str]] = []
    for _, texts in reversed(parts):
        values.append(texts.take(pa.array(distinct % len(texts))).to_pylist())
        distinct = distinct // len(texts)
    joined = [DIMS_SEPARATOR.join(t) for t in zip(*reversed(values), strict=True)]
    return codes, pa.array(joined, pa.string())
