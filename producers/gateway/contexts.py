"""What is derived from an event's context, remembered by its bytes: a sender's contexts repeat from event to event,
and where they do not, their parts do (the page, the device, the library).

Pure but for the memory, which is bounded: CONTEXTS_MAX contexts, and PARTS_MAX of each kind of part, each of at most
REMEMBERED_BYTES_MAX bytes; larger ones are worked out each time.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

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
_BETWEEN: Final = b"\xff"
"""Between members in a key: no byte of UTF-8, so it stands in none of them."""

Part = TypeVar("Part")


class Page(msgspec.Struct, frozen=True, gc=False):
    """What PAGE_KEYS tell: the dimensions up to the campaign, these as they stand in a record, and whether there is a
    page."""

    dimensions: tuple[str | None, ...]
    part: bytes
    is_there: bool


class Device(msgspec.Struct, frozen=True, gc=False):
    """What DEVICE_KEYS tell: the dimensions of the device, these as they stand in a record, whether one is open."""

    dimensions: tuple[str | None, ...]
    part: bytes
    is_open: bool


class Context(msgspec.Struct, frozen=True, gc=False):
    """One context. Its page and device are those of any event but a page view whose page only its properties tell, or
    a screen without a path. `json_bytes`: how long it is as stored. `end_part`: of a record in wire format, from the
    context on. `session_id`: as the context tells it."""

    page: Page
    device: Device
    address: Any
    user_agent: Any
    session_id: str | None
    json_bytes: int
    end_part: bytes

    @property
    def enriched(self) -> Enriched:
        """All dimensions."""
        return Enriched(*self.page.dimensions, *self.device.dimensions)


class Parts(Generic[Part]):
    """What the members `keys` of contexts tell, as `derive` finds it in their JSON objects."""

    def __init__(self, keys: Sequence[str], derive: Callable[[Mapping[str, Any]], Part]) -> None:
        self._keys = keys
        self._derive = derive
        self._told: OrderedDict[bytes, Part] = OrderedDict()

    def of(self, members: Members) -> Part:
        """What these members tell. Raises what msgspec and `derive` raise."""
        key = _BETWEEN.join([members.get(name, _ABSENT) for name in self._keys])
        told = self._told.get(key)
        if told is None:
            told = self._derive({name: _DECODE(members[name]) for name in self._keys if name in members})
            if len(key) <= REMEMBERED_BYTES_MAX:
                if len(self._told) >= PARTS_MAX:
                    self._told.popitem(last=False)
                self._told[key] = told
        return told


class Contexts:
    """The memory. `check`: raises PoisonError for JSON past the limits of an event."""

    def __init__(self, check: Callable[[bytes], None]) -> None:
        self._check = check
        self._remembered = lru_cache(CONTEXTS_MAX)(self._told)
        self._page = Parts(PAGE_KEYS, _page).of
        self._device = Parts(DEVICE_KEYS, _device).of
        self._library = Parts(("library",), library).of

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
        get = members.get
        address, agent, session = get("ip"), get("userAgent"), get("sessionId")
        return Context(
            self._page(members),
            self._device(members),
            None if address is None else _DECODE(address),
            None if agent is None else _DECODE(agent),
            None if session is None else id_text(_DECODE(session)),
            len(text),
            wire.size(len(text)) + text + wire.end(protocol, self._library(members), attempt),
        )


def parsed(raw: bytes) -> Mapping[str, Any]:
    """The object in this JSON; null is an empty one. Raises PoisonError, and what msgspec raises."""
    value = _DECODE(raw)
    if value is None:
        return _NO_OBJECT
    if not isinstance(value, dict):
        raise PoisonError("invalid_context", f"must be an object, not {type(value).__name__}")
    return value


def _page(context: Mapping[str, Any]) -> Page:
    told = enrich("", "", _NO_OBJECT, context)[:-DEVICE_FIELDS]
    page = context.get("page")
    return Page(told, wire.dimensions(told), isinstance(page, dict) and bool(page))


def _device(context: Mapping[str, Any]) -> Device:
    told = enrich("", "", _NO_OBJECT, context)[-DEVICE_FIELDS:]
    return Device(told, wire.dimensions(told), None in told)
