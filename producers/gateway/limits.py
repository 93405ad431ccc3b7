"""Bounds on what a request may bring and on what all requests together may hold.

Bodies are bounded as sent while they are read and inflated while they are inflated; the bytes of all unanswered
requests are counted, and past their bound the next request is refused with 503 instead of growing the process.
"""

import asyncio
import zlib
from typing import Final

from headrace import metrics
from headrace.errors import OverloadedError
from headrace.http_server import Receive
from producers.gateway.json_body import BodyError

BODY_TIMEOUT_S: Final = 30.0
"""A body that takes longer ends with 408, which SDKs retry."""
DISCARD_BYTES_MAX: Final = 64 * 1024 * 1024
"""A body over the limit is read to its end up to here, unkept: a client that still writes would not see the 413."""
INFLATE_STEP_BYTES: Final = 1024 * 1024

_GZIP_MAGIC = b"\x1f\x8b"
_PLAIN = ("", "identity")
_GZIP = ("gzip", "x-gzip")


class ClientGoneError(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


class InflightBytes:
    """Bytes of requests that are read, parsed or waiting for Kafka. One event loop, so no lock."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0
        metrics.gauge("headrace_ingest_inflight_bytes").set_function(lambda: self._held)

    @property
    def held(self) -> int:
        return self._held

    def take(self, count: int) -> None:
        """Raises OverloadedError, taking nothing, when the bound would be passed."""
        if self._held + count > self._bytes_max:
            raise OverloadedError(f"unanswered requests hold {self._held} bytes, at most {self._bytes_max} are held")
        self._held += count

    @property
    def bytes_max(self) -> int:
        return self._bytes_max

    def give(self, count: int) -> None:
        """Give back what was taken."""
        self._held -= count
        assert self._held >= 0, self._held


class Reservation:
    """What one request holds of `InflightBytes`; `release` gives back all of it, once."""

    __slots__ = ("_inflight", "_taken")

    def __init__(self, inflight: InflightBytes) -> None:
        self._inflight = inflight
        self._taken = 0

    def grow_to(self, count: int) -> None:
        """Hold at least `count` bytes. Raises OverloadedError; BodyError (413) for what can never be held."""
        if count > self._taken:
            if count > self._inflight.bytes_max:
                raise BodyError(
                    "body_too_large",
                    f"the request needs more than the {self._inflight.bytes_max} bytes that all requests may hold",
                    status=413,
                )
            self._inflight.take(count - self._taken)
            self._taken = count

    def release(self) -> None:
        self._inflight.give(self._taken)
        self._taken = 0


async def read_body(receive: Receive, declared: int | None, bytes_max: int, reservation: Reservation) -> bytes:
    """The body as sent. `declared` is its Content-Length, if any.

    Raises BodyError (413, 408), OverloadedError, ClientGoneError.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            if declared is not None and declared > bytes_max:
                await _discard(receive, 0)
                raise _too_large(bytes_max)
            try:
                if declared:
                    reservation.grow_to(declared)
                return await _collect(receive, bytes_max, reservation)
            except OverloadedError:
                await _discard(receive, 0)
                raise
    except TimeoutError:
        raise BodyError("body_timeout", f"the body did not arrive within {BODY_TIMEOUT_S:g} s", status=408) from None


def inflate(body: bytes, encoding: str, bytes_max: int, reservation: Reservation) -> bytes:
    """`body` without its compression: by Content-Encoding (gzip, deflate), else by gzip's magic bytes.

    Raises BodyError: 400 for what is not the compression it says, 413 past `bytes_max`, 415 for other encodings.
    """
    name = encoding.strip().lower()
    if name in _GZIP or (name in _PLAIN and body.startswith(_GZIP_MAGIC)):
        return _inflate(body, (16 + zlib.MAX_WBITS,), bytes_max, reservation)
    if name == "deflate":
        return _inflate(body, (zlib.MAX_WBITS, -zlib.MAX_WBITS), bytes_max, reservation)
    if name in _PLAIN:
        return body
    raise BodyError("unknown_encoding", f"Content-Encoding {name[:40]!r} is not understood, gzip is", status=415)


def _inflate(body: bytes, windows: tuple[int, ...], bytes_max: int, reservation: Reservation) -> bytes:
    """Try each of zlib's `windows` (deflate comes with zlib's frame and without); concatenated members are one."""
    for position, window in enumerate(windows):
        out: list[bytes] = []
        size, rest = 0, body
        try:
            while rest:
                inflater = zlib.decompressobj(window)
                while not inflater.eof:
                    piece = inflater.decompress(rest, INFLATE_STEP_BYTES)
                    rest = inflater.unconsumed_tail
                    size += len(piece)
                    if size > bytes_max:
                        raise BodyError(
                            "body_too_large", f"the body inflates to more than {bytes_max} bytes", status=413
                        )
                    reservation.grow_to(len(body) + size)
                    out.append(piece)
                    if not rest and not piece and not inflater.eof:
                        raise zlib.error("it ends early")
                rest = inflater.unused_data.lstrip(b"\x00")
            return b"".join(out)
        except zlib.error as error:
            if position + 1 == len(windows):
                raise BodyError("malformed_encoding", f"the body cannot be decompressed: {error}") from error
    raise AssertionError("unreachable: the last window returns or raises")


async def _collect(receive: Receive, bytes_max: int, reservation: Reservation) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > bytes_max:
            if message.get("more_body"):
                await _discard(receive, size)
            raise _too_large(bytes_max)
        reservation.grow_to(size)
        pieces.append(piece)
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _discard(receive: Receive, size: int) -> None:
    """Read on without keeping, to the end or to DISCARD_BYTES_MAX."""
    while size <= DISCARD_BYTES_MAX:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def _too_large(bytes_max: int) -> BodyError:
    return BodyError("body_too_large", f"the body has more than {bytes_max} bytes", status=413)
