"""What is derived from an event's context, remembered by its bytes: a sender's contexts repeat from event to event.

Pure but for the memory, which is bounded: CONTEXTS_MAX contexts of at most REMEMBERED_BYTES_MAX bytes; larger ones
are worked out each time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from headrace.errors import PoisonError
from producers.gateway import wire
from producers.gateway.enrich import Enriched, enrich, library
from producers.gateway.normalise import id_text

CONTEXTS_MAX: Final = 4096
REMEMBERED_BYTES_MAX: Final = 2048

_DECODE = msgspec.json.Decoder().decode
_NO_OBJECT: Mapping[str, Any] = {}
_EMPTY: Final = b"{}"


@dataclass(frozen=True, slots=True)
class Context:
    """One context. `json_bytes`: how long it is as stored. `dimensions`: those of any event but a page view whose
    page only its properties tell, or a screen without a path. `dimensions_part`, `end_part` (from the context
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
    """The memory. `json_of`: how an object is stored as text; raises PoisonError for one that is not."""

    def __init__(self, json_of: Callable[[Mapping[str, Any]], str]) -> None:
        self._json_of = json_of
        self._remembered = lru_cache(CONTEXTS_MAX)(self._told)

    def of(self, raw: bytes, protocol: str, attempt: int) -> Context:
        """The context in this JSON, of events of `protocol` in their sender's so many'th attempt. Raises PoisonError,
        or what msgspec raises, for one that cannot be stored."""
        told = self._remembered if len(raw) <= REMEMBERED_BYTES_MAX else self._told
        return told(raw, protocol, attempt)

    def _told(self, raw: bytes, protocol: str, attempt: int) -> Context:
        context = parsed(raw)
        text = self._json_of(context).encode() if context else _EMPTY
        enriched = enrich("", "", _NO_OBJECT, context)
        page = context.get("page")
        return Context(
            enriched,
            isinstance(page, dict) and bool(page),
            context.get("ip"),
            context.get("userAgent"),
            id_text(context.get("sessionId")),
            len(text),
            wire.dimensions(enriched),
            wire.size(len(text)) + text + wire.end(protocol, library(context), attempt),
        )


def parsed(raw: bytes) -> Mapping[str, Any]:
    """The object in this JSON; null is an empty one. Raises PoisonError, and what msgspec raises."""
    value = _DECODE(raw)
    if value is None:
        return _NO_OBJECT
    if not isinstance(value, dict):
        raise PoisonError("invalid_context", f"must be an object, not {type(value).__name__}")
    return value
