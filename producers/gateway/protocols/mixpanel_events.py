"""Mixpanel's messages as raw events: events with their reserved properties, updates of profiles and of groups'
profiles.

An event's properties are stored as sent, reserved ones too; what later stages understand is copied into its context.
Pure, and takes anything: what has the wrong type is passed on for `normalise` to judge.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import xxhash

from producers.gateway.json_body import Unusable
from producers.gateway.protocols.decoder import RawEvent
from producers.gateway.timestamps import as_sent_us

OPERATIONS: Final = ("$set", "$set_once", "$add", "$append", "$union", "$remove", "$unset", "$delete")
"""What a message may do to a profile, in the order in which several are named."""
DEVICE_PREFIX: Final = "$device:"
"""Of a distinct_id that is no user's but a device's."""
REST_KEY: Final = "mixpanel"
"""Where the context keeps a message's fields that have no place of their own, such as `$group_key`."""

_ENCODE_SORTED = msgspec.json.Encoder(order="deterministic").encode
_PAGE_VIEW = "$mp_web_page_view"
_NUMBER = re.compile(r"\s*(\d{1,16}(?:\.\d{1,9})?)\s*", re.ASCII)
_EVENT_KEYS = frozenset(("event", "properties"))
_PROFILE_KEYS = frozenset((*OPERATIONS, "$token", "token", "$distinct_id", "$group_id", "$ip"))
_CONTEXT: Final = (
    (
        "page",
        (
            ("url", "$current_url"),
            ("path", "current_url_path"),
            ("search", "current_url_search"),
            ("referrer", "$referrer"),
            ("title", "current_page_title"),
        ),
    ),
    (
        "campaign",
        (
            ("source", "utm_source"),
            ("medium", "utm_medium"),
            ("name", "utm_campaign"),
            ("term", "utm_term"),
            ("content", "utm_content"),
        ),
    ),
    ("os", (("name", "$os"), ("version", "$os_version"))),
    ("device", (("manufacturer", "$manufacturer"), ("model", "$model"))),
    ("location", (("country", "mp_country_code"), ("region", "$region"), ("city", "$city"))),
    ("library", (("name", "mp_lib"), ("version", "$lib_version"))),
)


def token_of(message: Mapping[str, Any]) -> str | None:
    """The write key that a message names, if it does."""
    properties = message.get("properties")
    for holder in (properties, message) if isinstance(properties, dict) else (message,):
        for name in ("token", "$token"):
            token = holder.get(name)
            if isinstance(token, str) and token:
                return token
    return None


def to_event(message: Mapping[str, Any]) -> RawEvent:
    """A message of /track or /import."""
    properties = message.get("properties")
    get = properties.get if isinstance(properties, dict) else {}.get
    name = message.get("event")
    type_, previous_id = "track", None
    user_id, anonymous_id = _who(get("distinct_id"), get("$user_id"), get("$device_id"))
    if name == _PAGE_VIEW:
        type_ = "page"
    elif name == "$identify":
        type_ = "identify"
        earlier = _first(get("$anon_distinct_id"), get("$anon_id"))
        user_id = _first(user_id, get("$identified_id"))
        previous_id = _without_prefix(earlier)
        if earlier is not previous_id:
            anonymous_id = _first(anonymous_id, previous_id)
    elif name == "$create_alias":
        type_ = "alias"
        user_id, previous_id = get("alias"), _without_prefix(get("distinct_id"))
    elif name == "$merge":
        type_ = "alias"
        ids = get("$distinct_ids")
        if isinstance(ids, list) and len(ids) == 2:
            user_id, previous_id = _without_prefix(ids[0]), _without_prefix(ids[1])
    context = _context(properties) if isinstance(properties, dict) else {}
    if not _EVENT_KEYS.issuperset(message):
        _keep_rest(context, message, _EVENT_KEYS)
    return RawEvent(
        type_,
        name,
        get("$insert_id"),
        user_id,
        anonymous_id,
        None,
        previous_id,
        None,
        _time(get("time")),
        None,
        properties,
        context,
        0,
        message,
        as_sent_us,
    )


