"""What browsers and crawlers ask of any host by themselves: small constant answers, cacheable, without a key."""

import base64
from typing import Final

from producers.gateway.answers import Answer
from producers.gateway.protocols.decoder import Request, Route

CACHE_S: Final = 7 * 86_400
ICON: Final = base64.b64decode(
    "AAABAAEAAQEAAAEAIAAwAAAAFgAAACgAAAABAAAAAgAAAAEAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
)
"""An icon of one transparent pixel."""
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAAC0lEQVR42mNgAAIAAAUAAen63NgAAAAASUVORK5CYII="
)
"""One transparent pixel."""
ROBOTS: Final = b"User-agent: *\nDisallow: /\n"

_GET = frozenset(("GET",))
_CACHE = ((b"cache-control", b"public, max-age=%d" % CACHE_S),)


def _constant(path: str, summary: str, body: bytes, content_type: bytes) -> Route:
    answer = Answer(200, body, content_type, _CACHE)

    def fixed(request: Request) -> Answer:  # noqa: ARG001 (see Route)
        return answer

    return Route(path, _GET, summary, fixed=fixed)


def routes() -> list[Route]:
    """Icons and robots.txt."""
    return [
        _constant("/favicon.ico", "Browsers: an empty icon", ICON, b"image/x-icon"),
        _constant("/apple-touch-icon.png", "Browsers: an empty icon", PNG, b"image/png"),
        _constant("/apple-touch-icon-precomposed.png", "Browsers: an empty icon", PNG, b"image/png"),
        _constant("/robots.txt", "Crawlers: nothing here is theirs", ROBOTS, b"text/plain; charset=utf-8"),
    ]
