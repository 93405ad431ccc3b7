"""What Snowplow's well-known context entities tell, under the names that later stages understand.

Pure. An entity stays where it is; a malformed one tells nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ENTITIES_MAX: Final = 100
"""Entities of one event that are looked at; trackers attach a handful."""

_SYSTEMS: Final[Mapping[str, str]] = {"ios": "iOS", "android": "Android"}
"""Operating systems as user agents' readers spell them."""


@dataclass(slots=True)
class Named:
    """What was found. `context`: parts of an event's context."""

    session_id: Any = None
    anonymous_id: Any = None
    context: dict[str, Any] = field(default_factory=dict)


def named(entities: Any) -> Named:
    """What `entities` (a list of `{schema, data}`) tell; the first of a kind counts."""
    found = Named()
    if not isinstance(entities, list):
        return found
    for entity in entities[:ENTITIES_MAX]:
        schema = entity.get("schema") if isinstance(entity, dict) else None
        data = entity.get("data") if isinstance(entity, dict) else None
        if not isinstance(schema, str) or not isinstance(data, dict):
            continue
        parts = schema.removeprefix("iglu:").split("/", 2)
        read = _READERS.get("/".join(parts[:2]))
        if read is not None:
            read(data, found)
    return found


def _session(data: Mapping[str, Any], found: Named) -> None:
    found.session_id = found.session_id or _text(data, "sessionId")
    found.anonymous_id = found.anonymous_id or _text(data, "userId")


def _mobile(data: Mapping[str, Any], found: Named) -> None:
    system = _text(data, "osType")
    if system:
        name = _SYSTEMS.get(system.lower(), system)
        found.context.setdefault("os", _filled({"name": name, "version": _text(data, "osVersion")}))
    model = _text(data, "deviceModel")
    device = {
        "type": "tablet" if model and "ipad" in model.lower() else "mobile",
        "manufacturer": _text(data, "deviceManufacturer"),
        "model": model,
    }
    found.context.setdefault("device", _filled(device))


def _application(data: Mapping[str, Any], found: Named) -> None:
    app = _filled({"version": _text(data, "version"), "build": _text(data, "build")})
    if app:
        found.context.setdefault("app", app)


def _geolocation(data: Mapping[str, Any], found: Named) -> None:
    place = {name: data[name] for name in ("latitude", "longitude") if isinstance(data.get(name), int | float)}
    if place:
        found.context.setdefault("location", place)


def _client_hints(data: Mapping[str, Any], found: Named) -> None:
    hints = {"mobile": data.get("isMobile"), "brands": data.get("brands"), "platform": data.get("platform")}
    hints = _filled(hints)
    if hints:
        found.context.setdefault("userAgentData", hints)


_READERS: Final = {
    "com.snowplowanalytics.snowplow/client_session": _session,
    "com.snowplowanalytics.snowplow/mobile_context": _mobile,
    "com.snowplowanalytics.snowplow/geolocation_context": _geolocation,
    "com.snowplowanalytics.mobile/application": _application,
    "org.ietf/http_client_hints": _client_hints,
}


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) and value else None