def to_profile(message: Mapping[str, Any], mark: tuple[str, int] | None, *, is_group: bool) -> RawEvent | Unusable:
    """A message of /engage or /groups. `mark` is the same for a repeated request and differs for all others."""
    operations = [name for name in OPERATIONS if name in message]
    if not operations:
        return unusable(message, "missing_event_name", "an update of a profile needs an operation such as $set")
    properties = {name: message[name] for name in operations}
    alone = message[operations[0]]
    if len(operations) == 1 and isinstance(alone, dict):
        properties = alone
    user_id, anonymous_id = None, None
    if not is_group:
        user_id, anonymous_id = _who(message.get("$distinct_id"), message.get("$user_id"), message.get("$device_id"))
    context: dict[str, Any] = {}
    address = message.get("$ip")
    if isinstance(address, str) and address:
        context["ip"] = address
    _keep_rest(context, message, _PROFILE_KEYS)
    return RawEvent(
        "group_profile" if is_group else "profile",
        ",".join(operations),
        _profile_id(message, mark),
        user_id,
        anonymous_id,
        message.get("$group_id") if is_group else None,
        None,
        None,
        None,  # `$time` says when the profile was seen, not when the update happened
        None,
        properties,
        context,
        0,
        message,
        as_sent_us,
    )


def unusable(message: Any, reason: str, why: str, content: bytes = b"") -> Unusable:
    """`message` set aside; with `content`, what it stood in, where it cannot be written again."""
    try:
        raw = _ENCODE_SORTED(message)
    except (RecursionError, ValueError, OverflowError, TypeError):
        raw = content
    return Unusable(reason, why, raw)


def _who(distinct_id: Any, user_id: Any, device_id: Any) -> tuple[Any, Any]:
    """User and device. A distinct_id is the user's, unless it says or is known to be the device's."""
    if isinstance(distinct_id, str) and distinct_id.startswith(DEVICE_PREFIX):
        return _first(user_id), _first(device_id, distinct_id[len(DEVICE_PREFIX) :])
    if device_id is not None and distinct_id == device_id:  # browsers before the prefix was introduced
        return _first(user_id), _first(device_id)
    return _first(user_id, distinct_id), _first(device_id)


def _without_prefix(distinct_id: Any) -> Any:
    if isinstance(distinct_id, str) and distinct_id.startswith(DEVICE_PREFIX):
        return distinct_id[len(DEVICE_PREFIX) :]
    return distinct_id


def _first(*values: Any) -> Any:
    """The first of `values` that is one."""
    for value in values:
        if value is not None and value != "":
            return value
    return None


def _time(value: Any) -> Any:
    """Seconds or milliseconds that were sent as a text are numbers all the same."""
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is not None:
            return float(match[1])
    return value


def _context(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What reserved properties say under the names that later stages understand; only texts count."""
    get = properties.get
    context: dict[str, Any] = {}
    for place, fields in _CONTEXT:
        found = {name: value for name, key in fields if isinstance(value := get(key), str) and value}
        if found:
            context[place] = found
    browser = get("$browser")
    if isinstance(browser, str) and browser:
        context["userAgentData"] = {"brands": [{"brand": browser}]}
    address = _first(get("ip"), get("$ip"))
    if isinstance(address, str):
        context["ip"] = address
    return context


def _keep_rest(context: dict[str, Any], message: Mapping[str, Any], known: frozenset[str]) -> None:
    rest = {key: value for key, value in message.items() if key not in known}
    if rest:
        context[REST_KEY] = rest


def _profile_id(message: Mapping[str, Any], mark: tuple[str, int] | None) -> Any:
    """An id that a repeated update has again. Without its own time or a mark it could not be told from the same
    update meant twice, such as two increments: it then has none."""
    given = message.get("$insert_id")
    if given is not None and given != "":
        return given
    if message.get("$time") is not None:
        stable: Any = message
    elif mark is not None:
        stable = (mark, message)
    else:
        return None
    try:
        return f"content-{xxhash.xxh128_hexdigest(_ENCODE_SORTED(stable))}"
    except (RecursionError, ValueError, OverflowError):
        return None  # it will be refused for what could not be written
