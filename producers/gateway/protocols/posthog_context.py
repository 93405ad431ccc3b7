"""PostHog's `$` properties as the context that later stages understand.

The properties themselves stay where they are; the context says once more what the columns are made of. A server's
own operating system (`$is_server`) is nobody's device and is left out. `$ip` is the exception: it is moved, so that a
customer's policy on addresses holds for it.
"""

from collections.abc import Mapping
from typing import Any, Final

ADDRESS_KEY: Final = "$ip"
DIRECT: Final = "$direct"
"""What posthog-js writes for "no referrer"."""

_TOP: Final = ""
_DEVICE_SECTIONS: Final = frozenset(("os", "browser", "device"))
_PLACES: Final[Mapping[str, tuple[str, str]]] = {
    "$current_url": ("page", "url"),
    "$pathname": ("page", "path"),
    "$referrer": ("page", "referrer"),
    "utm_source": ("campaign", "source"),
    "utm_medium": ("campaign", "medium"),
    "utm_campaign": ("campaign", "name"),
    "utm_term": ("campaign", "term"),
    "utm_content": ("campaign", "content"),
    "$lib": ("library", "name"),
    "$lib_version": ("library", "version"),
    "$os": ("os", "name"),
    "$os_version": ("os", "version"),
    "$browser": ("browser", "name"),
    "$device_type": ("device", "type"),
    "$device_model": ("device", "model"),
    "$device_manufacturer": ("device", "manufacturer"),
    "$geoip_country_code": ("location", "country"),
    "$raw_user_agent": (_TOP, "userAgent"),
    "$user_agent": (_TOP, "userAgent"),
    "$browser_language": (_TOP, "locale"),
    "$locale": (_TOP, "locale"),
    "$timezone": (_TOP, "timezone"),
    ADDRESS_KEY: (_TOP, "ip"),
}
"""Where a property's text stands in the context; of two for the same place the first one counts."""


def context_of(told: Mapping[str, Any], *, is_screen: bool) -> dict[str, Any]:
    """The context in an event's properties, without what they do not tell."""
    context: dict[str, Any] = {}
    is_server = told.get("$is_server") is True
    for key, value in told.items():
        place = _PLACES.get(key)
        if place is None or not _is_text(value) or value == DIRECT:
            continue
        section, field = place
        if section == _TOP:
            context.setdefault(field, value)
        elif not is_server or section not in _DEVICE_SECTIONS:
            context.setdefault(section, {})[field] = value
    device = context.get("device")
    if device is not None and "type" in device:
        device["type"] = device["type"].lower()
    screen = told.get("$screen_name")
    if is_screen and _is_text(screen):
        context.setdefault("page", {}).setdefault("path", screen)
    return context


def without_address(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The properties without the address that stands in the context."""
    if not _is_text(told.get(ADDRESS_KEY)):
        return told
    return {key: item for key, item in told.items() if key != ADDRESS_KEY}


def library_of(info: str) -> dict[str, str]:
    """`name/version`, as the header PostHog-Sdk-Info has it, as a context's library."""
    name, _, version = info.partition("/")
    return {"name": name, "version": version} if version else {"name": name}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
