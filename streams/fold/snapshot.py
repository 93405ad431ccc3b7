"""The bytes of a whole fold, so that a successor need not read every frame since the beginning.

A snapshot is a sequence of sections: kind (4 bytes), length and CRC-32 of the body (u32, little-endian), body. HEAD
comes first and counts the others; ROWS are Arrow IPC streams of live rows as in a frame; IDS are a receive hour and
its sorted message ids. How the bytes are cut into records is the carrier's business.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from headrace.errors import PoisonError
from schemas.frame import ROWS_ARROW
from streams.fold.columns import U64
from streams.fold.dedupe import SeenIds

SECTION_ROWS: Final = 16_384
SECTION_IDS: Final = 131_072
"""A mebibyte of ids."""

_SECTION: Final = struct.Struct("<4sII")
_HOUR: Final = struct.Struct("<q")
_HEAD, _ROWS, _IDS = b"HEAD", b"ROWS", b"IDS "


class SnapshotHead(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the log the state is, and what follows."""

    partition: int
    version: str
    position: int
    watermark_us: int
    receive_us: int
    last_crc: int
    sections: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at `head.position`, which frames already cover. It never changes, whatever the fold does next: its
    bytes may be made later, and in another thread. `rows`: batches of at most SECTION_ROWS."""

    head: SnapshotHead
    rows: tuple[pa.RecordBatch, ...]
    ids: SeenIds

    def sections(self) -> list[bytes]:
        """Its bytes, section by section. Takes 0.2 s a million ids."""
        body = [encode_rows(rows) for rows in self.rows]
        body += [part for hour, ids in self.ids.by_hour() for part in encode_ids(hour, ids)]
        return [encode_head(msgspec.structs.replace(self.head, sections=len(body))), *body]


def encode_rows(rows: pa.RecordBatch) -> bytes:
    """A section of rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROWS_ARROW, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(rows)
    return _section(_ROWS, sink.getvalue().to_pybytes())


def encode_ids(hour: int, ids: U64) -> Iterator[bytes]:
    """Sections of one hour's ids."""
    for start in range(0, len(ids), SECTION_IDS):
        yield _section(_IDS, _HOUR.pack(hour) + ids[start : start + SECTION_IDS].astype("<u8").tobytes())


def encode_head(head: SnapshotHead) -> bytes:
    """The first section."""
    return _section(_HEAD, msgspec.json.encode(head))


@dataclass(frozen=True, slots=True)
class SnapshotParts:
    """A snapshot, read."""

    head: SnapshotHead
    rows: list[pa.RecordBatch]
    ids: list[tuple[int, U64]]


def read_snapshot(chunks: Sequence[bytes]) -> SnapshotParts:
    """Take a snapshot apart. Raises PoisonError when bytes are missing or damaged."""
    sections = list(_sections(b"".join(chunks)))
    if not sections or sections[0][0] != _HEAD:
        raise PoisonError("damaged_snapshot", "a snapshot does not begin with its head")
    head = msgspec.json.decode(sections[0][1], type=SnapshotHead)
    if len(sections) - 1 != head.sections:
        raise PoisonError("damaged_snapshot", f"a snapshot has {len(sections) - 1} of {head.sections} sections")
    rows = [batch for kind, body in sections if kind == _ROWS for batch in pa.ipc.open_stream(body)]
    ids = [
        (_HOUR.unpack_from(body)[0], np.frombuffer(body, "<u8", offset=_HOUR.size))
        for kind, body in sections
        if kind == _IDS
    ]
    return SnapshotParts(head, rows, ids)


def _section(kind: bytes, body: bytes) -> bytes:
    return _SECTION.pack(kind, len(body), zlib.crc32(body)) + body


def _sections(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        if at + _SECTION.size > len(data):
            raise PoisonError("damaged_snapshot", "a snapshot ends within a section")
        kind, length, crc = _SECTION.unpack_from(data, at)
        at += _SECTION.size
        body = data[at : at + length]
        if len(body) != length or zlib.crc32(body) != crc:
            raise PoisonError("damaged_snapshot", f"section {kind!r} of a snapshot does not match its checksum")
        yield kind, body
        at += length
