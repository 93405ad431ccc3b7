"""Bytes under way are bounded and always given back; bodies inflate within their bound or are refused by name."""

import asyncio
import gzip
import random
import zlib
from collections.abc import Callable

import brotli
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import OverloadedError
from producers.gateway.bodies import BODY_TIMEOUT_S, Incoming, read_body
from producers.gateway.deadlines import Deadlines
from producers.gateway.json_body import BodyError
from producers.gateway.limits import (
    BROTLI_LIMIT_BYTES,
    INFLATE_STEP_BYTES,
    START_BYTES_MAX,
    InflightBytes,
    Reservation,
    inflate,
    inflated_start,
)

MANY = 10**9


def inflated(body: bytes, encoding: str = "", bytes_max: int = 10**6) -> bytes:
    return inflate(body, encoding, bytes_max, Reservation(InflightBytes(MANY)))


def refusal(body: bytes, encoding: str = "", bytes_max: int = 10**6) -> tuple[int, str]:
    with pytest.raises(BodyError) as caught:
        inflated(body, encoding, bytes_max)
    return caught.value.status, caught.value.reason


@given(st.binary(max_size=2000), st.integers(1, 5))
@settings(deadline=None)
def test_what_was_compressed_comes_back(body: bytes, members: int) -> None:
    assert inflated(gzip.compress(body), "gzip") == body
    assert inflated(gzip.compress(body)) == body
    assert inflated(gzip.compress(body) * members, " GZIP ") == body * members
    assert inflated(zlib.compress(body), "deflate") == body
    assert inflated(brotli.compress(body, quality=members), " Br") == body
    raw = zlib.compressobj(wbits=-15)
    assert inflated(raw.compress(body) + raw.flush(), "deflate") == body


def test_the_bound_counts_inflated_bytes_over_all_members() -> None:
    body = b"a" * 1000
    assert inflated(gzip.compress(body), "gzip", 1000) == body
    assert refusal(gzip.compress(body), "gzip", 999) == (413, "body_too_large")
    assert refusal(gzip.compress(body[:500]) * 2, "gzip", 999) == (413, "body_too_large")
    assert inflated(brotli.compress(body), "br", 1000) == body
    assert refusal(brotli.compress(body), "br", 999) == (413, "body_too_large")


