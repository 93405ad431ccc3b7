"""What is derived from an event's context, remembered by its bytes: a sender's contexts repeat from event to event,
and where they do not, their parts do (the page, the device, the library).

Pure but for the memory, which is bounded: CONTEXTS_MAX contexts, and PARTS_MAX of each kind of part, all of contexts
of at most REMEMBERED_BYTES_MAX bytes; larger ones are worked out each time.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from headrace.errors import PoisonError
from producers.gateway import wire
from producers.gateway.columns import Members
from producers.gateway.enrich import DEVICE_FIELDS, DEVICE_KEYS, PAGE_KEYS, Enriched, enrich, library
from producers.gateway.normalise import id_text

CONTEXTS_MAX: Final = 256
PARTS_MAX: Final = 4096
REMEMBERED_BYTES_MAX: Final = 2048

_DECODE = msgspec.json.Decoder().decode
_ENCODE = msgspec.json.Encoder().encode
_MEMBERS = msgspec.json.Decoder(Members | None).decode
_NO_OBJECT: Mapping[str, Any] = {}
_NO_MEMBERS: Final[Members] = {}
_EMPTY: Final = b"{}"
_ABSENT: Final = msgspec.Raw(b"null")


class Context(msgspec.Struct, frozen=True, gc=False):
    """One context. `json_bytes`: how long it is as stored. `enriched`: the dimensions of any event but a page view
    whose page only its properties tell, or a screen without a path. `dimensions_part`, `end_part` (from the context
    on): of a record in wire format. `session_id`: as the context tells it."""

    enriched: Enriched
    has_page: bool
    address: Any
    user_agent: Any
    session_id: str | None
    json_bytes: int
    dimensions_part: bytes
    end_part: bytes


class Contexts:
    """The memory. `check`: raises PoisonError for JSON past the limits of an event."""

    def __init__(self, check: Callable[[bytes], None]) -> None:
        self._check = check
        self._remembered = lru_cache(CONTEXTS_MAX)(self._told)

    def of(self, raw: bytes, protocol: str, attempt: int) -> Context:
        """The context in this JSON, of events of `protocol` in their sender's so many'th attempt. Raises PoisonError,
        or what msgspec raises, for one that cannot be stored."""
        told = self._remembered if len(raw) <= REMEMBERED_BYTES_MAX else self._told
        return told(raw, protocol, attempt)

    def _told(self, raw: bytes, protocol: str, attempt: int) -> Context:
        members = _MEMBERS(raw) or _NO_MEMBERS
        text = _ENCODE(members) if members else _EMPTY
        if b"\\" in text and b"\\u" in text:
            text = _ENCODE(_DECODE(text))
        self._check(text)
        page_of, device_of, library_of = _REMEMBERED if len(raw) <= REMEMBERED_BYTES_MAX else _EACH_TIME
        get = members.get
        page, has_page, page_part = page_of(*[bytes(get(key, _ABSENT)) for key in PAGE_KEYS])
        device, device_part = device_of(*[bytes(get(key, _ABSENT)) for key in DEVICE_KEYS])
        name = library_of(bytes(get("library", _ABSENT)))
        session = get("sessionId")
        return Context(
            Enriched(*page, *device),
            has_page,
            _DECODE(get("ip", _ABSENT)),
            _DECODE(get("userAgent", _ABSENT)),
            None if session is None else id_text(_DECODE(session)),
            len(text),
            page_part + device_part,
            wire.size(len(text)) + text + wire.end(protocol, name, attempt),
        )


def parsed(raw: bytes) -> Mapping[str, Any]:
    """The object in this JSON; null is an empty one. Raises PoisonError, and what msgspec raises."""
    value = _DECODE(raw)
    if value is None:
        return _NO_OBJECT
    if not isinstance(value, dict):
        raise PoisonError("invalid_context", f"must be an object, not {type(value).__name__}")
    return value


def _told_by(keys: tuple[str, ...], parts: tuple[bytes, ...]) -> dict[str, Any]:
    return {key: _DECODE(part) for key, part in zip(keys, parts, strict=True)}


@lru_cache(PARTS_MAX)
def _page(*parts: bytes) -> tuple[tuple[str | None, ...], bool, bytes]:
    """What PAGE_KEYS tell: dimensions, whether there is a page, and the dimensions as they stand in a record."""
    context = _told_by(PAGE_KEYS, parts)
    told = enrich("", "", _NO_OBJECT, context)[:-DEVICE_FIELDS]
    page = context["page"]
    return told, isinstance(page, dict) and bool(page), wire.dimensions(told)


@lru_cache(PARTS_MAX)
def _device(*parts: bytes) -> tuple[tuple[str | None, ...], bytes]:
    """What DEVICE_KEYS tell: dimensions, and these as they stand in a record."""
    told = enrich("", "", _NO_OBJECT, _told_by(DEVICE_KEYS, parts))[-DEVICE_FIELDS:]
    return told, wire.dimensions(told)


@lru_cache(PARTS_MAX)
def _library(part: bytes) -> str:
    return library({"library": _DECODE(part)})


_REMEMBERED: Final = (_page, _device, _library)
_EACH_TIME: Final = (_page.__wrapped__, _device.__wrapped__, _library.__wrapped__)
