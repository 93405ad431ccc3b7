"""CORS for event paths: any page may send events, because a write key can only write.

The origin is echoed, never `*`: some SDKs send cookies. Errors carry the headers too, or a browser reports a network
failure and its SDK retries a 400. Retry-After is exposed, or browsers do not let the SDK see it.
"""

from collections.abc import Mapping

from producers.gateway.answers import Answer

METHODS = b"GET, POST, OPTIONS"
PREFLIGHT_AGE_S = 86_400

Headers = list[tuple[bytes, bytes]]


def headers(request: Mapping[str, str]) -> Headers:
    """Headers for the answer to a request with these (lower-case) headers; none if it names no origin."""
    origin = request.get("origin")
    if not origin:
        return [(b"vary", b"Origin")]
    return [
        (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"Retry-After"),
        (b"vary", b"Origin"),
    ]


def preflight(request: Mapping[str, str]) -> Answer:
    """The answer to OPTIONS, without authentication; whatever headers are asked for are allowed."""
    allowed = request.get("access-control-request-headers", "authorization, content-type")
    return Answer(
        200,
        b"",
        b"text/plain",
        (
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", allowed.encode("latin-1", "replace")),
            (b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S),
        ),
    )
