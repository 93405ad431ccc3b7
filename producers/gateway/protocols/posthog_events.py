"""PostHog's events, of both captures, as raw events.

**Types.** `$identify`, `$set` and `$set_once` are identify calls: their properties are the traits in `$set` (in
`$set_once` for the event of that name), beside the event or within its properties. `$groupidentify` is a group call
with the properties in `$group_set`. What else such an event says is kept in its context: `$set_once`, `$unset`, and
its own properties as `properties`. `$create_alias` is an alias call, `$pageview` a page, `$screen` a screen, all else
a track. The name is always the event's own.

**Ids.** PostHog has one id, `distinct_id`. It is the anonymous id of a person who is not identified: as
`$is_identified` says (browsers and phones send it); without that, if it is the `$device_id` (older browsers before
identify), or if `$process_person_profile` is false (how the server SDKs mark an id that they made up). All else is a
user id: server SDKs send no more than the id. `$identify` always names a user, and `$anon_distinct_id` who that was.
Of an alias, `distinct_id` is the previous id and `alias` the user's, in every SDK. Two constants are nobody's id: the
one of cookieless browsers, and `$type_key`, which stands in where a server SDK names a group without a person.

**Time.** An event's `timestamp` is moved by when it was sent, always; not at all with `$ignore_sent_at`
(`disable_skew_correction`). Old posthog-js says `offset`, the milliseconds since the event, instead. What lies more
than FUTURE_US_MAX ahead becomes the time of receipt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from producers.gateway.json_body import Unusable
from producers.gateway.protocols.decoder import Events, RawEvent, not_an_object
from producers.gateway.protocols.posthog_context import context_of, library_of, without_address
from producers.gateway.timestamps import always_moved_us, parse_sent_us

FUTURE_US_MAX: Final = 23 * 3_600_000_000
"""PostHog's own bound: later times are broken clocks."""
OFFSET_MS_MAX: Final = 10 * 366 * 86_400_000
"""Ten years; no event waits longer to be sent."""
COOKIELESS_ID: Final = "$posthog_cookieless"

_TYPES: Final[Mapping[str, str]] = {
    "$identify": "identify",
    "$set": "identify",
    "$set_once": "identify",
    "$groupidentify": "group",
    "$create_alias": "alias",
    "$pageview": "page",
    "$screen": "screen",
}
_PERSON_KEYS: Final = ("$set", "$set_once", "$unset")
_GROUP_KEYS: Final = ("$group_set",)
_NOTHING_SENT: Final = (None, "")
_KEY_FIELDS: Final = ("api_key", "token", "$token")
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_NOTHING: Mapping[str, Any] = {}
_ENCODE = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Sender:
    """What a request says of all its events. `key_in_properties`: its events name their write key there, for want of
    another place. `library`: as `name/version`, where not each event names it."""

    write_key: str | None
    sent_at: Any
    received_at_us: int
    attempt: int
    key_in_properties: bool = False
    library: str = ""


class PostHogEvents(Events):
    """A request's events."""

    def __init__(self, items: Sequence[Any], sender: Sender) -> None:
        super().__init__(items)
        self._sender = sender

    def made(self, item: Any, index: int) -> RawEvent | Unusable:  # noqa: ARG002 (see Events)
        if not isinstance(item, dict):
            return not_an_object(item)
        sender = self._sender
        key = key_of(item, in_properties=sender.key_in_properties)
        if sender.write_key and key and key != sender.write_key:
            return Unusable("other_write_key", "names another write key than its request", _raw(item))
        return to_event(item, sender)


def key_of(event: Mapping[str, Any], *, in_properties: bool) -> str | None:
    """The write key that a body or an event names. An event's properties are only looked at where no better place is
    left: `token` is a name that users have for things of their own."""
    for field in _KEY_FIELDS:
        key = event.get(field)
        if isinstance(key, str) and key.strip():
            return key.strip()
    properties = event.get("properties")
    if in_properties and isinstance(properties, dict):
        return key_of(properties, in_properties=False)
    return None


def to_event(event: Mapping[str, Any], sender: Sender) -> RawEvent | Unusable:
    """One event; what of it cannot be stored is for `normalise` to say, an absurd `offset` is said here."""
    get = event.get
    properties = get("properties")
    told: Mapping[str, Any] = properties if isinstance(properties, dict) else _NOTHING
    options = _object(get("options"))
    name = get("event")
    type_ = _TYPES.get(name, "track") if isinstance(name, str) else "track"

    sent_at = get("sent_at") or sender.sent_at
    believed = not _truth(told.get("$ignore_sent_at")) and not _truth(options.get("disable_skew_correction"))
    message_id = get("uuid") or told.get("$insert_id")
    if isinstance(message_id, str):
        message_id = message_id.strip()
    timestamp, offset, raw = get("timestamp"), get("offset"), event
    if timestamp in _NOTHING_SENT and isinstance(offset, int | float) and not isinstance(offset, bool):
        if abs(offset) > OFFSET_MS_MAX:
            return Unusable("timestamp_out_of_range", f"an offset of more than {OFFSET_MS_MAX} ms", _raw(event))
        timestamp = _time_ms(offset, parse_sent_us(sent_at) if believed else None, sender.received_at_us)
        if not message_id:  # its id is made of `raw`: the same offset at another time is another event
            raw = {**event, "timestamp": timestamp}

    user, anonymous, previous = _ids(event, told, options)
    session = get("session_id") or told.get("$session_id")
    return RawEvent(
        type_,
        name,
        message_id,
        user,
        anonymous,
        told.get("$group_key") if type_ == "group" else None,
        previous,
        session if isinstance(session, str) else None,
        timestamp,
        sent_at,
        properties if told is _NOTHING and properties is not None else _stored(event, told, type_),
        _context(event, told, type_, options, sender),
        sender.attempt,
        raw,
        moved_us if believed else unmoved_us,
    )


