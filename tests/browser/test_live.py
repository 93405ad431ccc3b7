"""Live: what arrives is shown without a reload, whatever happens to the stream."""

import re
import time

from playwright.sync_api import Page, expect

from tests.browser import page as reading
from tests.browser.conftest import Open, Watch
from tests.browser.target import Target


def sent(target: Target, name: str, user: str = "ada") -> str:
    """Sends one event of a name that no test used before; returns the name."""
    unique = f"{name}_{time.time_ns()}"
    target.send([{"type": "track", "event": unique, "userId": user, "properties": {}}])
    return unique


def in_feed(page: Page, name: str) -> None:
    expect(page.locator('[data-table="feed"]')).to_contain_text(name)


def live(page: Page) -> None:
    expect(page.locator('.badge[data-state="live"]')).to_be_visible()


def test_an_event_is_on_the_page_within_seconds(open_page: Open, target: Target) -> None:
    page = open_page("?period=day&metric=events")
    live(page)
    expect(page.locator(".badge")).to_have_text(re.compile(r"live\s*·\s*\d+(\.\d)? s behind"))
    before = reading.figures(page)["events"]
    in_feed(page, sent(target, "arrived"))
    page.wait_for_function(
        "before => Number(document.querySelector('.kpi[data-metric=events] .figure').dataset.value) > before",
        arg=before,
    )


def test_a_single_event_reaches_every_card_though_nothing_follows_it(open_page: Open, target: Target) -> None:
    user = f"lone_{time.time_ns()}"
    page = open_page(f"?period=day&metric=events&f=is~user_id~{user}")
    live(page)
    expect(page.locator('[data-table="events"]')).to_contain_text("Nothing in this period")
    page.wait_for_timeout(1500)  # so that the event falls between two refreshes of the tables
    name = sent(target, "lonely", user)
    expect(page.locator('.kpi[data-metric="events"] .figure')).to_have_text("1")
    expect(page.locator('[data-table="events"] tbody')).to_contain_text(name)
    in_feed(page, name)


def test_a_paused_feed_counts_what_waits(open_page: Open, target: Target) -> None:
    page = open_page()
    live(page)
    page.locator('[data-table="feed"] li').first.wait_for()
    page.get_by_role("button", name="Pause the live events").click()
    newest = page.locator('[data-table="feed"] li').first.inner_text()
    name = sent(target, "waiting")
    waiting = page.get_by_role("button", name=re.compile(r"^\d+ new$"))
    expect(waiting).to_be_visible()
    assert page.locator('[data-table="feed"] li').first.inner_text() == newest
    page.wait_for_timeout(1500)  # what was sent may come after what the shop itself did
    expect(page.locator('[data-table="feed"]')).not_to_contain_text(name)
    waiting.click()
    in_feed(page, name)
    page.get_by_role("button", name="Pause the live events").click()
    in_feed(page, sent(target, "resumed"))


def test_a_filtered_feed_shows_only_what_passes(open_page: Open, target: Target) -> None:
    page = open_page("?f=is~event~page_viewed&f=set~user_id")
    live(page)
    name = sent(target, "hidden")
    page.wait_for_timeout(4000)
    expect(page.locator('[data-table="feed"]')).not_to_contain_text(name)
    assert set(page.locator('[data-table="feed"] .what b').all_inner_texts()) <= {"page_viewed"}


def test_a_broken_stream_comes_back_by_itself(open_page: Open, target: Target, watch: Watch) -> None:
    watch.allow("Failed to load|ERR_")
    page = open_page()
    live(page)
    streams = sum(url.endswith("/v1/live") for url in watch.requests)
    target.drop_streams()
    deadline = time.monotonic() + 30
    while sum(url.endswith("/v1/live") for url in watch.requests) == streams:
        assert time.monotonic() < deadline, "no second stream was opened within 30 s"
        page.wait_for_timeout(200)
    expect(page.locator('.badge[data-state="live"]')).to_be_visible(timeout=30_000)
    in_feed(page, sent(target, "after_the_break"))


def test_without_a_stream_the_page_polls(page_without_stream: Page, target: Target) -> None:
    expect(page_without_stream.locator(".badge")).to_contain_text("polling")
    before = reading.figures(page_without_stream)["events"]
    in_feed(page_without_stream, sent(target, "polled"))
    page_without_stream.wait_for_function(
        "before => Number(document.querySelector('.kpi[data-metric=events] .figure').dataset.value) > before",
        arg=before,
    )


def test_a_stream_that_returns_ends_the_polling(page_without_stream: Page) -> None:
    expect(page_without_stream.locator(".badge")).to_contain_text("polling")
    page_without_stream.unroute("**/v1/live")
    expect(page_without_stream.locator('.badge[data-state="live"]')).to_be_visible(timeout=40_000)


def test_two_tabs_share_one_stream(open_page: Open, target: Target, watch: Watch) -> None:
    first = open_page()
    live(first)
    second = first.context.new_page()
    second.goto(target.base_url)
    second.locator(".kpi .figure").first.wait_for()
    live(second)
    name = sent(target, "shared")
    in_feed(first, name)
    in_feed(second, name)
    assert sum(url.endswith("/v1/live") for url in watch.requests) == 1
    first.close()
    name = sent(target, "inherited")
    # Taken over at once, and what came in between is fetched: no wait for a silence to be noticed.
    expect(second.locator('[data-table="feed"]')).to_contain_text(name, timeout=5000)
    live(second)
    assert sum(url.endswith("/v1/live") for url in watch.requests) == 2


def test_a_hidden_tab_lets_go_of_the_stream(open_page: Open, target: Target) -> None:
    page = open_page()
    live(page)
    _set_hidden(page, hidden=True)
    expect(page.locator(".badge")).to_contain_text("paused")
    name = sent(target, "unseen")
    page.wait_for_timeout(2500)
    expect(page.locator('[data-table="feed"]')).not_to_contain_text(name)
    _set_hidden(page, hidden=False)
    live(page)
    in_feed(page, name)


def _set_hidden(page: Page, *, hidden: bool) -> None:
    """Headless tabs are always visible, so the page is told otherwise."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
            document.dispatchEvent(new Event('visibilitychange'));
        }""",
        hidden,
    )
