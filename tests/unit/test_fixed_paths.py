"""What browsers and crawlers ask of any host."""

import struct
import zlib

import pytest

from producers.gateway.protocols import fixed
from producers.gateway.protocols.decoder import Request, RouteTable

TABLE = RouteTable(fixed.routes())


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/favicon.ico", b"image/x-icon"),
        ("/apple-touch-icon.png", b"image/png"),
        ("/apple-touch-icon-precomposed.png", b"image/png"),
        ("/robots.txt", b"text/plain; charset=utf-8"),
    ],
)
def test_small_constant_answers_that_may_be_kept(path: str, content_type: bytes) -> None:
    found = TABLE.find(path)
    assert found is not None
    assert found[0].fixed is not None
    assert found[0].methods == {"GET"}, "HEAD is answered by the receiver"
    answer = found[0].fixed(Request("GET", path, "http", {}, {}, b"", 0))
    assert (answer.status, answer.content_type) == (200, content_type)
    assert answer.headers == ((b"cache-control", b"public, max-age=604800"),)
    assert 0 < len(answer.body) < 100


def test_the_icon_is_one() -> None:
    reserved, kind, count = struct.unpack_from("<HHH", fixed.ICON)
    width, height, _, _, _, depth, size, offset = struct.unpack_from("<BBBBHHII", fixed.ICON, 6)
    assert (reserved, kind, count, width, height, depth) == (0, 1, 1, 1, 1, 32)
    assert offset + size == len(fixed.ICON)
    assert struct.unpack_from("<Iii", fixed.ICON, offset) == (40, 1, 2)


def test_the_png_is_one() -> None:
    assert fixed.PNG.startswith(b"\x89PNG\r\n\x1a\n")
    at = 8
    kinds = []
    while at < len(fixed.PNG):
        (length,) = struct.unpack_from(">I", fixed.PNG, at)
        content = fixed.PNG[at + 4 : at + 8 + length]
        assert struct.unpack_from(">I", fixed.PNG, at + 8 + length)[0] == zlib.crc32(content)
        kinds.append(content[:4])
        at += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


def test_crawlers_are_told_to_stay_away() -> None:
    assert fixed.ROBOTS == b"User-agent: *\nDisallow: /\n"
