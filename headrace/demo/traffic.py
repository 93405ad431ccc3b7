"""Live traffic over HTTP: a seeded burst with known totals for the check, an endless trickle for the demo."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl

from headrace.clock import Clock
from headrace.demo.answers import Answers, wait_until
from headrace.demo.comparison import Comparison, Count
from headrace.errors import RetryableError
from headrace.log import get_logger
from producers.generator.drive import drive, schedule
from producers.generator.pace import Pace
from producers.generator.targets import HTTPTarget
from producers.generator.workload import Workload, WorkloadRules, steady

BURST_ROWS = 5_000
BURST_RATE_PER_S = 100.0
COVER_TIMEOUT_S = 60.0
SETTLE_S = 2.0  # a count that is right must stay so: time for a second delivery to show itself
TRICKLE_RATE_PER_S = 25.0
TRICKLE_DURATION_S = 7 * 86_400.0
TRICKLE_TICK_S = 0.25
RESTART_WAIT_S = 2.0
RULES = WorkloadRules(users=2_000)
DIMENSIONS = {
    "event": "name", "path": "path", "referrer_domain": "referrer_domain", "utm_source": "utm_source",
    "country": "country", "device": "device", "browser": "browser", "os": "os",
}  # fmt: skip

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Customer:
    """Whom the traffic is of."""

    customer_id: int
    name: str
    write_key: str
    read_token: str


@dataclass(frozen=True, slots=True)
class Burst:
    """What one customer's part of the burst adds up to, repeats left out. `[start, end)` holds all of it.

    `by`: for each of DIMENSIONS (as the API calls it) events and revenue by value, the empty one for none.
    """

    customer: Customer
    events: int
    users: int
    revenue: Decimal
    by: Mapping[str, Mapping[str, Count]]
    repeats: int
    start: datetime
    end: datetime


def send_burst(ingest_url: str, customers: Sequence[Customer], seed: int, clock: Clock) -> list[Burst]:
    """Post BURST_ROWS recent events over /v1/batch; returns what must be answered for each customer."""
    ids = [customer.customer_id for customer in customers]
    start_us = clock.now_us() - round(BURST_ROWS / BURST_RATE_PER_S * 1e6)
    workload = Workload(seed, steady(start_us, BURST_RATE_PER_S), ids, RULES)
    target = HTTPTarget(ingest_url, {customer.customer_id: customer.write_key for customer in customers})
    parts = []
    try:
        for block in workload.batches(BURST_ROWS):
            target.send(block)
            frame = pl.DataFrame(pl.from_arrow(block.events))
            parts.append(frame.with_columns(repeats=pl.Series(block.duplicates())))
        target.settle()
    finally:
        target.close()
    sent = pl.concat(parts)
    return [_burst(sent.filter(pl.col("customer_id") == customer.customer_id), customer) for customer in customers]


def compare_burst(api_url: str, burst: Burst, comparison: Comparison) -> None:
    """Wait until the answers cover one customer's part of the burst, then compare its totals."""
    name = burst.customer.name
    metrics = ["events", "users", "sum(value)"]
    with Answers(api_url, burst.customer.read_token) as answers:

        def look() -> bool:
            return answers.ask("totals", burst.start, burst.end, metrics=metrics).number("events") >= burst.events

        wait_until(look, COVER_TIMEOUT_S)
        time.sleep(SETTLE_S)
        whole = answers.ask("totals", burst.start, burst.end, metrics=metrics)
        comparison.count(
            f"{name}: events", burst.events, whole.number("events"), f"{burst.repeats:,} repeats sent too"
        )
        comparison.money(f"{name}: revenue", burst.revenue, whole.amount("sum(value)"))
        comparison.estimate(f"{name}: users (sketch)", burst.users, whole.number("users"))
        for dimension, expected in burst.by.items():
            answer = answers.ask(
                "breakdown", burst.start, burst.end, metrics=metrics, dimensions=[dimension], limit=1000
            )
            comparison.table(f"{name}: per {dimension}", expected, answer.by(dimension))


def trickle(
    ingest_url: str, customers: Sequence[Customer], seed: int, clock: Clock, stopped: Callable[[], bool]
) -> None:
    """Keep traffic flowing until `stopped`. A gateway that is away is waited for."""
    keys = {customer.customer_id: customer.write_key for customer in customers}
    while not stopped():
        pace = Pace("steady", TRICKLE_RATE_PER_S, TRICKLE_DURATION_S)
        workload = Workload(seed, schedule(pace, clock.now_us()), list(keys), RULES)
        target = HTTPTarget(ingest_url, keys)
        try:
            drive(workload, pace, target, clock, stopped=stopped, tick_s=TRICKLE_TICK_S)
        except RetryableError as error:
            log.warning("live_traffic_waits", error=str(error))
            wait_until(stopped, RESTART_WAIT_S)
        finally:
            target.close()
        seed += 1


def _burst(sent: pl.DataFrame, customer: Customer) -> Burst:
    own = sent.filter(~pl.col("repeats"))
    return Burst(
        customer=customer,
        events=own.height,
        users=own.select(pl.coalesce("user_id", "anonymous_id").n_unique()).item(),
        revenue=Decimal(int(own["value_e6"].sum())) / 1_000_000,
        by={dimension: _grouped(own, column) for dimension, column in DIMENSIONS.items()},
        repeats=sent.height - own.height,
        start=_minute(int(sent["timestamp_us"].min())),  # type: ignore[arg-type]  # a column of integers
        end=_minute(int(sent["timestamp_us"].max())) + timedelta(minutes=1),  # type: ignore[arg-type]
    )


def _grouped(own: pl.DataFrame, column: str) -> dict[str, Count]:
    rows = own.group_by(pl.col(column).fill_null("")).agg(pl.len(), pl.col("value_e6").sum()).iter_rows()
    return {key: Count(count, Decimal(int(value)) / 1_000_000) for key, count, value in rows}


def _minute(us: int) -> datetime:
    return datetime.fromtimestamp(us // 60_000_000 * 60, UTC)