def moved_us(timestamp_us: int, sent_us: int | None, received_us: int) -> int:
    """A `TimeRule`: by the difference of the clocks, and never far in the future."""
    us = always_moved_us(timestamp_us, sent_us, received_us)
    return received_us if us > received_us + FUTURE_US_MAX else us


def unmoved_us(timestamp_us: int, sent_us: int | None, received_us: int) -> int:  # noqa: ARG001 (a TimeRule)
    """A `TimeRule`: the event's own time, but never far in the future."""
    return moved_us(timestamp_us, None, received_us)


def _time_ms(offset_ms: float, sent_us: int | None, received_us: int) -> float:
    """When an event was that is `offset_ms` old: by the sender's clock if that is known, so that the time rule
    makes "received minus offset" of it."""
    base_us = received_us if sent_us is None else sent_us
    return (base_us - round(offset_ms * 1000)) / 1000


def _ids(event: Mapping[str, Any], told: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The user's, the anonymous and the previous id."""
    name = event.get("event")
    distinct = event.get("distinct_id")
    if distinct in _NOTHING_SENT:
        places = (event.get("$distinct_id"), told.get("distinct_id"), told.get("$distinct_id"))
        distinct = next((found for found in places if found not in _NOTHING_SENT), None)
    if isinstance(distinct, str):
        distinct = distinct.strip()
        if distinct == COOKIELESS_ID:
            distinct = None
    if name == "$identify":
        return distinct, told.get("$anon_distinct_id"), None
    if name == "$create_alias":
        alias = told.get("alias")
        return (alias, None, distinct) if alias not in _NOTHING_SENT else (distinct, None, None)
    if name == "$groupidentify" and _stands_for_group(distinct, told):
        return None, None, None
    return (None, distinct, None) if _is_anonymous(distinct, told, options) else (distinct, None, None)


def _is_anonymous(distinct: Any, told: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    identified = told.get("$is_identified")
    if isinstance(identified, bool):
        return not identified
    if isinstance(distinct, str) and distinct and distinct == told.get("$device_id"):
        return True
    profiled = told.get("$process_person_profile")
    return _truth(options.get("process_person_profile") if profiled is None else profiled) is False


def _stands_for_group(distinct: Any, told: Mapping[str, Any]) -> bool:
    kind, key = told.get("$group_type"), told.get("$group_key")
    return isinstance(kind, str) and isinstance(key, str | int) and distinct == f"${kind}_{key}"


def _stored(event: Mapping[str, Any], told: Mapping[str, Any], type_: str) -> Any:
    """What the event's properties are."""
    if type_ == "identify":
        return _person(event, told, _traits_key(event))
    if type_ == "group":
        return told.get("$group_set")
    return without_address(told)


def _traits_key(event: Mapping[str, Any]) -> str:
    """Where an identify call has the traits that it is about."""
    return "$set_once" if event.get("event") == "$set_once" else "$set"


def _person(event: Mapping[str, Any], told: Mapping[str, Any], key: str) -> Any:
    """`$set` and its like, which stand beside the properties, within them, or both: then the outer ones win."""
    outer, inner = event.get(key), told.get(key)
    if outer is None:
        return inner
    return {**inner, **outer} if isinstance(inner, dict) and isinstance(outer, dict) else outer


def _context(
    event: Mapping[str, Any], told: Mapping[str, Any], type_: str, options: Mapping[str, Any], sender: Sender
) -> dict[str, Any]:
    """The event's context: what columns are made of, and what the stored properties leave out."""
    context = context_of(told, is_screen=type_ == "screen")
    if "library" not in context:
        info = sender.library or _library(event)
        if info:
            context["library"] = library_of(info)
    if options:
        context["options"] = options
    window = event.get("window_id")
    if isinstance(window, str) and window:
        context["windowId"] = window
    is_identify = type_ == "identify"
    person = told if is_identify else _NOTHING  # of others it stays within the properties
    for key in _PERSON_KEYS:
        if not is_identify or key != _traits_key(event):
            found = _person(event, person, key)
            if found:
                context[key] = found
    if type_ in ("identify", "group"):
        left_out = _PERSON_KEYS if is_identify else _GROUP_KEYS
        rest = {key: item for key, item in without_address(told).items() if key not in left_out}
        if rest:
            context["properties"] = rest
    return context


def _library(event: Mapping[str, Any]) -> str:
    """Of older server SDKs, which say it beside the properties."""
    name, version = event.get("library"), event.get("library_version")
    if not isinstance(name, str):
        return ""
    return f"{name}/{version}" if isinstance(version, str) else name


def _truth(value: Any) -> bool | None:
    """A flag as PostHog reads it: booleans, numbers, and the usual words. None: it is none."""
    if isinstance(value, bool | int | float):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else None
    return None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _NOTHING


def _raw(value: Any) -> bytes:
    """What was sent, for whoever looks into the rejected events."""
    try:
        return _ENCODE(value)
    except RecursionError:
        return b""
