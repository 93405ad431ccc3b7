"""Browser, operating system and kind of device: told from a User-Agent header, in one vocabulary for all senders.

Who made an agent is told by ua-parser (the patterns of uap-core, in Rust), what is a crawler by it and by the list
of crawler-user-agents. Browsers are named as products whatever they run on: Chrome, Edge, Firefox, Internet Explorer,
Opera, Safari, Samsung Internet, others by the library's name. Systems: Android, ChromeOS, Linux, Windows, iOS, macOS,
others likewise. Devices: desktop, mobile, tablet, tv, console, and bot for crawlers and tools, which have no browser.
Unknown parts are None. `browser_name`, `system_name` and `device_kind` bring other senders' words for these into the
same vocabulary; a word that is unknown stays as it is. Every name is bounded as a dimension.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from schemas.event import bound_dimension

USER_AGENT_CHARS_MAX: Final = 1024  # the rest tells nothing and would only cost time
CACHED_MAX: Final = 10_000
NAMES_CACHED_MAX: Final = 4_096
NAME_CHARS_MAX: Final = 255
"""Longer names are worked out each time, so that the memory of them stays small."""

_SPIDER: Final = "Spider"
"""What uap-core calls the device of a crawler."""
_APPS_TOO: Final = frozenset(("okhttp",))
"""Patterns of the crawlers' list that are as well the HTTP client of people's apps."""
_TOOL = re.compile(r"bot\b|crawl|spider|feed ?(?:parser|fetcher)|libwww", re.IGNORECASE)
"""What the lists do not know by name but says so itself."""

_BROWSERS: Final = {
    "Chrome": "chrome mobile, chrome mobile ios, chrome mobile webview, chrome ios, google chrome, "
    "headlesschrome, chrome webview, android webview, crios",
    "Edge": "edge mobile, microsoft edge, microsoft edge webview2, edge webview2, edg",
    "Firefox": "firefox mobile, firefox ios, mozilla firefox, mozilla, fxios",
    "Internet Explorer": "ie, ie mobile, msie, internet explorer mobile, microsoft internet explorer",
    "Opera": "opera mobile, opera mini, opera gx, opera tablet, opera touch",
    "Safari": "mobile safari, mobile safari ui/wkwebview, apple safari, webkit",
    "Samsung Internet": "samsung browser, samsungbrowser",
}
_SYSTEMS: Final = {
    "Android": "android os",
    "ChromeOS": "chrome os, chromium os, cros",
    "Linux": "gnu/linux, ubuntu, debian, fedora, red hat, suse, opensuse, linux mint, gentoo, arch linux, centos",
    "Windows": "windows nt, windows xp, windows vista, windows 7, windows 8, windows 10, windows 11, win32",
    "iOS": "iphone os, ipados, iphone, ipad",
    "macOS": "mac os x, mac os, os x, macintosh, macintel, darwin",
    "webOS": "web0s",
}
_DEVICES: Final = {
    "bot": "spider, crawler, robot",
    "console": "gaming console",
    "desktop": "computer, pc, laptop, notebook, personal computer",
    "mobile": "phone, smartphone, mobile phone, handset, iphone, ios, android",
    "tablet": "ipad",
    "tv": "smarttv, smart tv, smart-tv, television",
}

_TV = re.compile(r"Smart-?TV|\bTV\b|Apple ?TV|BRAVIA|HbbTV|\bCrKey\b|\bRoku|Web0S", re.IGNORECASE)
_CONSOLE = re.compile(r"PlayStation|Xbox|Nintendo")
_TABLET = re.compile(r"iPad|Tablet(?! PC)|Kindle|\bSilk/")
_MOBILE = re.compile(r"Mobi|iPhone|iPod|Android")


@dataclass(frozen=True, slots=True)
class UserAgent:
    """What a header tells."""

    browser: str | None = None
    os: str | None = None
    device: str | None = None


UNKNOWN = UserAgent()


@lru_cache(maxsize=CACHED_MAX)
def parse_user_agent(header: str) -> UserAgent:
    """The parts of a User-Agent header. Never raises. The first call of a process takes about 0.2 s, see `warm_up`;
    then a new header takes about 20 µs, one that was seen 0.1 µs."""
    text = header[:USER_AGENT_CHARS_MAX]
    if not text.strip():
        return UNKNOWN
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()  # the libraries take no unpaired surrogates
    told, crawlers, everything = _libraries()
    found = told(text, everything)
    system = None if found.os is None else system_name(found.os.family)
    family = "" if found.user_agent is None else found.user_agent.family
    made_by_spider = found.device is not None and found.device.family == _SPIDER
    if made_by_spider or crawlers.extract(text) is not None or _TOOL.search(text):
        return UserAgent(None, system, "bot")
    if family == "Android":  # the old browser of that name, or a Chrome that hides its version
        family = "Chrome" if "Chrome/" in text else "Android Browser"
    return UserAgent(browser_name(family), system, _kind(text, system))


def warm_up() -> None:
    """Load the libraries' patterns now rather than at the first header."""
    _libraries()


def browser_name(told: str) -> str | None:
    """The vocabulary's name of a browser, None for an empty one."""
    return _known(told, "browser") if len(told) <= NAME_CHARS_MAX else bound_dimension(told)


def system_name(told: str) -> str | None:
    """The vocabulary's name of an operating system, None for an empty one."""
    return _known(told, "system") if len(told) <= NAME_CHARS_MAX else bound_dimension(told)


def device_kind(told: str) -> str | None:
    """The vocabulary's name of a kind of device, None for an empty one."""
    return _known(told, "device") if len(told) <= NAME_CHARS_MAX else bound_dimension(told)


@lru_cache(maxsize=NAMES_CACHED_MAX)
def _known(told: str, what: str) -> str | None:
    return bound_dimension(_vocabulary()[what].get(told.strip().lower(), told)) or None


@cache
def _vocabulary() -> dict[str, dict[str, str]]:
    """Of each kind of thing, its name by every word for it in lower case."""
    return {
        what: {word: name for name, words in names.items() for word in (name.lower(), *words.split(", "))}
        for what, names in (("browser", _BROWSERS), ("system", _SYSTEMS), ("device", _DEVICES))
    }


def _kind(text: str, system: str | None) -> str | None:
    if _TV.search(text):
        return "tv"
    if _CONSOLE.search(text):
        return "console"
    if _TABLET.search(text) or ("Android" in text and "Mobile" not in text):
        return "tablet"
    if _MOBILE.search(text) or system == "iOS":
        return "mobile"
    return "desktop" if system else None


@cache
def _libraries() -> tuple[Any, Any, Any]:
    """ua-parser's resolver, what finds a crawler, and what to ask the resolver for. Takes 0.2 s and 30 MB."""
    import ua_parser_rs
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA  # type: ignore[import-untyped]
    from ua_parser import Domain
    from ua_parser.loaders import load_builtins
    from ua_parser.regex import Resolver

    patterns = [each["pattern"] for each in CRAWLER_USER_AGENTS_DATA if each["pattern"] not in _APPS_TOO]
    # The same engine as ua-parser's: 1,500 patterns in a microsecond, where Python's own takes 300.
    crawlers = ua_parser_rs.UserAgentExtractor([(each, "bot", None, None, None, None) for each in patterns])
    return Resolver(load_builtins()), crawlers, Domain.ALL
