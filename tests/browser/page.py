"""Reading the dashboard as its tests do: figures, tables, and the API's answers to the same questions."""

from datetime import datetime
from typing import Any

from playwright.sync_api import Page

from tests.browser.target import Target, day_range

METRICS = {"events": "events", "users": "users", "value": "sum(value)"}
TABLES = {
    "events": "event",
    "pages": "path",
    "sources": "referrer_domain",
    "places": "country",
    "devices": "device",
}
ROWS = 8


def figures(page: Page) -> dict[str, float]:
    """The headline figures by metric, at full precision."""
    found = page.locator(".kpi").evaluate_all(
        "all => all.map(e => [e.dataset.metric, Number(e.querySelector('.figure').dataset.value)])"
    )
    return dict(found)


def rows(page: Page, table: str) -> list[list[Any]]:
    """A table's [value, amount] pairs; an unset value is ''."""
    found: list[list[Any]] = page.locator(f'[data-table="{table}"] tbody tr').evaluate_all(
        "all => all.map(e => [e.dataset.value, Number(e.querySelector('td').dataset.value)])"
    )
    return found


def series(page: Page) -> list[str]:
    """The chart's current numbers as its table for screen readers tells them."""
    found: list[str] = page.locator("figure.chart tbody tr").evaluate_all(
        "all => all.map(e => e.querySelector('td').textContent)"
    )
    return found


def settled(page: Page) -> None:
    """Wait until the page shows what its URL asks."""
    page.locator('.page[data-stale="false"]').wait_for()


def api_figures(target: Target, day: datetime, filters: list[Any] | None = None) -> dict[str, float]:
    """The same figures of one day, asked of the API."""
    asked: dict[str, Any] = {"kind": "totals", "metrics": list(METRICS.values()), "range": day_range(day)}
    (answer,) = target.ask(asked | ({"filters": ["and", filters]} if filters else {}))
    return {name: float(value or 0) for name, value in zip(METRICS, answer["rows"][0], strict=True)}


def api_rows(
    target: Target, day: datetime, table: str, metric: str, filters: list[Any] | None = None
) -> list[list[Any]]:
    """A table's rows of one day, asked of the API."""
    asked: dict[str, Any] = {
        "kind": "breakdown",
        "dimensions": [TABLES[table]],
        "metrics": [METRICS[metric]],
        "order_by": [[METRICS[metric], "desc"]],
        "limit": ROWS,
        "range": day_range(day),
    }
    (answer,) = target.ask(asked | ({"filters": ["and", filters]} if filters else {}))
    return [[row[0] or "", float(row[1] or 0)] for row in answer["rows"]]
