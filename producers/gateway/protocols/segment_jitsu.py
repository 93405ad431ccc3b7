"""jitsu's dialect of the Segment family: its paths, its pixel, its answers.

One event a request to `/api/s/{type}`, from servers to `/api/s/s2s/{type}`; batches to `…/batch`. The key stands in
X-Write-Key as `id:secret`; in the body its secret is masked, and it is no key then. A page's name is among its
properties. The SDK reads `ok` and `destinations` of an answer and never sends again. Its pixel's redirect
(`destination_url`) is not followed: any page could send people anywhere in our name.
"""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from producers.gateway.answers import Answer, Rejection, json_answer
from producers.gateway.json_body import BodyError, NotPlainError, Unusable, parse
from producers.gateway.protocols.decoder import Decoded, Events, RawEvent, Request, Route
from producers.gateway.protocols.segment import SINGLE_PATHS, SegmentBatch, SegmentSingle, to_event
from producers.gateway.protocols.segment_pixel import SegmentPixel, nest

TYPES: Final = {path.removeprefix("/v1/"): type_ for path, type_ in SINGLE_PATHS.items()} | {"event": "", "e": ""}
"""The last part of a path and the type that it says; `event` leaves it to the message."""
PREFIXES: Final = ("/api/s/", "/api/s/s2s/")
MASK: Final = "***"

_ENCODE = msgspec.json.Encoder().encode
_OK = json_answer({"ok": True})
_PIXEL_DATA = "data"
_NOT_FOR_EVENTS = frozenset(
    (_PIXEL_DATA, "writekey", "writeKey", "cookie_domain", "process_headers", "destination_url")
)


class JitsuSingle(SegmentSingle):
    """One message as the body."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        return _as_jitsu(request, super().decode(request, events_max))

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """`{"ok":true}`; `false` and the reason if the event was set aside."""
        if not rejections:
            return _OK
        return json_answer(
            {"ok": False, "error": rejections[0].reason, "rejected": [item.told() for item in rejections]}
        )


class JitsuBatch(SegmentBatch):
    """`{batch: [message, …], sentAt, writeKey?, context?}`."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        return _as_jitsu(request, super().decode(request, events_max))

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """How many events came and how many are well, and what is wrong with the others."""
        received = len(decoded.events)
        answer: dict[str, Any] = {
            "ok": not rejections, "receivedEvents": received, "okEvents": received - len(rejections)
        }  # fmt: skip
        if rejections:
            answer["errors"] = [f"event {item.index}: {item.reason}" for item in rejections]
            answer["rejected"] = [item.told() for item in rejections]
        return json_answer(answer)


class JitsuPixel(SegmentPixel):
    """One event in a GET's query: base64 of its JSON in `data`, dotted keys over it."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        tree, cleaned = _pixel_tree(request, events_max)
        if isinstance(tree, Unusable):
            return Decoded([tree], _query_keys(request), cleaned)
        flat = {name: value for name, value in request.query.items() if name not in _NOT_FOR_EVENTS}
        event = to_event(nest(flat, tree), self._type, None, None, 0)
        return Decoded(PageNames([event]), _query_keys(request), cleaned)


class PageNames(Events):
    """Events as they are, but that a page or screen without a name gets the one in its properties."""

    def made(self, item: Any, index: int) -> RawEvent | Unusable:
        if isinstance(item, RawEvent) and item.name is None and item.type in ("page", "screen"):
            name = item.properties.get("name") if isinstance(item.properties, dict) else None
            item.name = name if isinstance(name, str) else None
        made: RawEvent | Unusable = item
        return made


def usable_keys(named: Iterable[str]) -> list[str]:
    """The write keys in what a body or a query names: not masked ones, of `id:secret` the secret too."""
    keys: list[str] = []
    for key in named:
        secret = key.partition(":")[2]
        if MASK not in (key, secret):
            keys += [key, secret] if secret else [key]
    return keys


def _as_jitsu(request: Request, decoded: Decoded) -> Decoded:
    keys = [*usable_keys(decoded.write_keys), *_query_keys(request)]
    return Decoded(PageNames(decoded.events), keys, decoded.cleaned)


def _query_keys(request: Request) -> list[str]:
    key = request.query.get("writekey")
    return usable_keys([key]) if key else []


def _pixel_tree(request: Request, events_max: int) -> tuple[dict[str, Any] | Unusable, bool]:
    """The object in a pixel's `data`, and whether texts in it were replaced. Raises BodyError."""
    data = request.query.get(_PIXEL_DATA)
    if not data:
        return {}, False
    try:
        raw = base64.b64decode(data.replace(" ", "+"), validate=True)
    except (binascii.Error, ValueError):
        raise BodyError("malformed_encoding", "data is not base64") from None
    try:
        parsed = parse(raw, events_max, lenient=request.lenient)
    except NotPlainError:
        raise NotPlainError(_ENCODE({"writeKey": request.query.get("writekey", "")})) from None
    value = parsed.value
    for item in value.values() if isinstance(value, dict) else ():
        for element in item if isinstance(item, list) else ():
            if isinstance(element, Unusable):
                return Unusable(element.reason, element.message, raw), parsed.cleaned
    if isinstance(value, Unusable):
        return value, parsed.cleaned
    if not isinstance(value, dict):
        raise BodyError("not_an_object", "data must hold one JSON object")
    return value, parsed.cleaned


def routes() -> list[Route]:
    """The paths of this dialect."""
    post, batch = frozenset(("POST",)), JitsuBatch()
    found = [Route(f"{prefix}batch", post, "jitsu: a batch of events", batch) for prefix in PREFIXES]
    for name, type_ in TYPES.items():
        single = JitsuSingle(type_)
        summary = f"jitsu: one {type_} event" if type_ else "jitsu: one event that says its type"
        found += [Route(prefix + name, post, summary, single) for prefix in PREFIXES]
        pixel = JitsuPixel(type_)
        found.append(Route(f"/api/px/{name}", frozenset(("GET",)), f"{summary} as an image", pixel))
    return found
