"""Inputs by number: the same number always gives the same request, whatever was made before it.

A seed (seeds.py) is changed as a tree, written as JSON, a form, lines or a query, changed as bytes, and compressed,
or what calls itself so. Its key stands in a header, in the query, in the body, in all of them, or nowhere.
"""

import base64
import gzip
import pickle
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any, Final
from urllib.parse import quote_plus

from backports import zstd

from producers.gateway.protocols import routes
from producers.gateway.protocols.decoder import Route
from tests.fuzz.seeds import KEY, Seed, family_of, seeds
from tests.fuzz.sent import Sent
from tests.fuzz.values import Inner, Literal, dump, mutated, wrapped

KEYS: Final = (
    KEY,
    "wk_private",
    "wk_private",
    "wk_planned",
    "wk_planned",
    "wk_used_up",
    "wk_nobody",
    "",
    "\xe9",
    "k" * 600,
)
KEYLESS: Final = ("cloudevents", "segment", "segment batch", "posthog v1")
"""Families whose bodies mostly name no key."""
AUTHORIZATIONS: Final = ("Basic", "Basic \xff", "Basic =", "Bearer ", "\xff", "Basic " + "A" * 9_999)
METHODS: Final = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW")
CONTENT_TYPES: Final = (
    "application/json", "application/json; charset=utf-8", "text/plain", "text/plain;charset=UTF-16", "", ";", "/",
    "application/x-www-form-urlencoded", "application/x-ndjson", "application/octet-stream", "multipart/form-data",
    "application/cloudevents+json", "application/cloudevents-batch+json", "application/cloudevents+xml",
    "application/vnd.x+json;charset=\xe9", "image/png",
)  # fmt: skip
ENCODINGS: Final = ("gzip", "deflate", "zstd", "br", "identity", "x-gzip", "GZIP ", "gzip, gzip", "", "\xe9" * 50)
HEADERS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "user-agent",
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0)", "okhttp/4", "Mozilla/", "\xff" * 2_000),
    ),
    ("x-forwarded-for", ("203.0.113.9, 10.0.0.1", "::1", ",,,", "\xff", "1" * 3_000)),
    ("dnt", ("1", "0")),
    ("sec-gpc", ("1",)),
    ("sentat", ("2024-02-29T00:00:36Z", "now", "\xff")),
    ("x-retry-count", ("3", "-1", "9" * 30, "\xb2")),
    ("posthog-attempt", ("2", "\xb2", "9" * 20)),
    ("posthog-request-timestamp", ("2024-02-29T00:00:36Z", "1" * 400)),
    ("content-length", ("0", "5", "-1", "\xb2", "9" * 18, "9" * 400, "99999999")),
    ("access-control-request-headers", ("authorization, x", "\xff")),
    ("ce-id", ("i", "", '"a\\"b"', "%00", "%ED%A0%80", "\xe9")),
    ("ce-specversion", ("1.0", "0.3", "2.0", "")),
    ("ce-type", ("com.acme.track", "")),
    ("ce-source", ("/s", "")),
    ("ce-time", ("2024-02-29T00:00:35Z", "9" * 99)),
    ("ce-", ("x",)),
    ("ce-\xff", ("\xff",)),
)
SPLICES: Final = (
    b"", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\u0000", b"\\ud800", b"&", b"=", b"data=", b"&data=", b"+", b"%",
    b"%00", b"%ff", b"[", b"]", b"{", b"}", b'"', b"\\", b",", b":", b"\n", b"\r\n", b"\xef\xbb\xbf", b"NaN",
    b"1e999", b"\x1f\x8b", b"[" * 70, b"{}\n{}", b'"api_key":', b'"token":', b'"events":[', b'"batch":[', b"e" * 30,
)  # fmt: skip


@cache
def _routes() -> tuple[dict[str, list[Route]], tuple[Route, ...]]:
    """Those with a decoder, by family: each has the same chance, however many paths it has. And all."""
    every = routes().routes
    by_family: dict[str, list[Route]] = {}
    for route in every:
        if route.decoder is not None:
            by_family.setdefault(family_of(route.path), []).append(route)
    return by_family, every


