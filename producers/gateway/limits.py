"""Bounds on what a request may bring and on what all requests together may hold.

Bodies are bounded as sent while they are read (bodies.py) and inflated while they are inflated; the bytes of all
unanswered requests are counted, and past their bound the next request is refused with 503 instead of growing the
process. Of these bytes one customer's requests hold at most FREE_TIMES what is free: alone two thirds of the bound,
two that flood two fifths each, so that there is always room for one who comes now. A request whose customer is not
known yet, its key being in its body, counts for UNIDENTIFIED, who is held to the same.
"""

import zlib
from typing import Final

import brotli
from backports import zstd

from headrace import metrics
from headrace.errors import OverloadedError
from producers.gateway.json_body import BodyError

INFLATE_STEP_BYTES: Final = 1024 * 1024
"""Inflated bytes by which a body may pass its bound before that is seen. zstd and brotli hold a window besides, of at
most what they inflated so far; inflating waits for nothing, so there is one such window at a time."""
BROTLI_LIMIT_BYTES: Final = INFLATE_STEP_BYTES // 2
"""What brotli is told to stop at; its buffers grow in blocks, so that it gives up to twice as much."""
START_BYTES_MAX: Final = 512 * 1024
"""Kept of the start of a body that is refused as too large, for where more than its refusal is owed (oversize.py)."""
FREE_TIMES: Final = 2
"""A customer's requests may hold so many times what nobody holds; only a single one may hold more."""
UNIDENTIFIED: Final = 0
"""The owner of requests whose customer is not known yet; no customer has this id."""

_GZIP_MAGIC = b"\x1f\x8b"
_PLAIN = ("", "identity")
_GZIP = ("gzip", "x-gzip")


