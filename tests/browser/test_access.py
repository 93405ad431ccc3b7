"""For everyone: the keyboard alone, screen readers, dark and light, a phone."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import page as reading
from tests.browser.conftest import Open, Watch, new_context
from tests.browser.target import BLANK, SHOP, Target, yesterday

DAY = f"?period=day&date={yesterday():%Y-%m-%d}"
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
STATES = {
    "cards": "",
    "filtered, one day, expanded": f"{DAY}&metric=value&f=is~event~page_viewed&more=pages,sources",
    "table and paused": "?period=7d&view=table&feed=paused&compare=none",
    "realtime": "?period=realtime&metric=events",
}


def violations(page: Page) -> list[str]:
    """What axe finds, each with where. Run by the debugger, which the page's policy does not bind."""
    page.evaluate(AXE.read_text())
    found: list[dict[str, Any]] = page.evaluate("axe.run(document).then(found => found.violations)")
    return [f"{item['id']}: {node['target']} {node['failureSummary']}" for item in found for node in item["nodes"]]


# The layout does not depend on the scheme, so a phone in one of them is enough.
@pytest.fixture(
    params=[(1440, "light"), (1440, "dark"), (390, "dark")], ids=["wide-light", "wide-dark", "phone-dark"]
)
def coloured(request: pytest.FixtureRequest, browser: Browser, watch: Watch) -> Iterator[BrowserContext]:
    """A wide window and a phone's, in both schemes. Motion is reduced so that no colour is caught half way."""
    width, scheme = request.param
    viewport = {"width": width, "height": 900}
    context = new_context(browser, watch, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    yield context
    context.close()


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_axe_finds_nothing_and_nothing_sticks_out(coloured: BrowserContext, target: Target, state: str) -> None:
    page = coloured.new_page()
    page.goto(target.login_url(SHOP, state))
    page.locator(".kpi .figure").first.wait_for()
    page.locator('[data-table="feed"] li, [data-table="feed"] .nothing').first.wait_for()
    reading.settled(page)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name=re.compile("^Period")).click()
    panel = page.locator(".panel").bounding_box()
    assert panel is not None
    assert panel["x"] >= 0
    assert panel["x"] + panel["width"] <= page.evaluate("innerWidth")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("^Comparison")).click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []


def test_axe_finds_nothing_before_the_first_event_and_without_a_session(
    coloured: BrowserContext, target: Target
) -> None:
    page = coloured.new_page()
    page.goto(target.base_url)
    page.locator(".gate").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{target.base_url}/?again")
    page.goto(target.login_url(BLANK))
    page.locator(".first, .kpi .figure").first.wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_systems_scheme_is_followed_at_once(open_page: Open) -> None:
    page = open_page(DAY)
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.wait_for_timeout(200)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        # The chart is painted, not styled: its pixels must follow too.
        colours.append((ground, page.locator("figure.chart canvas").evaluate("canvas => canvas.toDataURL()")))
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_keys_choose_the_period_and_the_comparison(open_page: Open, target: Target) -> None:
    page = open_page()
    for key, search in [("d", "?period=day"), ("w", "?period=7d"), ("r", "?period=realtime"), ("m", "")]:
        page.keyboard.press(key)
        expect(page).to_have_url(f"{target.base_url}/{search}")
    page.keyboard.press("d")
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(f"{target.base_url}/{DAY}")
    expect(page.locator(".period")).to_contain_text(f"{yesterday().day}")
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(f"{target.base_url}/?period=day")
    page.keyboard.press("ArrowRight")  # the future has no numbers
    expect(page).to_have_url(f"{target.base_url}/?period=day")
    page.keyboard.press("x")
    expect(page).to_have_url(f"{target.base_url}/?period=day&compare=none")
    expect(page.locator(".legend .before")).to_have_count(0)
    page.keyboard.press("X")
    expect(page).to_have_url(f"{target.base_url}/?period=day")


def test_a_filter_is_set_walked_and_cleared_without_a_mouse(open_page: Open) -> None:
    page = open_page(f"{DAY}&metric=events")
    _tab_to(page, '[data-table="events"] tbody tr:first-child button')
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    chosen = page.evaluate("document.activeElement.closest('tr').dataset.value")
    assert chosen == reading.rows(page, "events")[2][0]
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_contain_text(chosen)
    expect(page.get_by_role("status")).to_contain_text(re.compile("events, .* users"))
    page.keyboard.press("Escape")
    expect(page.locator(".chip")).to_have_count(0)


def test_every_control_is_reached_and_seen_by_tab(open_page: Open) -> None:
    page = open_page(f"{DAY}&metric=events")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            """() => {
                const e = document.activeElement;
                const shown = getComputedStyle(e).outlineStyle !== 'none' || e.className === 'skip';
                return [e.tagName, e.innerText?.trim().slice(0, 40) ?? '', shown];
            }"""
        )
        if seen[0] == "BODY":
            break
        assert seen[2], f"{seen[:2]} has the focus and does not show it"
        reached.add(seen[1].split("\n")[-1])
    for name in ["Earlier period", "Sign out", "Show the chart as a table", "Download the chart as CSV", "Campaign"]:
        assert name in reached, name
    for name in ["Pause the live events", "Download Places as CSV", "Referrer", "Browser"]:
        assert name in reached, name


def test_the_menu_opens_moves_and_closes_by_keys(open_page: Open, target: Target) -> None:
    page = open_page("?f=is~event~page_viewed")
    page.get_by_role("button", name=re.compile("^Period")).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="Last 30 days")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("radio", name="Last 7 days")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".panel")).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("^Period"))).to_be_focused()
    expect(page.locator(".chip")).to_have_count(1)  # that Esc was the menu's
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="Last 30 days")).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"period=7d"))


def test_the_chart_is_read_by_arrow_keys_and_spoken(open_page: Open) -> None:
    page = open_page(f"{DAY}&metric=events")
    numbers = reading.series(page)
    page.locator("figure.chart").focus()
    page.keyboard.press("Home")
    said = page.get_by_role("status")
    expect(said).to_contain_text("00:00")
    expect(said).to_contain_text(f"{numbers[0]} events")
    page.keyboard.press("ArrowRight")
    expect(said).to_contain_text(f"{numbers[1]} events")
    expect(page.locator(".tip")).to_contain_text(numbers[1])
    expect(page).to_have_url(re.compile(re.escape(DAY)))  # the page's own arrows stayed still
    page.keyboard.press("Escape")
    expect(page.locator(".tip")).to_have_count(0)


def test_enter_on_a_day_of_the_chart_opens_it(open_page: Open) -> None:
    page = open_page("?period=7d")
    page.locator("figure.chart").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"period=day&date={yesterday():%Y-%m-%d}"))


def test_the_skip_link_goes_to_the_numbers(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the numbers")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert "#" not in page.url


def _tab_to(page: Page, selector: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab did not reach {selector} within 60 steps")
