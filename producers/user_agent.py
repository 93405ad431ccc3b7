"""Browser, operating system and kind of device, told from a User-Agent header.

A handful of ordered tests, no database: the question is which of the ten big names, not which build. Unknown
parts are None; crawlers and tools are told as device `bot`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

USER_AGENT_CHARS_MAX: Final = 1024  # the rest tells nothing and would only cost time
CACHED_MAX: Final = 10_000

_BOT = re.compile(
    r"bot\b|bot/|crawl|spider|slurp|preview|monitor|curl/|wget/|python|java/|go-http|libwww|feed", re.IGNORECASE
)
# The first that matches wins: most browsers name the ones that they descend from.
_BROWSERS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"Edg(e|A|iOS)?/", "Edge"),
        (r"OPR/|Opera", "Opera"),
        (r"SamsungBrowser/", "Samsung Internet"),
        (r"Firefox/|FxiOS/", "Firefox"),
        (r"MSIE |Trident/", "Internet Explorer"),
        (r"Chrome/|CriOS/|Chromium/", "Chrome"),
        (r"Safari/|AppleWebKit/.*Mobile/", "Safari"),
    )
)
_SYSTEMS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"iPhone|iPad|iPod", "iOS"),
        (r"Android", "Android"),
        (r"Windows", "Windows"),
        (r"CrOS", "ChromeOS"),
        (r"Mac OS X|Macintosh", "macOS"),
        (r"Linux|X11", "Linux"),
    )
)
_TABLET = re.compile(r"iPad|Tablet|Android(?!.*Mobile)")
_MOBILE = re.compile(r"Mobi|iPhone|iPod|Android")


@dataclass(frozen=True, slots=True)
class UserAgent:
    """What a header tells."""

    browser: str | None = None
    os: str | None = None
    device: str | None = None


@lru_cache(maxsize=CACHED_MAX)
def parse_user_agent(header: str) -> UserAgent:
    """The parts of a User-Agent header. Never raises."""
    text = header[:USER_AGENT_CHARS_MAX]
    if not text.strip():
        return UserAgent()
    system = next((name for pattern, name in _SYSTEMS if pattern.search(text)), None)
    if _BOT.search(text):
        return UserAgent(None, system, "bot")
    browser = next((name for pattern, name in _BROWSERS if pattern.search(text)), None)
    if _TABLET.search(text):
        device: str | None = "tablet"
    elif _MOBILE.search(text):
        device = "mobile"
    else:
        device = "desktop" if system else None
    return UserAgent(browser, system, device)