class InflightBytes:
    """Bytes of requests that are read, parsed or waiting for Kafka, by owner. One event loop, so no lock."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0
        self._held_by: dict[int, int] = {}
        metrics.gauge("headrace_ingest_inflight_bytes").set_function(lambda: self._held)

    @property
    def held(self) -> int:
        return self._held

    def check(self, count: int, owner: int | None, held: int) -> None:
        """Raises OverloadedError when a request that holds `held` bytes may not take `count` more: the bound would be
        passed, or the share of its owner, if it has one."""
        if self._held + count > self._bytes_max:
            raise OverloadedError(f"unanswered requests hold {self._held} bytes, at most {self._bytes_max} are held")
        if owner is None:
            return
        all_of_owner = self._held_by.get(owner, 0)
        if all_of_owner > held and all_of_owner + count > FREE_TIMES * (self._bytes_max - self._held - count):
            raise OverloadedError(f"your unanswered requests hold {all_of_owner} bytes, which is your share for now")

    def take(self, count: int, owner: int | None, held: int) -> None:
        """As `check`, and take them."""
        self.check(count, owner, held)
        self._held += count
        if owner is not None and count:
            self._held_by[owner] = self._held_by.get(owner, 0) + count

    @property
    def owners(self) -> int:
        """How many customers hold any."""
        return len(self._held_by)

    @property
    def bytes_max(self) -> int:
        return self._bytes_max

    def give(self, count: int, owner: int | None) -> None:
        """Give back what was taken."""
        self._held -= count
        assert self._held >= 0, self._held
        if owner is not None and count:
            left = self._held_by.pop(owner) - count
            if left:
                self._held_by[owner] = left


class Reservation:
    """What one request holds of `InflightBytes`; `release` gives back all of it, once. `owner` None: no share."""

    __slots__ = ("_inflight", "_owner", "_taken")

    def __init__(self, inflight: InflightBytes, owner: int | None = None) -> None:
        self._inflight = inflight
        self._owner = owner
        self._taken = 0

    def check(self, count: int) -> None:
        """Raises what `grow_to` would, and holds nothing more."""
        if count > self._taken:
            self._refuse_impossible(count)
            self._inflight.check(count - self._taken, self._owner, self._taken)

    def grow_to(self, count: int) -> None:
        """Hold at least `count` bytes. Raises OverloadedError; BodyError (413) for what can never be held."""
        if count > self._taken:
            self._refuse_impossible(count)
            self._inflight.take(count - self._taken, self._owner, self._taken)
            self._taken = count

    @property
    def held(self) -> int:
        return self._taken

    def another(self, owner: int) -> "Reservation":
        """A new one of the same bytes, for `owner`; it holds nothing yet."""
        return Reservation(self._inflight, owner)

    def shrink_to(self, count: int) -> None:
        """Hold at most `count` bytes."""
        if count < self._taken:
            self._inflight.give(self._taken - count, self._owner)
            self._taken = count

    def belongs_to(self, owner: int) -> None:
        """Count it for `owner` from now on. Raises OverloadedError when that one's share is full; it counts for
        nobody then, until it is released."""
        if owner != self._owner:
            self._inflight.give(self._taken, self._owner)
            try:
                self._inflight.take(self._taken, owner, 0)
            except OverloadedError:
                self._inflight.take(self._taken, None, 0)
                self._owner = None
                raise
            self._owner = owner

    def release(self) -> None:
        """Hold nothing any more."""
        self._inflight.give(self._taken, self._owner)
        self._taken = 0

    def _refuse_impossible(self, count: int) -> None:
        if count > self._inflight.bytes_max:
            raise BodyError(
                "body_too_large",
                f"the request needs more than the {self._inflight.bytes_max} bytes that all requests may hold",
                status=413,
            )


def inflate(body: bytes, encoding: str, bytes_max: int, reservation: Reservation) -> bytes:
    """`body` without its compression: by Content-Encoding (gzip, deflate, zstd, br), else by gzip's magic bytes.

    Raises BodyError: 400 for what is not the compression it says, 413 past `bytes_max` (with its start, inflated),
    415 for other encodings.
    """
    try:
        return _inflated(body, encoding, bytes_max, reservation)
    except BodyError as error:
        if error.reason == "body_too_large":
            error.start = inflated_start(body, encoding, START_BYTES_MAX)
        raise


def inflated_start(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """The first `bytes_max` bytes, or fewer, of what `body` inflates to. It need not be whole; as far as it is not
    the compression it says, it is as it is."""
    name = encoding.strip().lower()
    try:
        if name in _GZIP or (name in _PLAIN and body.startswith(_GZIP_MAGIC)):
            return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, bytes_max)
        if name == "deflate":
            return zlib.decompressobj().decompress(body, bytes_max)
        if name == "zstd":
            return zstd.ZstdDecompressor().decompress(body, bytes_max)
        if name == "br":
            start: bytes = brotli.Decompressor().process(body, output_buffer_limit=bytes_max)
            return start[:bytes_max]
    except (zlib.error, zstd.ZstdError, brotli.error):
        pass
    return body[:bytes_max]


def _inflated(body: bytes, encoding: str, bytes_max: int, reservation: Reservation) -> bytes:
    name = encoding.strip().lower()
    if name in _GZIP or (name in _PLAIN and body.startswith(_GZIP_MAGIC)):
        return _inflate(body, (16 + zlib.MAX_WBITS,), bytes_max, reservation)
    if name == "zstd":
        return _inflate_zstd(body, bytes_max, reservation)
    if name == "br":
        return _inflate_brotli(body, bytes_max, reservation)
    if name == "deflate":
        return _inflate(body, (zlib.MAX_WBITS, -zlib.MAX_WBITS), bytes_max, reservation)
    if name in _PLAIN:
        return body
    raise BodyError("unknown_encoding", f"Content-Encoding {name[:40]!r} is not understood, gzip is", status=415)


def _inflate_zstd(body: bytes, bytes_max: int, reservation: Reservation) -> bytes:
    """One or several frames."""
    out: list[bytes] = []
    size, rest = 0, body
    try:
        while rest:
            inflater = zstd.ZstdDecompressor()
            while not inflater.eof:
                piece = inflater.decompress(rest, INFLATE_STEP_BYTES)
                rest = b""
                size += len(piece)
                if size > bytes_max:
                    raise BodyError("body_too_large", f"the body inflates to more than {bytes_max} bytes", status=413)
                reservation.grow_to(len(body) + size)
                out.append(piece)
                if inflater.needs_input and not inflater.eof:
                    raise zstd.ZstdError("it ends early")
            rest = inflater.unused_data
    except zstd.ZstdError as error:
        raise BodyError("malformed_encoding", f"the body cannot be decompressed: {error}") from error
    return b"".join(out)


def _inflate_brotli(body: bytes, bytes_max: int, reservation: Reservation) -> bytes:
    """One stream: brotli knows no others behind it."""
    inflater = brotli.Decompressor()
    out: list[bytes] = []
    size, rest = 0, body
    try:
        while not inflater.is_finished():
            piece = inflater.process(rest, output_buffer_limit=BROTLI_LIMIT_BYTES)
            rest = b""
            size += len(piece)
            if size > bytes_max:
                raise BodyError("body_too_large", f"the body inflates to more than {bytes_max} bytes", status=413)
            reservation.grow_to(len(body) + size)
            out.append(piece)
            if not piece and not inflater.is_finished():
                raise brotli.error("it ends early")
    except brotli.error as error:
        raise BodyError("malformed_encoding", f"the body cannot be decompressed: {error}") from error
    return b"".join(out)


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
