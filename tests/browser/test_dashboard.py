"""The page shows the API's numbers, by mouse, and keeps its state in the URL."""

import json
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Route, expect

from tests.browser import page as reading
from tests.browser.conftest import Open, Watch, new_context
from tests.browser.target import BLANK, Target, yesterday

DAY = f"?period=day&date={yesterday():%Y-%m-%d}"


def test_a_link_signs_in_once_and_leaves_no_code_behind(open_page: Open, target: Target, watch: Watch) -> None:
    page = open_page("?metric=events")
    assert page.url == f"{target.base_url}/?metric=events"
    cookies = page.context.cookies()
    assert cookies
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in cookies)
    assert page.evaluate("document.cookie") == ""
    page.reload()
    page.locator(".kpi .figure").first.wait_for()
    watch.allow("401")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Open your dashboard")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Open your dashboard")).to_be_visible()


def test_a_used_code_is_refused_with_its_reason(browser: Browser, target: Target, watch: Watch) -> None:
    watch.allow("401")
    url = target.login_url()
    first, second = new_context(browser, watch), new_context(browser, watch)
    try:
        first.new_page().goto(url)
        first.pages[0].locator(".kpi .figure").first.wait_for()
        page = second.new_page()
        page.goto(url)
        expect(page.get_by_role("alert")).to_contain_text("already used")
        assert "#" not in page.url
    finally:
        first.close()
        second.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def test_without_a_session_the_page_says_how_to_get_in_and_asks_nothing(
    page: Page, target: Target, watch: Watch
) -> None:
    page.goto(target.base_url)
    expect(page.get_by_role("heading", name="Open your dashboard")).to_be_visible()
    expect(page.locator("pre")).to_contain_text("headrace up")
    assert not [url for url in watch.requests if "/v1/" in url]


def test_a_pasted_token_opens_the_page_and_is_kept_in_memory_only(page: Page, target: Target, watch: Watch) -> None:
    watch.allow("401")
    page.goto(target.base_url)
    field = page.get_by_label("Or paste a read token")
    field.fill("not-a-token")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_contain_text("does not accept")
    token = target.ready["customers"][0]["read_token"]
    field.fill(token)
    page.get_by_role("button", name="Open").click()
    page.locator(".kpi .figure").first.wait_for()
    expect(page.locator(".badge")).to_contain_text("polling")  # an EventSource cannot carry it
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert token not in stored
    page.reload()
    expect(page.get_by_role("heading", name="Open your dashboard")).to_be_visible()


@pytest.mark.parametrize("metric", ["users", "events", "value"])
def test_every_number_equals_the_apis(open_page: Open, target: Target, metric: str) -> None:
    page = open_page(f"{DAY}&metric={metric}")
    day = yesterday()
    assert reading.figures(page) == pytest.approx(reading.api_figures(target, day))
    for table in reading.TABLES:
        page.locator(f'[data-table="{table}"] tbody tr').first.wait_for()
        assert reading.rows(page, table) == reading.api_rows(target, day, table, metric), table
    hours = [float(text.replace(",", "").replace("\u2212", "-")) for text in reading.series(page)]
    assert len(hours) == 24
    if metric != "users":  # a user of two hours is one of the day
        assert sum(hours) == pytest.approx(reading.figures(page)[metric], abs=0.25)


def test_a_delta_compares_with_the_day_before(open_page: Open, target: Target) -> None:
    page = open_page(f"{DAY}&metric=events")
    now = reading.api_figures(target, yesterday())["events"]
    before = reading.api_figures(target, yesterday() - timedelta(days=1))["events"]
    change = page.locator('.kpi[data-metric="events"] .change')
    expect(change).to_contain_text(f"{before:,.0f}")
    if before:
        expect(change).to_have_attribute(
            "data-direction", "up" if now > before else "down" if now < before else "same"
        )
        expect(change).to_contain_text("%" if now != before else "unchanged")
    page.keyboard.press("x")
    expect(change).to_have_text("\u00a0")


