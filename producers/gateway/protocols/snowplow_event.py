"""One event of Snowplow's tracker protocol as a raw event.

Page views are pages; self-describing screen views are screens; all else is tracked under its action, its schema's
name or, where the data is `{event, properties}`, under the name in it. The fields of structured events, transactions
and page pings keep their tp2 names. Nothing that a device tells is lost: fields without a place of their own stay in
the context under `tp2`. Of a server's tracker (`p` is `srv`) its own name and platform are not stored.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from producers.gateway.json_body import Unusable
from producers.gateway.protocols.decoder import RawEvent
from producers.gateway.protocols.snowplow_contexts import Named, named
from producers.gateway.protocols.snowplow_json import InnerJson

UNIDENTIFYING: Final = frozenset(("stm",))
"""Fields that change from one attempt to the next."""

SERVER: Final = "srv"

_ENCODE = msgspec.json.Encoder().encode
_IGLU = re.compile(r"iglu:[^/]+/([^/]+)/")
_MILLISECONDS = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_SECONDS_BELOW = 1e11
"""Times from here on are read as milliseconds by `parse_us`, smaller ones as seconds."""
_TRACKER_VERSION = re.compile(r"(.+?)-(\d.*)", re.DOTALL)
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})", re.ASCII)

_PREFIXES: Final[Mapping[str, str]] = {"se": "se_", "pp": "pp_", "tr": "tr_", "ti": "ti_"}
"""Kinds of event whose properties are fields, and how these begin."""
_NAMES: Final[Mapping[str, str]] = {"pp": "page_ping", "tr": "transaction", "ti": "transaction_item"}
_VALUES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "tr": (("total", "tr_tt"), ("currency", "tr_cu")),
}
"""Fields that are properties by the name that an event's value is found under, too."""

_ANONYMOUS_IDS: Final = ("duid", "nuid", "tnuid")
_TO_CONTEXT: Final[Mapping[str, str]] = {"lang": "locale", "tz": "timezone", "ua": "userAgent", "ip": "ip"}
_PLACED: Final = frozenset(
    ("e", "eid", "aid", "p", "tv", "tna", "uid", "duid", "sid", "dtm", "ttm", "stm", "url", "page", "refr", "res",
     "ue_pr", "ue_px", "co", "cx", *_TO_CONTEXT)
)  # fmt: skip
"""Fields that have a place of their own, or are the envelope's."""


def to_event(message: Mapping[str, Any], inner: InnerJson) -> RawEvent | Unusable:
    """`message` as a raw event. Raises NotPlainError, see InnerJson."""
    get = message.get
    kind = get("e")
    contexts = inner.of(message, "co", "cx")
    if isinstance(contexts, Unusable):
        return contexts
    entities = None if contexts is None else contexts.get("data")
    known = named(entities)
    if kind == "pv":
        type_, name = "page", get("page")
        properties = _present(url=get("url"), referrer=get("refr"))
    elif kind == "ue":
        described = inner.of(message, "ue_pr", "ue_px")
        if isinstance(described, Unusable):
            return described
        type_, name, properties = self_describing((described or {}).get("data"))
    elif isinstance(kind, str) and kind in _PREFIXES:
        type_, name = "track", _NAMES.get(kind, get("se_ac"))
        properties = _fields(message, kind)
    else:
        told = repr(kind[:40]) if isinstance(kind, str) else f"a {type(kind).__name__}"
        return Unusable("unknown_type", f"{told} is not a kind of Snowplow event", _ENCODE(message))
    ids = [get(field) for field in _ANONYMOUS_IDS]
    true_time = get("ttm")
    return RawEvent(
        type_,
        name,
        get("eid"),
        get("uid"),
        next((id_ for id_ in ids if id_), known.anonymous_id),
        None,
        None,
        get("sid") or known.session_id,
        milliseconds(get("dtm")) if true_time in (None, "") else milliseconds(true_time),
        # Who says when it truly was needs no correction of a clock.
        milliseconds(get("stm")) if true_time in (None, "") else None,
        properties,
        _context(message, kind, entities, known),
        0,
        message,
    )


def self_describing(event: Any) -> tuple[str, Any, Any]:
    """Type, name and properties of `{schema, data}`. Without a schema there is no name: nothing tells what it is."""
    schema = event.get("schema") if isinstance(event, dict) else None
    found = _IGLU.match(schema) if isinstance(schema, str) else None
    if found is None:
        return "track", None, None
    data = event.get("data")
    if found[1] == "screen_view":
        return "screen", data.get("name") if isinstance(data, dict) else None, data
    if isinstance(data, dict) and data.keys() == {"event", "properties"}:
        name, properties = data["event"], data["properties"]
        if isinstance(name, str) and name and isinstance(properties, dict):
            return "track", name, properties
    return "track", found[1], data


def milliseconds(value: Any) -> Any:
    """A time in milliseconds, mostly a text, as `parse_us` takes it; what is no number as it is."""
    if isinstance(value, str) and _MILLISECONDS.fullmatch(value):
        value = float(value) if "." in value else int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _SECONDS_BELOW:
        return value / 1000
    return value


def _fields(message: Mapping[str, Any], kind: str) -> dict[str, Any]:
    prefix = _PREFIXES[kind]
    found = {key: value for key, value in message.items() if key.startswith(prefix) and key != "se_ac"}
    for name, field in _VALUES.get(kind, ()):
        if field in found:
            found[name] = found[field]
    return found


def _context(message: Mapping[str, Any], kind: str, entities: Any, known: Named) -> dict[str, Any]:
    get = message.get
    context: dict[str, Any] = {"contexts": entities, **known.context}
    if kind != "pv":
        page = _present(url=get("url"), title=get("page"), referrer=get("refr"))
        if page:
            context["page"] = page
    for field, name in _TO_CONTEXT.items():
        if get(field):
            context[name] = message[field]
    if get("res"):
        context["screen"] = _screen(message["res"])
    if get("p") != SERVER:
        context |= _present(platform=get("p"), library=_library(message))
    prefix = _PREFIXES.get(kind)
    anonymous_from = next((field for field in _ANONYMOUS_IDS if get(field)), None)
    left = {
        key: value
        for key, value in message.items()
        if key not in _PLACED and key != anonymous_from and not (prefix and key.startswith(prefix))
    }
    if left:
        context["tp2"] = left
    return context


def _screen(resolution: Any) -> dict[str, Any]:
    """Width and height from such as `1920x1080`."""
    size = _SIZE.fullmatch(resolution) if isinstance(resolution, str) else None
    return {"size": resolution} if size is None else {"width": int(size[1]), "height": int(size[2])}


def _library(message: Mapping[str, Any]) -> dict[str, Any]:
    """The tracker, from such as `js-4.10.1`."""
    version = message.get("tv")
    if not isinstance(version, str) or not version:
        return {}
    parts = _TRACKER_VERSION.fullmatch(version)
    name, number = (parts[1], parts[2]) if parts else (version, None)
    return _present(name=f"snowplow-{name}", version=number, namespace=message.get("tna"))


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", {})}
