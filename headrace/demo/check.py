"""The check: every total of the demo's data asked of the API and compared with one computed from the data itself."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from headrace.clock import Clock
from headrace.demo import shop, totals, traffic
from headrace.demo.answers import Answers
from headrace.demo.comparison import Comparison
from headrace.demo.traffic import Customer
from headrace.errors import HeadraceError
from headrace.settings import Settings
from producers.data import online_retail

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """A running system: its addresses, the customer that gets the orders, and those that get live traffic."""

    ingest_url: str
    api_url: str
    settings: Settings
    shop: Customer
    live: Sequence[Customer]


@dataclass(slots=True)
class Outcome:
    """The comparison, and how long each step took in seconds."""

    comparison: Comparison = field(default_factory=Comparison)
    seconds: dict[str, float] = field(default_factory=dict)


def check(place: Place, seed: int, clock: Clock, say: Say) -> Outcome:
    """Load, ask, compare. A step that fails, a total that is wrong or does not come in time: each is a line of the
    comparison that says so; the steps after it are tried all the same.
    """
    outcome = Outcome()
    with _timed(outcome, "burst"):
        say(f"posting {traffic.BURST_ROWS:,} events to {len(place.live)} customers over HTTP (seed {seed})")
        for burst in traffic.send_burst(place.ingest_url, place.live, seed, clock):
            traffic.compare_burst(place.api_url, burst, outcome.comparison)
    days = shop.shift_days(clock)
    expected = totals.from_file(online_retail(), days)
    with _timed(outcome, "load"):
        say(f"loading {expected.events:,} order lines, moved by {days:,} days")
        shop.load(place.settings, place.shop.customer_id, days, clock)
    with _timed(outcome, "answers"), Answers(place.api_url, place.shop.read_token) as answers:
        say("asking until the answers cover them, then comparing")
        shop.compare(answers, expected, outcome.comparison, raw=bool(place.settings.clickhouse))
    return outcome


@contextmanager
def _timed(outcome: Outcome, step: str) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    except HeadraceError as error:
        outcome.comparison.failed(step, error)
    outcome.seconds[step] = round(time.monotonic() - start, 2)
