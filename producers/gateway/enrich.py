"""The columns that later stages group by, taken from what the protocol itself tells: page, campaign, device.

Pure. Browsers, systems and devices have the names of `producers.user_agent`, whoever told them. What only a library
can tell (from an address or a user agent) comes in through `Lookup`, which is asked for the fields that the protocol
leaves open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

from producers.user_agent import browser_name, device_kind, system_name
from schemas.event import bound_dimension

URL_CACHE_MAX: Final = 4096
"""Different page addresses whose parts are kept; busy pages repeat."""
URL_CHARS_MAX: Final = 8192
"""Longer addresses are cut before they are taken apart."""

REMEMBERED_MAX: Final = 8192
"""Dimension values whose bounded form is kept: event names, paths and sources repeat."""
REMEMBERED_CHARS_MAX: Final = 255
"""Longer ones are worked out each time, so that the memory of them stays small."""

COUNTRY_CODE_CHARS: Final = 2
_NOT_A_BRAND = "brand"
_PAGE_TYPES = frozenset(("page", "screen"))
PAGE_KEYS: Final = ("page", "campaign")
DEVICE_KEYS: Final = ("location", "browser", "os", "device", "userAgentData")
"""Of a context: what tells the dimensions up to the campaign, and the others."""
DEVICE_FIELDS: Final = 4
"""So many dimensions, the last ones, are of the device."""
_ARE_PAGE_KEYS, _ARE_DEVICE_KEYS = frozenset(PAGE_KEYS), frozenset(DEVICE_KEYS)
_EMPTY: Mapping[str, Any] = {}


class Enriched(NamedTuple):
    """Bounded dimension values; None where nothing tells."""

    path: str | None = None
    referrer_domain: str | None = None
    utm_source: str | None = None
    utm_medium: str | None = None
    utm_campaign: str | None = None
    country: str | None = None
    browser: str | None = None
    os: str | None = None
    device: str | None = None


NOTHING = Enriched()


class Lookup(Protocol):
    """Tells more about a sender. Called once an event on the event loop: it must not block and never raises."""

    def __call__(self, enriched: Enriched, *, address: str, user_agent: str) -> Enriched:
        """`enriched` with the open ones of country, browser, os and device filled."""


@dataclass(frozen=True, slots=True)
class PageAddress:
    """The parts of a URL that count."""

    host: str
    path: str
    utm_source: str
    utm_medium: str
    utm_campaign: str


NO_ADDRESS = PageAddress("", "", "", "", "")


def enrich(type_: str, name: str, properties: Mapping[str, Any], context: Mapping[str, Any]) -> Enriched:
    """The dimensions of one event, from its context and, for page views, from its properties."""
    if type_ not in _PAGE_TYPES and _ARE_PAGE_KEYS.isdisjoint(context):
        return _device(NOTHING, context)
    page = _object(context, "page")
    if not page and type_ == "page":
        page = properties
    campaign = _object(context, "campaign")
    address = _address(_text(page, "url"))
    path = _text(page, "path") or address.path
    if not path and type_ == "screen":
        path = name
    referrer = _address(_text(page, "referrer")).host
    search = _text(page, "search")
    in_search = _address("/" + search) if search and not address.utm_source else address
    enriched = Enriched(
        bounded(path),
        bounded(referrer if referrer != address.host else ""),
        bounded(_text(campaign, "source") or in_search.utm_source),
        bounded(_text(campaign, "medium") or in_search.utm_medium),
        bounded(_text(campaign, "name") or in_search.utm_campaign),
    )
    return _device(enriched, context)


def bounded(text: str) -> str | None:
    """`text` as a dimension's value, None if it is empty."""
    if len(text) > REMEMBERED_CHARS_MAX:
        return bound_dimension(text)
    return _remembered(text)


def library(context: Mapping[str, Any]) -> str:
    """`name/version` of the SDK, as the context tells it; empty if it does not."""
    found = context.get("library")
    if not isinstance(found, dict):
        return ""
    name, version = _text(found, "name"), _text(found, "version")
    return bounded(f"{name}/{version}" if version else name) or ""


def _device(enriched: Enriched, context: Mapping[str, Any]) -> Enriched:
    """Add country, browser, operating system and kind of device."""
    if _ARE_DEVICE_KEYS.isdisjoint(context):
        return enriched
    get = context.get
    country = browser = system = kind = ""
    if isinstance(found := get("location"), dict):
        country = _text(found, "country")
    if isinstance(found := get("os"), dict):
        system = _text(found, "name")
    if isinstance(found := get("device"), dict):
        kind = _text(found, "type")
    if isinstance(found := get("userAgentData"), dict):
        browser = _brand(found.get("brands"))
        system = system or _text(found, "platform")
        if not kind and isinstance(found.get("mobile"), bool):
            kind = "mobile" if found["mobile"] else "desktop"
    if not browser and isinstance(found := get("browser"), dict):
        browser = _text(found, "name")
    path, referrer, source, medium, campaign, *_ = enriched
    return Enriched(
        path,
        referrer,
        source,
        medium,
        campaign,
        bounded(_country(country)) if country else None,
        browser_name(browser) if browser else None,
        system_name(system) if system else None,
        device_kind(kind) if kind else None,
    )


def _country(told: str) -> str:
    """Codes in upper case, as the country database has them; names as they are."""
    return told.upper() if len(told) == COUNTRY_CODE_CHARS else told


def _brand(brands: Any) -> str:
    """The most telling of a browser's brands: not the decoy ("Not;A=Brand"), and Chromium only if alone."""
    if not isinstance(brands, list):
        return ""
    names = [_text(item, "brand") for item in brands if isinstance(item, dict)]
    names = [name for name in names if name and not (name.startswith("Not") and _NOT_A_BRAND in name.lower())]
    telling = [name for name in names if name != "Chromium"]
    return (telling or names or [""])[0]


@lru_cache(maxsize=REMEMBERED_MAX)
def _remembered(text: str) -> str | None:
    return bound_dimension(text) if text else None


@lru_cache(maxsize=URL_CACHE_MAX)
def _split(url: str) -> PageAddress:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:  # such as an unclosed IPv6 bracket: no address, and no reason to refuse the event
        return NO_ADDRESS
    query = parse_qs(parts.query, max_num_fields=None) if "utm_" in parts.query else {}
    return PageAddress(
        host,
        parts.path,
        query.get("utm_source", [""])[0],
        query.get("utm_medium", [""])[0],
        query.get("utm_campaign", [""])[0],
    )


def _address(url: str) -> PageAddress:
    return _split(url[:URL_CHARS_MAX]) if url else NO_ADDRESS


def _object(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = mapping.get(key)
    return found if isinstance(found, dict) else _EMPTY


def _text(mapping: Mapping[str, Any], key: str) -> str:
    found = mapping.get(key)
    return found if isinstance(found, str) else ""
