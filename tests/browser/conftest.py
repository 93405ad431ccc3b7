"""One Chromium and one target for all browser tests, and a watch on what no page may ever do."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.browser.target import Target, contract_server, filled
from tests.faults.running import running_system

CHROMIUM = os.environ.get("HEADRACE_CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 10_000

Open = Callable[..., Page]


@pytest.fixture(scope="package")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A whole system of our own. HEADRACE_BROWSER_TARGET names another by its ready file (of a fresh `headrace up`),
    or says `contract`: then the contract server, which starts in a second and is for developing the page.
    """
    named = os.environ.get("HEADRACE_BROWSER_TARGET", "")
    if named == "contract":
        with contract_server(tmp_path_factory.mktemp("contract")) as fake:
            yield fake
    elif named:
        yield filled(Target(Path(named), is_contract=False))
    else:
        with running_system(tmp_path_factory.mktemp("browser")) as system:
            yield filled(Target(system.folder / "ready.json", is_contract=False))


@pytest.fixture(scope="package", params=["real", "contract"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The target, then the contract server: what is asked of one is asked of the other."""
    if request.param == "real":
        yield request.getfixturevalue("target")
        return
    with contract_server(tmp_path_factory.mktemp("contract")) as fake:
        yield fake


@pytest.fixture(scope="module")  # no longer: while it lives, its event loop runs in the tests' thread
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Watch:
    """What the pages of a test said and asked. `allow` names console errors that a test brings about.

    Not slotted: Playwright keeps its wrappers of bound handlers on the object.
    """

    origin: str
    allowed: list[re.Pattern[str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        self.allowed.append(re.compile(pattern))

    def on(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", self._request)

    def unexpected(self) -> list[str]:
        return [error for error in self.errors if not any(pattern.search(error) for pattern in self.allowed)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((f"{self.origin}/", "blob:", "data:")):
            self.foreign.append(request.url)


@pytest.fixture
def watch(target: Target) -> Iterator[Watch]:
    """Fails a test whose pages logged an error that it did not expect, or asked another origin for anything."""
    watch = Watch(target.base_url)
    yield watch
    assert watch.foreign == []
    assert watch.unexpected() == []


@pytest.fixture
def context(browser: Browser, watch: Watch) -> Iterator[BrowserContext]:
    context = new_context(browser, watch)
    yield context
    context.close()


def new_context(browser: Browser, watch: Watch, **options: Any) -> BrowserContext:
    """A browser profile of its own, in UTC, watched."""
    settings: dict[str, Any] = {"timezone_id": "UTC", "locale": "en-GB", "viewport": {"width": 1440, "height": 1000}}
    context = browser.new_context(**(settings | options))
    context.set_default_timeout(WAIT_MS)
    watch.on(context)
    return context


@pytest.fixture
def open_page(context: BrowserContext, target: Target) -> Open:
    """Opens the dashboard signed in, at a state of its URL, and waits for its numbers."""

    def opened(search: str = "", *, place: int = 0, ready: str = ".kpi .figure") -> Page:
        page = context.new_page()
        page.goto(target.login_url(place, search))
        page.locator(ready).first.wait_for()
        return page

    return opened


@pytest.fixture
def page_without_stream(context: BrowserContext, target: Target, watch: Watch) -> Page:
    """The page while `/v1/live` answers 503."""
    watch.allow("503")
    page = context.new_page()
    page.route("**/v1/live", lambda route: route.fulfill(status=503))
    page.goto(target.login_url(search="?period=day&metric=events"))
    page.locator(".kpi .figure").first.wait_for()
    return page