def test_a_click_on_a_row_filters_everything_and_a_second_one_undoes_it(open_page: Open, target: Target) -> None:
    page = open_page(f"{DAY}&metric=events")
    everything = reading.figures(page)
    row = page.locator('[data-table="pages"] tbody tr').nth(1)
    path = str(row.get_attribute("data-value"))
    row.get_by_role("button").click()
    expect(page).to_have_url(re.compile("f=is"))
    reading.settled(page)
    filters = [["is", "path", [path]]]
    assert reading.figures(page) == pytest.approx(reading.api_figures(target, yesterday(), filters))
    assert reading.figures(page)["events"] < everything["events"]
    for table in reading.TABLES:
        assert reading.rows(page, table) == reading.api_rows(target, yesterday(), table, "events", filters), table
    expect(page.locator(".chip")).to_have_text(re.compile(f"Page is {re.escape(path)}"))
    page.locator('[data-table="pages"] tbody tr').first.get_by_role("button").click()
    expect(page.locator(".chip")).to_have_count(0)
    reading.settled(page)
    assert reading.figures(page) == pytest.approx(everything)


def test_a_row_without_a_value_filters_too(open_page: Open, target: Target) -> None:
    page = open_page(f"{DAY}&metric=events")
    page.locator('[data-table="sources"] tbody tr[data-value=""] button').click()
    expect(page.locator(".chip")).to_contain_text("direct or none")
    reading.settled(page)
    want = reading.api_figures(target, yesterday(), [["not_set", "referrer_domain"]])
    assert reading.figures(page) == pytest.approx(want)


def test_a_click_on_a_figure_plots_it(open_page: Open) -> None:
    page = open_page(DAY)
    page.locator('.kpi[data-metric="value"]').click()
    expect(page).to_have_url(re.compile("metric=value"))
    expect(page.locator('.kpi[data-metric="value"]')).to_have_attribute("aria-pressed", "true")
    expect(page.locator("figure.chart")).to_have_attribute("aria-label", re.compile("^Value by hour"))


def test_the_url_alone_brings_the_page_back(open_page: Open, target: Target, browser: Browser, watch: Watch) -> None:
    page = open_page(DAY)
    page.get_by_role("button", name="Browser").click()
    page.locator('[data-table="events"] tbody button').first.click()
    page.locator('.kpi[data-metric="events"]').click()
    page.get_by_role("button", name="Pause the live events").click()
    page.get_by_role("button", name="Show the chart as a table").click()
    reading.settled(page)
    search = page.url.removeprefix(f"{target.base_url}/")
    other = new_context(browser, watch)
    try:
        copy = other.new_page()
        copy.goto(target.login_url(search=search))
        copy.locator(".series tbody tr").first.wait_for()
        assert copy.url == page.url
        assert reading.figures(copy) == reading.figures(page)
        assert reading.rows(copy, "devices") == reading.rows(page, "devices")
        expect(copy.get_by_role("button", name="Pause the live events")).to_have_attribute("aria-pressed", "true")
    finally:
        other.close()
    for _ in range(5):
        page.go_back()
    expect(page).to_have_url(f"{target.base_url}/{DAY}")
    expect(page.locator(".chip")).to_have_count(0)


def test_a_state_that_the_page_does_not_know_is_ignored(open_page: Open) -> None:
    page = open_page("?period=aeon&date=2026-99-99&metric=love&f=drop~table&f=%ZZ&tz=Mars/Base&interval=eon&more=,")
    expect(page.locator(".period")).to_have_text("Last 30 days")


def test_a_custom_range_and_its_days(open_page: Open, target: Target) -> None:
    page = open_page()
    page.get_by_role("button", name=re.compile("^Period")).click()
    day = f"{yesterday():%Y-%m-%d}"
    page.get_by_label("From").fill(day)
    page.get_by_label("To").fill(day)
    page.get_by_role("button", name="Show range").click()
    expect(page).to_have_url(re.compile(f"period=custom&from={day}&to={day}"))
    reading.settled(page)
    assert reading.figures(page) == pytest.approx(reading.api_figures(target, yesterday()))


def test_csv_of_the_chart_and_of_a_table(open_page: Open, target: Target, tmp_path: Path) -> None:
    page = open_page(f"{DAY}&metric=events")
    with page.expect_download() as chart:
        page.get_by_role("button", name="Download the chart as CSV").click()
    lines = Path(chart.value.path()).read_text().splitlines()
    assert lines[0] == "time,events,users,sum(value)"
    assert sum(int(line.split(",")[1]) for line in lines[1:]) == reading.figures(page)["events"]
    with page.expect_download() as table:
        page.get_by_role("button", name="Download Pages as CSV").click()
    lines = Path(table.value.path()).read_text().splitlines()
    assert table.value.suggested_filename == "headrace-pages.csv"
    want = reading.api_rows(target, yesterday(), "pages", "events")
    got = [[line.split(",")[0], float(line.split(",")[1])] for line in lines[1 : len(want) + 1]]
    assert got == want


