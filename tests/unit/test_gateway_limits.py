"""Bytes under way are bounded and always given back; bodies inflate within their bound or are refused by name."""

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import OverloadedError
from producers.gateway.json_body import BodyError
from producers.gateway.limits import InflightBytes, Reservation, inflate

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
    raw = zlib.compressobj(wbits=-15)
    assert inflated(raw.compress(body) + raw.flush(), "deflate") == body


def test_the_bound_counts_inflated_bytes_over_all_members() -> None:
    body = b"a" * 1000
    assert inflated(gzip.compress(body), "gzip", 1000) == body
    assert refusal(gzip.compress(body), "gzip", 999) == (413, "body_too_large")
    assert refusal(gzip.compress(body[:500]) * 2, "gzip", 999) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "encoding", "status", "reason"),
    [
        (b"{}", "gzip", 400, "malformed_encoding"),
        (b"\x1f\x8b\x00", "", 400, "malformed_encoding"),
        (gzip.compress(b"x" * 100, mtime=0)[:-9], "gzip", 400, "malformed_encoding"),
        (gzip.compress(b"x" * 100, mtime=0)[:-1], "gzip", 400, "malformed_encoding"),
        (gzip.compress(b"{}", mtime=0) + b"trailing", "gzip", 400, "malformed_encoding"),
        (b"{}", "deflate", 400, "malformed_encoding"),
        (b"{}", "br", 415, "unknown_encoding"),
        (b"{}", "gzip, gzip", 415, "unknown_encoding"),
    ],
)
def test_what_is_not_the_compression_it_says(body: bytes, encoding: str, status: int, reason: str) -> None:
    assert refusal(body, encoding) == (status, reason)


def test_zero_padding_after_a_member_is_no_fault() -> None:
    assert inflated(gzip.compress(b"{}") + b"\0" * 512, "gzip") == b"{}"


def test_a_bomb_stops_at_what_may_be_under_way() -> None:
    inflight = InflightBytes(5 * 1024 * 1024)
    reservation = Reservation(inflight)
    bomb = gzip.compress(b"a" * 50_000_000)
    with pytest.raises(BodyError) as caught:  # nobody's end makes room for it: coming back later would not help
        inflate(bomb, "gzip", MANY, reservation)
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")
    assert inflight.held <= 5 * 1024 * 1024
    with pytest.raises(OverloadedError):
        inflate(gzip.compress(b"a" * 2_000_000), "gzip", MANY, Reservation(inflight))
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
