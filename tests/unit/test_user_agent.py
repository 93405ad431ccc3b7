"""Browsers, systems and kinds of device in one vocabulary, from headers and from other senders' words."""

import random
import time

import pytest

from producers.user_agent import (
    NAME_CHARS_MAX,
    USER_AGENT_CHARS_MAX,
    browser_name,
    device_kind,
    parse_user_agent,
    system_name,
)

KHTML = "AppleWebKit/537.36 (KHTML, like Gecko)"
IOS = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
BLOCKING_S_MAX = 0.02
"""A header that was not seen before; measured: 30 µs, 270 µs for noise of full length."""


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {KHTML} Chrome/124.0.0.0 Safari/537.36",
         ("Chrome", "Windows", "desktop")),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {KHTML} Chrome/124.0.0.0 Safari/537.36 Edg/124.0.0.0",
         ("Edge", "Windows", "desktop")),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {KHTML} Chrome/124.0.0.0 Safari/537.36 OPR/110.0.0.0",
         ("Opera", "Windows", "desktop")),
        ("Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; Tablet PC 2.0; rv:11.0) like Gecko",
         ("Internet Explorer", "Windows", "desktop")),
        (("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 "
         "Safari/605.1.15"), ("Safari", "macOS", "desktop")),
        ("Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
         ("Firefox", "Linux", "desktop")),
        (f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {KHTML} Chrome/124.0.0.0 Safari/537.36",
         ("Chrome", "ChromeOS", "desktop")),
        (f"{IOS} Version/17.5 Mobile/15E148 Safari/604.1", ("Safari", "iOS", "mobile")),
        (f"{IOS} Mobile/15E148", ("Safari", "iOS", "mobile")),
        (f"{IOS} CriOS/124.0.6367.88 Mobile/15E148 Safari/604.1", ("Chrome", "iOS", "mobile")),
        (f"{IOS} FxiOS/125.0 Mobile/15E148 Safari/605.1.15", ("Firefox", "iOS", "mobile")),
        (f"{IOS} Version/17.0 EdgiOS/124.0.2478.71 Mobile/15E148 Safari/605.1.15", ("Edge", "iOS", "mobile")),
        (f"{IOS} Mobile/15E148 Instagram 330.0.3.29.91 (iPhone14,5; iOS 17_5)", ("Instagram", "iOS", "mobile")),
        (("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 "
         "Mobile/15E148 Safari/604.1"), ("Safari", "iOS", "tablet")),
        (f"Mozilla/5.0 (Linux; Android 10; K) {KHTML} Chrome/124.0.0.0 Mobile Safari/537.36",
         ("Chrome", "Android", "mobile")),
        (f"Mozilla/5.0 (Linux; Android 13; SM-X906C) {KHTML} Chrome/124.0.0.0 Safari/537.36",
         ("Chrome", "Android", "tablet")),
        (f"Mozilla/5.0 (Linux; Android 14; SM-S918B) {KHTML} SamsungBrowser/25.0 Chrome/121.0 Mobile Safari/537.36",
         ("Samsung Internet", "Android", "mobile")),
        (f"Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) {KHTML} SamsungBrowser/4.0 Chrome/76.0.3809.146 TV Safari/537.36",
         ("Samsung Internet", "Tizen", "tv")),
        (("Mozilla/5.0 (PlayStation; PlayStation 5/2.26) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.0 "
         "Safari/605.1.15"), ("Safari", None, "console")),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", (None, None, "bot")),
        ((f"Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X) {KHTML} Chrome/124.0 Mobile Safari/537.36 (compatible; "
         "Googlebot/2.1; +http://www.google.com/bot.html)"), (None, "Android", "bot")),
        ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", (None, None, "bot")),
        (f"Mozilla/5.0 {KHTML}; compatible; GPTBot/1.2; +https://openai.com/gptbot", (None, None, "bot")),
        ("curl/8.5.0", (None, None, "bot")),
        ("python-requests/2.31.0", (None, None, "bot")),
        ("an unlisted crawler", (None, None, "bot")),
        ("okhttp/4.9.0", ("okhttp", None, None)),
        ("gibberish", (None, None, None)),
        ("", (None, None, None)),
        ("  ", (None, None, None)),
        ("\ud800 \x00 \u202e", (None, None, None)),
    ],
)  # fmt: skip
def test_a_header(header: str, told: tuple[str | None, ...]) -> None:
    found = parse_user_agent(header)
    assert (found.browser, found.os, found.device) == told


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("Google Chrome", "Chrome"), ("Chrome Mobile iOS", "Chrome"), ("Microsoft Edge", "Edge"),
        ("Mobile Safari", "Safari"), ("Firefox iOS", "Firefox"), ("IE", "Internet Explorer"),
        ("Samsung Internet", "Samsung Internet"), ("Opera Mini", "Opera"), ("chrome", "Chrome"),
        ("Chromium", "Chromium"), ("Vivaldi", "Vivaldi"), ("", None),
    ],
)  # fmt: skip
def test_browsers_have_one_name(told: str, name: str | None) -> None:
    assert browser_name(told) == name


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("Mac OS X", "macOS"), ("macOS", "macOS"), ("iPhone OS", "iOS"), ("iPadOS", "iOS"), ("Windows 11", "Windows"),
        ("Chrome OS", "ChromeOS"), ("Ubuntu", "Linux"), ("android", "Android"), ("Plan 9", "Plan 9"), ("", None),
    ],
)  # fmt: skip
def test_systems_have_one_name(told: str, name: str | None) -> None:
    assert system_name(told) == name


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("Desktop", "desktop"), ("phone", "mobile"), ("smartphone", "mobile"), ("ios", "mobile"), ("iPad", "tablet"),
        ("Smart TV", "tv"), ("fridge", "fridge"), ("", None),
    ],
)  # fmt: skip
def test_devices_have_one_name(told: str, kind: str | None) -> None:
    assert device_kind(told) == kind


def test_every_name_is_bounded_and_none_is_remembered_that_is_long() -> None:
    for name in (browser_name, system_name, device_kind):
        found = name("n" * NAME_CHARS_MAX * 100)
        assert found is not None and len(found.encode()) <= 255
    told = parse_user_agent("a" * 900 + "/1 CFNetwork/1410.0.3 Darwin/22.6.0")
    assert told.browser is None or len(told.browser.encode()) <= 255


def test_no_header_blocks_the_event_loop() -> None:
    noise = random.Random(7)
    headers = ["".join(chr(noise.randint(32, 126)) for _ in range(USER_AGENT_CHARS_MAX)) for _ in range(20)]
    headers += [("Mozilla/5.0 (" + piece * 500)[:USER_AGENT_CHARS_MAX] + str(number)
                for piece in ("Android 1; SM-", "; ", "Version/1.1 ", "bot", "(", "a/1 ")
                for number in range(5)]  # fmt: skip
    parse_user_agent("warm")
    for header in headers:
        best = float("inf")
        for attempt in range(3):
            started = time.perf_counter()
            parse_user_agent(f"{attempt}{header}")
            best = min(best, time.perf_counter() - started)
        assert best < BLOCKING_S_MAX, header[:60]
