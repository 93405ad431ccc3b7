"""Request bodies as streams: chunked or counted, compressed or not, in pieces of bounded size.

Nothing is held whole: a body is read, inflated and handed on piece by piece, and both its sizes are bounded.
Knows gzip, deflate, lz4 (frames) and zstd, each also as several members in a row, as clients send them. Forms
(multipart/form-data, how clients send many parameters) are the exception: they are small and read whole.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import lz4.frame
from backports import zstd

PIECE_BYTES = 1 << 20
SENT_BYTES_MAX = 1 << 30
INFLATED_BYTES_MAX = 4 << 30
CHUNK_LINE_BYTES_MAX = 1024
FORM_BYTES_MAX = 16 << 20
FORM_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
FIELD_NAME = re.compile(rb'name="([^"]*)"', re.IGNORECASE)


class BadBodyError(Exception):
    """The body is cut short, malformed, too large, or of an unknown encoding. `status` is the HTTP answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Inflater(Protocol):
    """What gzip, lz4 and zstd decompressors have in common."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def unused_data(self) -> bytes | None:
        """What followed the member's end."""

    @property
    def needs_input(self) -> bool:
        """Whether all that can be made of the input so far has been handed out."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most `max_length` bytes more."""


class ZlibInflater:
    """zlib's decompressor in the shape of the others; gzip or zlib by its header."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=47)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max(0, max_length))


INFLATERS: dict[str, Callable[[], Inflater]] = {
    "gzip": ZlibInflater,
    "deflate": ZlibInflater,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
}


def counted(source: BinaryIO, length: int) -> Iterator[bytes]:
    """A body of `length` bytes."""
    if length > SENT_BYTES_MAX:
        raise BadBodyError(f"body of {length} bytes exceeds {SENT_BYTES_MAX}", 413)
    while length > 0:
        piece = source.read(min(length, PIECE_BYTES))
        if not piece:
            raise BadBodyError(f"body ended {length} bytes early")
        length -= len(piece)
        yield piece


def chunked(source: BinaryIO) -> Iterator[bytes]:
    """A body in HTTP/1.1 chunks; extensions and trailers are read and ignored."""
    total = 0
    while size := chunk_size(source.readline(CHUNK_LINE_BYTES_MAX)):
        total += size
        if total > SENT_BYTES_MAX:
            raise BadBodyError(f"body exceeds {SENT_BYTES_MAX} bytes", 413)
        yield from counted(source, size)
        if source.readline(CHUNK_LINE_BYTES_MAX).strip():
            raise BadBodyError("a chunk does not end where its size says")
    while source.readline(CHUNK_LINE_BYTES_MAX).strip():
        pass


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line."""
    digits = line.split(b";", 1)[0].strip()
    if not line.endswith(b"\n") or not digits or not all(digit in b"0123456789abcdefABCDEF" for digit in digits):
        raise BadBodyError(f"malformed chunk size {line[:32]!r}")
    return int(digits, 16)


def inflated(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The decompressed body in pieces of at most PIECE_BYTES; `encoding` as in Content-Encoding."""
    if encoding in ("", "identity"):
        yield from pieces
        return
    if encoding not in INFLATERS:
        raise BadBodyError(f"unknown Content-Encoding {encoding!r}; known: {', '.join(INFLATERS)}", 415)
    make, total = INFLATERS[encoding], 0
    inflater = make()
    fresh = True  # nothing of the present member has been read
    for piece in pieces:
        data: bytes = piece
        while True:
            try:
                out = inflater.decompress(data, PIECE_BYTES)
            except (zlib.error, zstd.ZstdError, RuntimeError, EOFError) as error:
                raise BadBodyError(f"body is not valid {encoding}: {error}") from error
            fresh = fresh and not data
            total += len(out)
            if total > INFLATED_BYTES_MAX:
                raise BadBodyError(f"body inflates to more than {INFLATED_BYTES_MAX} bytes", 413)
            if out:
                yield out
            if inflater.eof:
                data = inflater.unused_data or b""
                inflater, fresh = make(), True
                if not data:
                    break
            elif inflater.needs_input:
                break
            else:
                data = b""
    if not fresh:
        raise BadBodyError(f"{encoding} body is cut short")


def form_fields(pieces: Iterator[bytes], content_type: str) -> dict[str, str]:
    """The fields of a multipart/form-data body. Files (external tables) are refused. Raises BadBodyError."""
    boundary = FORM_BOUNDARY.search(content_type)
    if not boundary:
        raise BadBodyError("a form without a boundary")
    body = b""
    for piece in pieces:
        body += piece
        if len(body) > FORM_BYTES_MAX:
            raise BadBodyError(f"form exceeds {FORM_BYTES_MAX} bytes", 413)
    delimiter = b"\r\n--" + boundary[1].encode()
    first, *parts = (b"\r\n" + body).split(delimiter)
    if first or not parts or not parts[-1].startswith(b"--"):
        raise BadBodyError("the form is cut short")
    fields: dict[str, str] = {}
    for part in parts[:-1]:
        head, separator, value = part.partition(b"\r\n\r\n")
        name = FIELD_NAME.search(head)
        if not separator or not name:
            raise BadBodyError("a field of the form has no name")
        if b"filename=" in head.lower():
            raise BadBodyError("files in forms (external tables) are not served", 501)
        fields[name[1].decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    return fields
