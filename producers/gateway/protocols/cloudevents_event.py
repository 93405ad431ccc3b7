"""One CloudEvent as a raw event.

Identity: CloudEvents are the same when `source` and `id` are. A UUID is unique by itself and is the message id as it
is; any other id becomes `<source> <id>`, in which the first space ends the source, as a URI has none.

Who: the extension attributes `userid`, `anonymousid`, `groupid`, `previousid`, `sessionid`, then the data if it is a
message (below), then, for the user alone, `subject`; a subject that is not the user is kept in the context.

What: data may be a message of the tracking kind, `{event, properties}` or `{traits}`. It is then taken apart, and the
last label of `type` (`com.acme.identify`) says its type if it is one, else it is a track event. Other data is the
properties of a track event named by `type`; what is not an object is put into one, as `data`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from headrace.errors import PoisonError
from producers.gateway.protocols.cloudevents_data import TEXT_KEY, is_json
from producers.gateway.protocols.decoder import RawEvent
from producers.gateway.timestamps import as_sent_us
from schemas.event import EVENT_TYPES

VERSIONS: Final = frozenset(("1.0", "0.3"))
SHOWN_CHARS_MAX: Final = 40
"""Of a bad attribute, in a message."""
DATA_KEY: Final = "data"
"""Where the context keeps what a message holds beside its known keys."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CORE = frozenset(("specversion", "id", "source", "type", "time", "subject", "datacontenttype"))
_TRAIT_TYPES = frozenset(("identify", "group", "profile", "group_profile"))
_ID_TYPES = frozenset(("alias", "group"))
_IDS: Final[Mapping[str, tuple[str, str]]] = {
    "userid": ("userId", "user_id"),
    "anonymousid": ("anonymousId", "anonymous_id"),
    "groupid": ("groupId", "group_id"),
    "previousid": ("previousId", "previous_id"),
    "sessionid": ("sessionId", "session_id"),
}
"""By extension attribute, the keys of a message that hold the same."""
_MESSAGE_IDS = frozenset(key for keys in _IDS.values() for key in keys)
_MESSAGE_KEYS = _MESSAGE_IDS | {"event", "name", "properties", "traits", "context", "timestamp"}
_NO_MESSAGE: Mapping[str, Any] = {}


def to_event(attributes: Mapping[str, Any], data: Any, raw: Mapping[str, Any]) -> RawEvent:
    """The event of these attributes and this data; `raw` is all of it, as sent. Raises PoisonError."""
    _check(attributes)
    source, ce_type = attributes["source"], attributes["type"]
    label = ce_type.rpartition(".")[2].lower()
    kind = label if label in EVENT_TYPES else ""
    message = data if is_message(data, kind) else _NO_MESSAGE
    type_ = (kind or "track") if message else "track"
    name, properties, rest = (
        _content(message, type_) if message else (ce_type, data if data is None else _object(data), {})
    )
    found = {extension: _named(attributes, message, extension) for extension in _IDS}
    subject = attributes.get("subject")
    context = {key: item for key, item in attributes.items() if key not in _CORE and key not in _IDS}
    shared = message.get("context")
    if isinstance(shared, dict):
        context = {**shared, **context}
    elif shared is not None:
        rest["context"] = shared
    if rest:
        context[DATA_KEY] = rest
    context["source"], context["type"] = source, ce_type
    if found["userid"] is None:
        found["userid"] = subject
    elif subject not in (None, "", found["userid"]):
        context["subject"] = subject
    content_type = attributes.get("datacontenttype")
    if isinstance(content_type, str) and not is_json(content_type):
        context["datacontenttype"] = content_type
    return RawEvent(
        type_,
        ce_type if name is None and type_ == "track" else name,
        message_id(source, attributes["id"]),
        found["userid"],
        found["anonymousid"],
        found["groupid"],
        found["previousid"],
        found["sessionid"],
        attributes.get("time") or message.get("timestamp"),
        None,
        properties,
        context,
        0,
        raw,
        as_sent_us,
    )


def message_id(source: str, id: str | int) -> str:
    """The identity of a CloudEvent, see the module."""
    own = str(id)
    return own if _UUID.fullmatch(own) else f"{source.replace(' ', '%20')} {own}"


def is_message(data: Any, kind: str) -> bool:
    """Whether an event's data is a message of the tracking kind; `kind` is the type that its CloudEvent names."""
    if not isinstance(data, dict):
        return False
    named = bool(kind) or isinstance(data.get("event"), str)
    if named and (isinstance(data.get("properties"), dict) or isinstance(data.get("traits"), dict)):
        return True
    if not _MESSAGE_KEYS.issuperset(data):
        return False
    return isinstance(data.get("event"), str) or (kind in _ID_TYPES and not _MESSAGE_IDS.isdisjoint(data))


def _content(message: Mapping[str, Any], type_: str) -> tuple[Any, Any, dict[str, Any]]:
    """A message's name and properties, and what has no place in an event."""
    first, second = ("traits", "properties") if type_ in _TRAIT_TYPES else ("properties", "traits")
    key = first if message.get(first) is not None else second
    rest = {name: item for name, item in message.items() if name not in _MESSAGE_KEYS}
    other = second if key == first else first
    if message.get(other) is not None:
        rest[other] = message[other]
    event, name = message.get("event"), message.get("name")
    if event is not None and name is not None and event != name:
        rest["name"] = name
    return name if event is None else event, message.get(key), rest


def _named(attributes: Mapping[str, Any], message: Mapping[str, Any], extension: str) -> Any:
    """One of the ids; the attribute comes before the message."""
    found = attributes.get(extension)
    if found is None:
        found = next((message[key] for key in _IDS[extension] if message.get(key) is not None), None)
    return found


def _check(attributes: Mapping[str, Any]) -> None:
    """Raise PoisonError if a required attribute is missing or not what it must be."""
    version = attributes.get("specversion")
    if not isinstance(version, str) or version not in VERSIONS:
        shown = version[:SHOWN_CHARS_MAX] if isinstance(version, str) else type(version).__name__
        raise PoisonError("unknown_type", f"specversion must be 1.0 or 0.3, not {shown!r}")
    own = attributes.get("id")
    if isinstance(own, bool) or not ((isinstance(own, str) and own) or (isinstance(own, int) and abs(own) < 2**63)):
        raise PoisonError("invalid_id", "a CloudEvent needs a text as its id")
    if not isinstance(attributes.get("source"), str) or not attributes["source"]:
        raise PoisonError("invalid_id", "a CloudEvent needs a text as its source, which is part of its identity")
    if not isinstance(attributes.get("type"), str) or not attributes["type"]:
        raise PoisonError("missing_event_name", "a CloudEvent needs a text as its type")


def _object(data: Any) -> dict[str, Any]:
    return data if isinstance(data, dict) else {TEXT_KEY: data}