@cache
def _seeds_of(family: str) -> tuple[bytes, ...]:
    """The seeds of a family, pickled: so a copy of one costs least."""
    return tuple(pickle.dumps(seed) for seed in seeds() if seed.family == family or not family)


def numbered(number: int) -> Sent:
    """The input with this number."""
    rng = Random(number)
    by_family, every = _routes()
    family = rng.choice(list(by_family))
    route = rng.choice(every if rng.random() < 0.03 else by_family[family])
    if rng.random() < 0.07:
        family = ""
    seed: Seed = pickle.loads(rng.choice(_seeds_of(family)))
    method = seed.method if seed.method in route.methods else rng.choice(sorted(route.methods))
    if rng.random() < 0.02:
        method = rng.choice(METHODS)
    headers = dict(seed.headers)
    query = seed.query
    if method == "GET" and seed.method == "POST" and seed.kind == "form":
        query, seed.kind, seed.body = {**query, **seed.body}, "raw", b""
    _place_key(seed, query, headers, rng)
    if rng.random() < 0.9:
        times = rng.choice((1, 1, 1, 2, 2, 3, 5, 10))
        if seed.kind == "raw":
            query = mutated(query, rng, times)
            query = query if isinstance(query, dict) else {"data": query}
        else:
            seed.body = mutated(seed.body, rng, times)
    body = _written(seed, rng)
    if rng.random() < 0.3:
        body = _spliced(body, rng)
    if rng.random() < 0.001:
        body = _enlarged(body, rng)
    _head(headers, rng)
    body = _compressed(body, headers, rng)
    text = b"&".join(
        quote_plus(name.encode("utf-8", "replace"), safe=b"$.").encode() + b"=" + _field(value, rng)
        for name, value in query.items()
    )
    if rng.random() < 0.05:
        text = _spliced(text, rng)
    return Sent(
        method,
        _path(route.path, rng),
        text,
        tuple((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()),
        body,
        rng.choice((0, 0, 0, 0, 0, 1_000, max(1, len(body) // 7))),
    )


def _place_key(seed: Seed, query: dict[str, Any], headers: dict[str, str], rng: Random) -> None:
    """The write key somewhere, or another one, or none."""
    key = KEY if rng.random() < 0.8 else rng.choice(KEYS)
    place = rng.choice(("none", "none", "basic", "basic", "bearer", "header", "query", "body"))
    if place in ("none", "body") and seed.family in KEYLESS and rng.random() < 0.8:
        place = "basic"
    if place == "basic":
        text = key.encode() + rng.choice((b":", b"", b":x"))
        headers["authorization"] = "Basic " + base64.b64encode(text).decode()
    elif place == "bearer":
        headers["authorization"] = f"Bearer {key}"
    elif place == "header":
        headers["x-write-key"] = rng.choice((key, f"id:{key}"))
    elif place == "query":
        query[rng.choice(("writeKey", "api_key", "token", "aid"))] = key
    elif place == "body" and isinstance(seed.body, dict):
        seed.body[rng.choice(("writeKey", "api_key", "token", "client", "aid"))] = key
    if rng.random() < 0.02:
        headers["authorization"] = rng.choice(
            ("Basic", "Basic \xff", "Basic =", "Bearer ", "\xff", "Basic " + "A" * 9_999)
        )


def _head(headers: dict[str, str], rng: Random) -> None:
    if rng.random() < 0.25:
        headers["content-type"] = rng.choice(CONTENT_TYPES)
    if rng.random() < 0.5:
        headers["origin"] = rng.choice(("https://shop.example", "null", "\xff", " "))
    for name, values in HEADERS:
        if rng.random() < 0.03:
            headers[name] = rng.choice(values)


def _written(seed: Seed, rng: Random) -> bytes:
    """The body in bytes."""
    escape = rng.random() < 0.6
    kind, body = seed.kind, seed.body
    if kind == "form" and isinstance(body, dict):
        return b"&".join(
            quote_plus(str(name).encode("utf-8", "replace"), safe=b"$").encode() + b"=" + _field(value, rng)
            for name, value in body.items()
        )
    if kind == "lines" and isinstance(body, list):
        return rng.choice((b"\n", b"\r\n", b"\n\n")).join([dump(item, escape=escape) for item in body])
    if isinstance(body, bytes):
        return body
    text = dump(body, escape=escape)
    return base64.b64encode(text) if kind == "base64" else text


def _field(value: Any, rng: Random) -> bytes:
    """A value of a form or a query, with the mistakes that senders make."""
    if isinstance(value, Inner):
        raw = wrapped(dump(value.value, escape=rng.random() < 0.6), value.wrap)
        if rng.random() < 0.1:
            raw = _spliced(raw, rng)
    elif isinstance(value, str):
        raw = str(value).encode("utf-8", "surrogatepass")
    else:
        raw = value.text if isinstance(value, Literal) else dump(value)
    if rng.random() < 0.1:
        return raw  # not escaped at all
    return quote_plus(raw).encode()


def _spliced(text: bytes, rng: Random) -> bytes:
    """`text` with bytes changed, put in, cut out, doubled, or cut off."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randint(0, len(text))
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:at]
        elif kind == 1:
            text = text[:at] + text[at + rng.randint(1, 20) :]
        elif kind == 2:
            text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
        elif kind == 3:
            part = text[at : at + rng.randint(1, 60)]
            text = text[:at] + part * rng.choice((1, 2, 30)) + text[at:]
        else:
            text = text[:at] + rng.choice(SPLICES) + text[at:]
    return text


def _enlarged(body: bytes, rng: Random) -> bytes:
    """Something large of it."""
    made: tuple[Callable[[], bytes], ...] = (
        lambda: b'{"batch":[' + b",".join([body[:200] or b"1"] * 3_000) + b"]}",
        lambda: b"[" + b"{}," * 20_001 + b"1]",
        lambda: b"data=" + b"%" * 300_000,
        lambda: b'{"batch":[NaN,' + b'{"event":"e","x":[1,{"a":2}]},' * 5_000 + b'{}],"writeKey":"wk_test"}',
        lambda: b"&".join([b"a=b"] * 100_000),
        lambda: b'{"api_key":"wk_test","batch":[' + b"[" * 200_000 + b"]" * 200_000 + b"]}",
        lambda: b'{"a":"' + b"\\ud800" * 50_000 + b'"}',
        lambda: body + b" " * 1_000_000,
    )
    return rng.choice(made)()


def _compressed(body: bytes, headers: dict[str, str], rng: Random) -> bytes:
    """The body, compressed as its header says, or not."""
    chosen = rng.random()
    if chosen < 0.6:
        return body
    if chosen < 0.63:
        headers["content-encoding"] = rng.choice(ENCODINGS)
        return body
    name = rng.choice(("gzip", "gzip", "deflate", "raw deflate", "zstd"))
    headers["content-encoding"] = "deflate" if name == "raw deflate" else name
    if name == "gzip":
        packed = gzip.compress(body, 1, mtime=0)
        if rng.random() < 0.3:
            del headers["content-encoding"]
    elif name == "zstd":
        packed = zstd.compress(body)
    else:
        packed = zlib.compress(body, 1)
        packed = packed[2:-4] if name == "raw deflate" else packed
    broken = rng.random()
    if broken < 0.08:
        return packed[: rng.randint(0, len(packed))]
    if broken < 0.16:
        return _spliced(packed, rng)
    return packed * 2 if broken < 0.18 else packed


def _path(path: str, rng: Random) -> str:
    """A path with its named part filled in."""
    if "{" in path:
        part = rng.choice((KEY, "wk_nobody", "\xe9\x00\U0001f389", "a b", "%2F", "x" * 300))
        path = path.replace("{write_key}", part).replace("{api_key}", part)
    chosen = rng.random()
    return path if chosen < 0.85 else path + rng.choice(("/", "/", "/", "//", "//", "/x", "\U0001f389"))
