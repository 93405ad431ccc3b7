"""What a page's address tells: host, path and campaign; and where a visitor came from.

Pure, and the one reading of URLs for the gateway and the importer, so that the same page and the same referrer are
the same row however their events came in. An address that cannot be read tells nothing; it never raises.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qs, urlsplit

URL_CACHE_MAX: Final = 4096
"""Different addresses whose parts are kept; busy pages repeat."""
URL_CHARS_MAX: Final = 8192
"""Longer addresses are cut before they are taken apart."""


@dataclass(frozen=True, slots=True)
class PageAddress:
    """The parts of a URL that count; "" for a part that it does not have. `host` is lower case, without `www.`."""

    host: str
    path: str
    utm_source: str
    utm_medium: str
    utm_campaign: str


NO_ADDRESS: Final = PageAddress("", "", "", "", "")


def page_address(url: str) -> PageAddress:
    """The parts of `url`: absolute, or a path with its query."""
    return _split(url[:URL_CHARS_MAX]) if url else NO_ADDRESS


def referrer_domain(referrer: str, page_host: str) -> str:
    """The host of `referrer`; "" when it is the page's own (a `PageAddress.host`): nobody came from there."""
    host = page_address(referrer).host
    return "" if host == page_host else host


@lru_cache(maxsize=URL_CACHE_MAX)
def _split(url: str) -> PageAddress:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").removeprefix("www.")
        query = parse_qs(parts.query) if "utm_" in parts.query else {}
    except ValueError:  # such as an unclosed IPv6 bracket: no address, and no reason to refuse the event
        return NO_ADDRESS
    return PageAddress(
        host,
        parts.path,
        query.get("utm_source", [""])[0],
        query.get("utm_medium", [""])[0],
        query.get("utm_campaign", [""])[0],
    )
