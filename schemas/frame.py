"""Frames: how a partition's changed rows travel from the fold to the stores, and back to a recovering fold.

A frame is cut into chunks that fit a Kafka record. Rows are sorted by customer and cut into segments, so that a
reader of one shard decodes only the segments that touch its range. The private state of the fold (new message ids)
and the offsets of duplicates follow the rows, in as many chunks as they need.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.errors import PoisonError
from schemas.registry import FRAME_ID, prefix, schema

CHUNK_BYTES_MAX: Final = 1024 * 1024
"""Rows' bytes of one chunk; well below the topic's `max.message.bytes`."""
SEGMENT_ROWS_MIN: Final = 512
SEGMENTS_MAX: Final = 64
DEDUPE_IDS_PER_CHUNK: Final = 100_000
DUPLICATES_PER_CHUNK: Final = 200_000

ROWS_ARROW: Final = pa.schema(
    [
        pa.field("customer_id", pa.int64(), nullable=False),
        pa.field("rollup", pa.uint8(), nullable=False),
        pa.field("grain", pa.uint8(), nullable=False),
        pa.field("window_start", pa.int64(), nullable=False),
        pa.field("dims", pa.string(), nullable=False),
        pa.field("generation", pa.int64(), nullable=False),
        pa.field("events", pa.int64(), nullable=False),
        pa.field("users", pa.binary(), nullable=False),
        pa.field("value_e6", pa.int64(), nullable=False),
        pa.field("values", pa.int64(), nullable=False),
        pa.field("value_hist", pa.binary(), nullable=False),
        pa.field("open", pa.bool_(), nullable=False),
    ]
)

Ids = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What a chunk says of its frame; equal in all chunks but for `chunk` and `rows`."""

    partition: int
    from_offset: int
    to_offset: int
    writer: str
    seq: int
    chunk: int = 0
    chunks: int = 1
    fold_version: str
    topic_id: str
    watermark_us: int
    receive_us: int
    last_crc: int
    late: int = 0
    dead: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of the customers `customer_min` to `customer_max`, both included, still encoded."""

    customer_min: int
    customer_max: int
    rows: int
    body: bytes


@dataclass(frozen=True, slots=True)
class DedupeHour:
    """Message ids (64-bit hashes) first seen in one monotone receive hour."""

    hour: int
    ids: Ids


@dataclass(frozen=True, slots=True)
class FrameChunk:
    """One decoded chunk; its rows are decoded when asked for."""

    header: FrameHeader
    segments: tuple[Segment, ...]
    duplicates: Offsets
    dedupe: tuple[DedupeHour, ...]

    def rows(self, customers: tuple[int, int] | None = None) -> pa.RecordBatch:
        """Rows of this chunk; with `customers` (half-open), of the segments that touch the range, unfiltered."""
        return _concat([_decode_rows(s.body) for s in self.segments if customers is None or _touches(s, customers)])


@dataclass(frozen=True, slots=True)
class Frame:
    """A complete frame: all its chunks, by index."""

    header: FrameHeader
    chunks: tuple[FrameChunk, ...]

    @property
    def duplicates(self) -> Offsets:
        """Absolute offsets of the events in it that were second arrivals, ascending."""
        return np.concatenate([c.duplicates for c in self.chunks])

    @property
    def dedupe(self) -> Iterator[DedupeHour]:
        """New message ids, by hour; an hour may come more than once."""
        for chunk in self.chunks:
            yield from chunk.dedupe

    @property
    def bytes(self) -> int:
        """Bytes of its encoded rows."""
        return sum(len(s.body) for c in self.chunks for s in c.segments)

    def rows(self, customers: tuple[int, int] | None = None) -> pa.RecordBatch:
        """All rows; see FrameChunk.rows."""
        return _concat([c.rows(customers) for c in self.chunks])


def encode_frame(
    header: FrameHeader, rows: pa.RecordBatch, dedupe: Sequence[DedupeHour], duplicates: Offsets
) -> list[bytes]:
    """The chunks of a frame, in order, in wire format.

    `rows` has the schema ROWS_ARROW and is sorted by customer_id. `duplicates` are absolute offsets in
    [from_offset, to_offset), a span below 2**32. An empty frame has one chunk without rows.
    """
    assert rows.schema.equals(ROWS_ARROW), rows.schema
    hours = [part for hour in dedupe for part in _split_hour(hour)]
    runs = [duplicates[i : i + DUPLICATES_PER_CHUNK] for i in range(0, len(duplicates), DUPLICATES_PER_CHUNK)]
    parts = _pack([*_segments(rows), *hours, *runs])
    out = []
    for i, part in enumerate(parts):
        own = replace(header, chunk=i, chunks=len(parts), rows=sum(s.rows for s in part.segments))
        own_duplicates = np.concatenate(part.duplicates) if part.duplicates else duplicates[:0]
        out.append(_encode_chunk(own, part.segments, part.hours, own_duplicates))
    return out


def decode_chunk(value: bytes | None) -> FrameChunk:
    """Decode one record of `aggregates`. Raises PoisonError when it is no frame chunk of a known schema."""
    head = prefix(FRAME_ID)
    if value is None or not value.startswith(head):
        raise PoisonError("not_a_frame", "a record in aggregates is not a frame of a known schema")
    try:
        decoded: Any = fastavro.schemaless_reader(io.BytesIO(value[len(head) :]), _parsed(), None)
        header = FrameHeader(**{name: decoded[name] for name in FrameHeader.__slots__})
        distances = np.frombuffer(decoded["duplicates"], dtype="<u4").astype(np.int64)
        return FrameChunk(
            header,
            tuple(Segment(s["customer_min"], s["customer_max"], s["rows"], s["body"]) for s in decoded["segments"]),
            distances + header.from_offset,
            tuple(DedupeHour(h["hour"], np.frombuffer(h["ids"], dtype="<u8")) for h in decoded["dedupe"]),
        )
    except Exception as error:  # fastavro raises whatever its parsing trips over; all of it means the same
        raise PoisonError("not_a_frame", f"a record in aggregates cannot be decoded: {error}") from error


def _encode_chunk(
    header: FrameHeader, segments: Sequence[Segment], hours: Sequence[DedupeHour], duplicates: Offsets
) -> bytes:
    record: dict[str, Any] = {name: getattr(header, name) for name in FrameHeader.__slots__}
    record["segments"] = [{name: getattr(s, name) for name in Segment.__slots__} for s in segments]
    record["duplicates"] = (duplicates - header.from_offset).astype("<u4").tobytes()
    record["dedupe"] = [{"hour": h.hour, "ids": h.ids.astype("<u8").tobytes()} for h in hours]
    stream = io.BytesIO()
    stream.write(prefix(FRAME_ID))
    fastavro.schemaless_writer(stream, _parsed(), record)
    return stream.getvalue()


def _segments(rows: pa.RecordBatch) -> Iterator[Segment]:
    count = rows.num_rows
    if not count:
        return
    customers = rows.column(0).to_numpy()
    step = max(SEGMENT_ROWS_MIN, -(-count // SEGMENTS_MAX))
    for start in range(0, count, step):
        yield from _halve(rows.slice(start, min(step, count - start)), customers[start : start + step])


def _halve(rows: pa.RecordBatch, customers: npt.NDArray[np.int64]) -> Iterator[Segment]:
    """One segment, or several when its bytes would not fit a chunk."""
    body = _encode_rows(rows)
    if len(body) > CHUNK_BYTES_MAX and rows.num_rows > 1:
        middle = rows.num_rows // 2
        yield from _halve(rows.slice(0, middle), customers[:middle])
        yield from _halve(rows.slice(middle), customers[middle:])
    else:
        yield Segment(int(customers[0]), int(customers[-1]), rows.num_rows, body)


def _split_hour(hour: DedupeHour) -> Iterator[DedupeHour]:
    for start in range(0, len(hour.ids), DEDUPE_IDS_PER_CHUNK):
        yield DedupeHour(hour.hour, hour.ids[start : start + DEDUPE_IDS_PER_CHUNK])


@dataclass(slots=True)
class _Part:
    """What goes into one chunk."""

    segments: list[Segment] = field(default_factory=list)
    hours: list[DedupeHour] = field(default_factory=list)
    duplicates: list[Offsets] = field(default_factory=list)

    def add(self, item: Segment | DedupeHour | Offsets) -> None:
        if isinstance(item, Segment):
            self.segments.append(item)
        elif isinstance(item, DedupeHour):
            self.hours.append(item)
        else:
            self.duplicates.append(item)


def _pack(items: Sequence[Segment | DedupeHour | Offsets]) -> list[_Part]:
    """Spread items over chunks of at most CHUNK_BYTES_MAX (one item may be larger on its own)."""
    parts, filled = [_Part()], 0
    for item in items:
        size = _size(item)
        if filled and filled + size > CHUNK_BYTES_MAX:
            parts.append(_Part())
            filled = 0
        filled += size
        parts[-1].add(item)
    return parts


def _size(item: Segment | DedupeHour | Offsets) -> int:
    """Bytes of an item in a chunk."""
    if isinstance(item, Segment):
        return len(item.body)
    return item.ids.nbytes if isinstance(item, DedupeHour) else 4 * len(item)


def _encode_rows(rows: pa.RecordBatch) -> bytes:
    """One IPC record batch message, without the schema that would open a stream: every reader knows it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROWS_ARROW, options=_ipc_options()) as writer:
        writer.write_batch(rows)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream[_schema_length() : -_END_OF_STREAM_BYTES]


def _decode_rows(body: bytes) -> pa.RecordBatch:
    return pa.ipc.read_record_batch(pa.py_buffer(body), ROWS_ARROW)


def _touches(segment: Segment, customers: tuple[int, int]) -> bool:
    return segment.customer_min < customers[1] and customers[0] <= segment.customer_max


def _concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    filled = [b for b in batches if b.num_rows]
    if len(filled) == 1:
        return filled[0]
    return pa.concat_batches(filled) if filled else pa.RecordBatch.from_pylist([], schema=ROWS_ARROW)


_END_OF_STREAM_BYTES: Final = 8


@cache
def _schema_length() -> int:
    """Bytes of the schema message at the beginning of every stream."""
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, ROWS_ARROW, options=_ipc_options()).close()
    return int(sink.getvalue().size) - _END_OF_STREAM_BYTES


@cache
def _ipc_options() -> Any:
    return pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


@cache
def _parsed() -> Any:
    return fastavro.parse_schema(schema(FRAME_ID).parsed)
