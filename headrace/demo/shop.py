"""The shop: a year of real orders moved to the present, loaded by the importer, compared with its own totals."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from headrace.clock import Clock
from headrace.demo import totals
from headrace.demo.answers import Answer, Answers, wait_until
from headrace.demo.comparison import Comparison, Count
from headrace.demo.totals import Totals
from headrace.settings import Settings
from headrace.shards.address import connect_control
from producers.bulk import BulkPublisher
from producers.data import online_retail
from producers.importer import mapping
from producers.importer.importer import Imported, Importer, hash_file
from producers.importer.position import FileImports
from producers.importer.transform import Plan

MAPPING = "online_retail"
Ask = Callable[..., Answer]

COVER_TIMEOUT_S = 180.0
SETTLE_S = 2.0  # a count that is right must stay so: time for a second delivery to show itself
PRODUCTS_A_QUERY = 500
METRICS = ["events", "users", "sum(value)"]


def shift_days(clock: Clock, path: Path | None = None) -> int:
    """The whole days by which the orders are moved so that the last one is less than a day old."""
    return totals.whole_days_to(path or online_retail(), datetime.fromtimestamp(clock.now_us() / 1e6, UTC))


def load(settings: Settings, customer_id: int, days: int, clock: Clock, path: Path | None = None) -> Imported:
    """Import the file for a customer. Raises what the importer raises."""
    path = path or online_retail()
    plan = Plan(customer_id, mapping.load(MAPPING), hash_file(path), days, settings.ingest_event_bytes_max)
    publisher = BulkPublisher(settings)
    try:
        with connect_control(settings) as connection:
            return Importer(publisher, FileImports(connection), clock).run(path, plan)
    finally:
        publisher.close()


def compare(answers: Answers, expected: Totals, comparison: Comparison, *, raw: bool) -> None:
    """Wait until the answers cover the file, then compare every total. `raw`: there is a ClickHouse to ask too."""
    start, end = _midnight(expected.first), _midnight(expected.last) + timedelta(days=1)

    def ask(kind: str, **rest: Any) -> Answer:
        return answers.ask(kind, start, end, metrics=METRICS, **rest)

    wait_until(lambda: ask("totals").number("events") >= expected.events, COVER_TIMEOUT_S)
    time.sleep(SETTLE_S)
    whole = ask("totals")
    comparison.count("events", expected.events, whole.number("events"))
    comparison.money("revenue", expected.revenue, whole.amount("sum(value)"))
    comparison.estimate("users (sketch)", expected.users, whole.number("users"))
    by_day = ask("timeseries", interval="day")
    comparison.table("per day", _filled(expected), {time[:10]: pair for time, pair in by_day.by("time").items()})
    for dimension, counts in (("country", expected.by_country), ("event", expected.by_event)):
        found = ask("breakdown", dimensions=[dimension], limit=1000).by(dimension)
        comparison.table(f"per {dimension}", counts, found)
    if raw:
        _compare_raw(ask, expected, comparison)


def _compare_raw(ask: Ask, expected: Totals, comparison: Comparison) -> None:
    """What only the raw events can answer: users to the unit, and products."""
    wait_until(lambda: bool(ask("totals", exact=True).number("events") >= expected.events), COVER_TIMEOUT_S)
    whole = ask("totals", exact=True)
    comparison.count("events (raw)", expected.events, whole.number("events"))
    comparison.money("revenue (raw)", expected.revenue, whole.amount("sum(value)"))
    comparison.count("users (raw, exact)", expected.users, whole.number("users"))
    dimension = "props.stock_code"
    found: dict[str, Count] = {}
    codes = sorted(expected.by_product)
    for at in range(0, len(codes), PRODUCTS_A_QUERY):
        part = codes[at : at + PRODUCTS_A_QUERY]
        found |= ask("breakdown", dimensions=[dimension], limit=1000, filters=["is", dimension, part]).by(dimension)
    comparison.table("per product (raw)", expected.by_product, found)
    every = ask("breakdown", dimensions=[dimension], limit=1)
    comparison.count("products (raw)", len(codes), every.total_rows or 0)


def _filled(expected: Totals) -> dict[str, Count]:
    nothing = Count(0, Decimal(0))
    return {day: expected.by_day.get(day, nothing) for day in totals.days(expected)}


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
