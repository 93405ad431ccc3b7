"""Real files of three kinds through the whole system: each customer's answers equal DuckDB's, on both shards."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import SystemClock
from headrace.demo import shop, totals
from headrace.demo.answers import Answer, Answers, wait_until
from headrace.demo.comparison import Comparison, Count
from headrace.kafka import partition_for
from headrace.runtime.credentials import CustomerSecrets, NewCustomer
from headrace.runtime.system import Plan as SystemPlan
from headrace.runtime.system import System, running
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.map import load_map
from producers.bulk import BulkPublisher
from producers.data import online_retail
from producers.importer import mapping
from producers.importer.importer import Importer, hash_file
from producers.importer.position import FileImports
from producers.importer.transform import Plan
from schemas.event import record_key
from tests.data_totals import ACCESS_LOG, CLICKSTREAM, Counts, access_log_counts, clickstream_counts

CUSTOMERS = tuple(NewCustomer(f"customer {i}", f"shard-{1 + i % 2}") for i in range(7))
PARTITIONS = 24
COVER_TIMEOUT_S = 120
METRICS = ["events", "users", "sum(value)"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = Settings.load(flags={"events_partitions": PARTITIONS, "log_level": "warning"}, environ={})
    folder = tmp_path_factory.mktemp("system")
    with running(SystemPlan(folder=folder, settings=settings, durable=False, customers=CUSTOMERS)) as started:
        yield started


def load(system: System, path: Path, name: str, customer: CustomerSecrets) -> None:
    publisher = BulkPublisher(system.settings)
    try:
        with connect_control(system.settings) as connection:
            plan = Plan(customer.customer_id, mapping.load(name), hash_file(path))
            Importer(publisher, FileImports(connection), SystemClock()).run(path, plan)
    finally:
        publisher.close()


def assert_answers(system: System, customer: CustomerSecrets, expected: Counts) -> None:
    """Totals and breakdowns, asked of the rollups and of the raw events."""
    start, end = (datetime.fromisoformat(d).replace(tzinfo=UTC) for d in (expected.first_day, expected.day_after))
    comparison = Comparison()
    with Answers(system.api_url, customer.read_token) as answers:
        for exact in (False, True):

            def ask(kind: str, exact: bool = exact, **rest: Any) -> Answer:
                return answers.ask(kind, start, end, metrics=METRICS, exact=exact, **rest)

            wait_until(lambda ask=ask: ask("totals").number("events") >= expected.events, COVER_TIMEOUT_S)  # type: ignore[misc]
            whole = ask("totals")
            comparison.count(f"events, exact {exact}", expected.events, whole.number("events"))
            (comparison.count if exact else comparison.estimate)("users", expected.users, whole.number("users"))
            for dimension, counts in expected.by.items():
                answer = ask("breakdown", dimensions=[dimension], limit=1000)
                worthless = {key: Count(events, Decimal(0)) for key, events in counts.items()}
                comparison.table(f"per {dimension}, exact {exact}", worthless, answer.by(dimension))
    assert comparison.equal, [dataclasses.asdict(line) for line in comparison.lines if not line.equal]


def test_files_of_three_kinds_for_customers_on_both_shards(system: System) -> None:
    shop_customer, *others = system.credentials.customers
    sites, apps = others[:2], others[2:]
    days = shop.shift_days(SystemClock())
    shop.load(system.settings, shop_customer.customer_id, days, SystemClock())
    for customer in sites:
        load(system, ACCESS_LOG, "apache_logs", customer)
    for customer in apps:
        load(system, CLICKSTREAM, "retentioneering", customer)
    with connect_control(system.settings) as connection:
        shard_map = load_map(connection)
    ids = [customer.customer_id for customer in system.credentials.customers]
    assert len({shard_map.shard_of(customer_id) for customer_id in ids}) == 2
    assert len({partition_for(record_key(customer_id), PARTITIONS) for customer_id in ids}) >= 4

    for customer in sites:
        assert_answers(system, customer, access_log_counts())
    for customer in apps:
        assert_answers(system, customer, clickstream_counts())
    orders = Comparison()
    with Answers(system.api_url, shop_customer.read_token) as answers:
        shop.compare(answers, totals.from_file(online_retail(), days), orders, raw=True)
    assert orders.equal, [dataclasses.asdict(line) for line in orders.lines if not line.equal]