@pytest.mark.parametrize("past", [-1, 0, 1])
@pytest.mark.parametrize("step", [BROTLI_LIMIT_BYTES, INFLATE_STEP_BYTES, 3 * INFLATE_STEP_BYTES, 10_000_000])
def test_bodies_of_more_than_one_step_come_back_whole(step: int, past: int) -> None:
    length = step + past
    body = random.Random(length).randbytes(length // 2) + b"a" * (length - length // 2)
    assert inflated(brotli.compress(body, quality=1), "br", length) == body
    assert inflated(zstd.compress(body), "zstd", length) == body
    assert inflated(gzip.compress(body, 1), "gzip", length) == body
    for packed in (body[:1000], body[: length // 2], body):  # cut off at any place
        cut = brotli.compress(packed, quality=1)[:-1]
        assert refusal(cut, "br", length) == (400, "malformed_encoding")


@given(st.binary(max_size=300), st.data())
@settings(deadline=None)
def test_no_damage_to_a_brotli_body_does_more_than_refuse_it(body: bytes, data: st.DataObject) -> None:
    packed = bytearray(brotli.compress(body))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        inflated(bytes(packed), "br")
    except BodyError as error:
        assert (error.status, error.reason) in ((400, "malformed_encoding"), (413, "body_too_large"))


@pytest.mark.parametrize(
    ("body", "encoding", "status", "reason"),
    [
        (b"{}", "gzip", 400, "malformed_encoding"),
        (b"\x1f\x8b\x00", "", 400, "malformed_encoding"),
        (gzip.compress(b"x" * 100, mtime=0)[:-9], "gzip", 400, "malformed_encoding"),
        (gzip.compress(b"x" * 100, mtime=0)[:-1], "gzip", 400, "malformed_encoding"),
        (gzip.compress(b"{}", mtime=0) + b"trailing", "gzip", 400, "malformed_encoding"),
        (b"{}", "deflate", 400, "malformed_encoding"),
        (b"{}", "br", 400, "malformed_encoding"),
        (b"", "br", 400, "malformed_encoding"),
        (gzip.compress(b"{}", mtime=0), "br", 400, "malformed_encoding"),
        (brotli.compress(bytes(range(256)))[:-1], "br", 400, "malformed_encoding"),
        (brotli.compress(b"{}") + b"trailing", "br", 400, "malformed_encoding"),
        (brotli.compress(b"{}") * 2, "br", 400, "malformed_encoding"),
        (brotli.compress(b"{}"), "gzip", 400, "malformed_encoding"),
        (b"{}", "compress", 415, "unknown_encoding"),
        (b"{}", "gzip, gzip", 415, "unknown_encoding"),
    ],
)
def test_what_is_not_the_compression_it_says(body: bytes, encoding: str, status: int, reason: str) -> None:
    assert refusal(body, encoding) == (status, reason)


def test_zero_padding_after_a_member_is_no_fault() -> None:
    assert inflated(gzip.compress(b"{}") + b"\0" * 512, "gzip") == b"{}"


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("br", brotli.compress)])
def test_a_bomb_stops_at_what_may_be_under_way(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    inflight = InflightBytes(5 * 1024 * 1024)
    reservation = Reservation(inflight)
    bomb = compress(b"a" * 50_000_000)
    with pytest.raises(BodyError) as caught:  # nobody's end makes room for it: coming back later would not help
        inflate(bomb, encoding, MANY, reservation)
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")
    assert 3 * 1024 * 1024 < inflight.held <= 5 * 1024 * 1024
    with pytest.raises(OverloadedError):
        inflate(compress(b"a" * 3_000_000), encoding, MANY, Reservation(inflight))
    reservation.release()
    assert inflight.held == 0


def test_reservations_share_one_bound_and_give_all_back() -> None:
    inflight = InflightBytes(100)
    first, second = Reservation(inflight), Reservation(inflight)
    first.grow_to(60)
    first.grow_to(50)
    assert inflight.held == 60
    with pytest.raises(OverloadedError):
        second.grow_to(41)
    second.grow_to(40)
    first.release()
    first.release()
    assert inflight.held == 40


def test_a_brotli_bomb_is_seen_within_a_step_of_its_bound() -> None:
    """What brotli gives at a time is no more than a step, though its buffers grow past the limit it is told."""
    inflater = brotli.Decompressor()
    piece = inflater.process(brotli.compress(b"a" * 50_000_000), output_buffer_limit=BROTLI_LIMIT_BYTES)
    while not inflater.is_finished():
        assert 0 < len(piece) <= INFLATE_STEP_BYTES
        piece = inflater.process(b"", output_buffer_limit=BROTLI_LIMIT_BYTES)


@pytest.mark.parametrize("declared", [None, 3_000_000])
def test_a_refused_body_leaves_no_more_than_its_start_behind(declared: int | None) -> None:
    """Its error lives on while the rest is thrown away, and with it, in its traceback, whatever the reader held."""
    pieces = [bytes([number]) * 100_000 for number in range(40)]
    messages = iter([{"type": "http.request", "body": piece, "more_body": True} for piece in pieces])

    async def receive() -> dict[str, object]:
        return next(messages)

    async def read() -> BodyError:
        reservation = Reservation(InflightBytes(MANY))
        with pytest.raises(BodyError) as caught:
            await read_body(Incoming(receive, declared), 2_000_000, reservation, Deadlines(BODY_TIMEOUT_S))
        return caught.value

    error = asyncio.run(read())
    assert error.start == (b"" if declared else b"".join(pieces)[:START_BYTES_MAX])
    left, trace = 0, error.__traceback__
    while trace is not None:
        held = [item for item in trace.tb_frame.f_locals.values() if isinstance(item, list)]
        left += sum(len(item) for items in held for item in items if isinstance(item, bytes) and items is not pieces)
        trace = trace.tb_next
    assert left == 0


@given(st.binary(max_size=3000), st.integers(1, 3000), st.integers(0, 3000))
@settings(deadline=None)
def test_the_start_of_a_body_is_told_whole_or_cut_off(body: bytes, most: int, cut: int) -> None:
    for encoding, packed in (
        ("gzip", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("zstd", zstd.compress(body)),
        ("br", brotli.compress(body)),
    ):
        assert inflated_start(packed, encoding, most) == body[:most]
        told = inflated_start(packed[: len(packed) - cut], encoding, most)
        assert told == body[: len(told)] or cut
        assert len(told) <= most
        assert len(inflated_start(body, encoding, most)) <= most, "not the compression it says"
    assert inflated_start(b"plain " + body, "", most) == (b"plain " + body)[:most]


def test_a_reservation_can_give_a_part_back() -> None:
    inflight = InflightBytes(100)
    reservation = Reservation(inflight, 1)
    reservation.grow_to(60)
    reservation.shrink_to(20)
    reservation.shrink_to(30)
    assert (reservation.held, inflight.held) == (20, 20)
    other = reservation.another(2)
    other.grow_to(30)
    assert inflight.held == 50
    reservation.release()
    other.release()
    assert (inflight.held, inflight.owners) == (0, 0)