def test_show_all_rows_of_a_table(open_page: Open) -> None:
    page = open_page(f"{DAY}&metric=events")
    table = page.locator('[data-table="pages"]')
    button = table.get_by_role("button", name=re.compile("Show all"))
    total = int(re.sub(r"\D", "", button.inner_text()))
    button.click()
    expect(table.locator("tbody tr")).to_have_count(total)
    table.get_by_role("button", name="Show fewer").click()
    expect(table.locator("tbody tr")).to_have_count(reading.ROWS)


def test_a_day_of_the_chart_opens_by_a_click(open_page: Open) -> None:
    page = open_page("?period=7d")
    box = page.locator("figure.chart .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 5 / 6, box["y"] + 40)
    expect(page.locator(".tip-title")).to_contain_text(f"{yesterday():%b %Y}")
    page.mouse.click(box["x"] + box["width"] * 5 / 6, box["y"] + 40)
    expect(page).to_have_url(re.compile(f"period=day&date={yesterday():%Y-%m-%d}"))


def test_skeletons_first_and_old_numbers_dimmed_while_new_ones_come(page: Page, target: Target) -> None:
    held: list[Route] = []
    holding = True

    def hold(route: Route) -> None:
        if holding:
            held.append(route)
        else:
            route.continue_()

    def release() -> None:
        nonlocal holding
        holding = False
        for route in held:
            with suppress(Error):  # the page may have given this request up for a newer one
                route.continue_()
        held.clear()

    page.route("**/v1/query", hold)
    page.goto(target.login_url(search=DAY))
    expect(page.locator(".skeleton").first).to_be_visible()
    expect(page.locator(".overview")).to_have_attribute("aria-busy", "true")
    release()
    page.locator(".kpi .figure").first.wait_for()
    expect(page.locator(".skeleton")).to_have_count(0)
    holding = True
    page.locator('[data-table="pages"] tbody button').first.click()
    expect(page.locator('.page[data-stale="true"]')).to_be_visible()
    expect(page.locator(".kpi .figure").first).to_have_css("opacity", "0.45")
    release()
    expect(page.locator(".kpi .figure").first).to_have_css("opacity", "1")


def test_an_api_that_is_away_is_told_and_the_last_numbers_stay(open_page: Open, watch: Watch) -> None:
    watch.allow("ERR_FAILED|Failed to load")
    page = open_page(f"{DAY}&metric=events")
    before = reading.figures(page)
    page.route("**/v1/query", lambda route: route.abort())
    page.keyboard.press("x")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(page.locator(".badge")).to_contain_text("offline")
    assert reading.figures(page) == before
    page.unroute("**/v1/query")
    expect(page.get_by_role("alert")).to_have_count(0)
    reading.settled(page)


def test_one_failing_query_fails_its_card_alone(page: Page, target: Target) -> None:
    def spoil(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        asked = json.loads(route.request.post_data or "{}")["queries"]
        for place, query in enumerate(asked):
            if query.get("dimensions") == ["path"]:
                body["answers"][place] = {"error": {"title": "Gone", "detail": "The shard of this table is away."}}
        with suppress(Error):  # the page may have given this request up for a newer one
            route.fulfill(response=answer, json=body)

    page.route("**/v1/query", spoil)
    page.goto(target.login_url(search=DAY))
    expect(page.locator('[data-table="pages"]')).to_contain_text("The shard of this table is away.")
    expect(page.locator('[data-table="events"] tbody tr').first).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")


def test_before_the_first_event_the_page_waits_with_a_command(open_page: Open, target: Target) -> None:
    page = open_page(place=BLANK, ready=".first")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    expect(page.get_by_role("heading", name="Waiting for the first event")).to_be_visible()
    command = page.locator("pre").inner_text()
    assert command.startswith(f"curl {target.ready['ingest_url']}/v1/batch")
    page.get_by_role("button", name="Copy the command").click()
    assert page.evaluate("navigator.clipboard.readText()") == command
    target.send([{"type": "track", "event": "signup", "userId": "ada", "properties": {"value": 29.5}}], BLANK)
    expect(page.locator('.kpi[data-metric="events"] .figure')).to_have_text("1")
    expect(page.locator('[data-table="feed"] li')).to_contain_text("signup")
