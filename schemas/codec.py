"""Events between Arrow columns and Kafka records, a batch at a time.

pyruhvro (Rust) does the work; fastavro is the oracle in tests and names the fault of a single bad record. Two
things pyruhvro lets pass are checked here: bytes after the record's end (by comparing the batch's length with the
length that its values must have) and strings that are not UTF-8.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from schemas.registry import EVENT_ID, prefix, schema

_ARROW_TYPES = {"long": pa.int64(), "int": pa.int32(), "string": pa.string()}
_EVENT_PREFIX = prefix(EVENT_ID)


def _arrow_schema(avro: Any) -> pa.Schema:
    fields = []
    for item in avro["fields"]:
        nullable = not isinstance(item["type"], str)
        plain = item["type"][1] if nullable else item["type"]
        fields.append(pa.field(item["name"], _ARROW_TYPES[plain], nullable=nullable))
    return pa.schema(fields)


@cache
def event_arrow() -> pa.Schema:
    """The Arrow schema of an event batch: the fields of event.avsc, in order."""
    return _arrow_schema(schema(EVENT_ID).parsed)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a list of records held.

    `events`: one row a good record, in order. `index`: for each row, which input it was (int64, ascending).
    `poison`: (input, reason) of each record that can never be decoded; reasons are `not_avro`,
    `unknown_schema_id`, `trailing_bytes`, `not_utf8`.
    """

    events: pa.RecordBatch
    index: npt.NDArray[np.int64]
    poison: list[tuple[int, str]]


def encode_events(events: pa.RecordBatch) -> list[bytes]:
    """Records in wire format, one for each row. `events` has exactly the schema `event_arrow()`."""
    if not events.num_rows:
        return []
    arrays = pyruhvro.serialize_record_batch(events, schema(EVENT_ID).text, 1)
    return [_EVENT_PREFIX + body for array in arrays for body in array.to_pylist()]


def decode_events(values: Sequence[bytes | None]) -> Decoded:
    """Decode records in wire format. Never raises for bad input: what cannot be decoded is named in `poison`."""
    poison: list[tuple[int, str]] = []
    head, head_length = _EVENT_PREFIX, len(_EVENT_PREFIX)
    bodies = [value[head_length:] for value in values if value is not None and value.startswith(head)]
    if len(bodies) == len(values):
        index = np.arange(len(values), dtype=np.int64)
    else:
        good = [i for i, value in enumerate(values) if value is not None and value.startswith(head)]
        index = np.array(good, dtype=np.int64)
        known = set(good)
        for i, value in enumerate(values):
            if i not in known:
                framed = value is not None and len(value) >= head_length and value[:1] == b"\x00"
                poison.append((i, "unknown_schema_id" if framed else "not_avro"))
    parts: list[pa.RecordBatch] = []
    bad: list[tuple[int, str]] = []
    _decode_range(bodies, 0, parts, bad)
    if bad:
        poison += [(int(index[i]), reason) for i, reason in bad]
        poison.sort()
        index = np.delete(index, [i for i, _ in bad])
    return Decoded(_one_batch(parts), index, poison)


def _decode_range(bodies: list[bytes], start: int, parts: list[pa.RecordBatch], bad: list[tuple[int, str]]) -> None:
    """Decode all of `bodies`; when that fails, halve until the faulty ones stand alone."""
    if not bodies:
        return
    batch = _decode_exactly(bodies)
    if batch is not None:
        parts.append(batch)
    elif len(bodies) == 1:
        bad.append((start, _fault(bodies[0])))
    else:
        middle = len(bodies) // 2
        _decode_range(bodies[:middle], start, parts, bad)
        _decode_range(bodies[middle:], start + middle, parts, bad)


def _decode_exactly(bodies: list[bytes]) -> pa.RecordBatch | None:
    try:
        batch: pa.RecordBatch = pyruhvro.deserialize_array_threaded(bodies, schema(EVENT_ID).text, 1)[0]
    except ValueError:
        return None
    if batch.num_rows != len(bodies) or _encoded_length(batch) != sum(map(len, bodies)):
        return None
    try:
        for column in batch.columns:
            if pa.types.is_string(column.type):
                column.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return batch


def _encoded_length(batch: pa.RecordBatch) -> int:
    """Bytes that the batch's rows take in Avro, prefixes not counted."""
    total = 0
    for item, column in zip(batch.schema, batch.columns, strict=True):
        total += len(column) if item.nullable else 0
        present = column.drop_null() if column.null_count else column
        if pa.types.is_string(item.type):
            lengths = pc.binary_length(present).to_numpy(zero_copy_only=False).astype(np.int64)
            total += int(lengths.sum()) + _varint_length(lengths << 1)
        else:
            numbers = present.to_numpy(zero_copy_only=False).astype(np.int64)
            total += _varint_length((numbers << 1) ^ (numbers >> 63))
    return total


def _varint_length(zigzag: npt.NDArray[np.int64]) -> int:
    """Bytes of all values as base-128 varints."""
    if not len(zigzag):
        return 0
    values = zigzag.view(np.uint64)
    greatest, total, bound = int(values.max()), len(values), 1 << 7
    while bound <= greatest:
        total += int(np.count_nonzero(values >= np.uint64(bound)))
        bound <<= 7
    return total


def _one_batch(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    if not parts:
        return _empty()
    if len(parts) == 1:
        return parts[0]
    return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=event_arrow())


@cache
def _parsed() -> Any:
    return fastavro.parse_schema(json.loads(schema(EVENT_ID).text))


def _fault(body: bytes) -> str:
    """Why a single record's body is no event."""
    stream = io.BytesIO(body)
    try:
        fastavro.schemaless_reader(stream, _parsed(), None)
    except UnicodeDecodeError:
        return "not_utf8"
    except Exception:  # fastavro raises whatever its parsing trips over; all of it means the same
        return "not_avro"
    return "trailing_bytes" if stream.tell() != len(body) else "not_avro"
