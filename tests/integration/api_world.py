"""Two customers on two shards, with the same seeded events in the rollup rows and in the raw store.

The rollup rows are made here, by a plain fold of its own (dictionaries, no code of the pipeline but the sketches'
byte layout), in the state a running system leaves them in: final minutes added to hours, final hours to days, the
newest still open, some events late.
"""

import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx
import psycopg
import xxhash

from api.auth.keys import SigningKey, ensure_signing_key
from api.auth.tokens import create_api_token
from headrace.clickhouse import ClickHouseAddress
from headrace.kafka import partition_for
from headrace.migrations import migrate
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from schemas.rollups import DIMS_SEPARATOR, ROLLUPS
from schemas.sketches import hist_of, hll_of

GRACE_S = 300
SPAN_S = (60, 3600, 86_400)
COUNTRIES = ("France", "Germany", "Österreich", "")
NAMES = ("signup", "order_line", "page view", "it's \\odd\t", "cancellation")
BROWSERS = ("Firefox", "Chrome", "")
PLANS = ('"pro"', '"free"', "3", "null", "true")


@dataclass(frozen=True, slots=True)
class Event:
    """One event as both stores hold it. `late_by_s`: how long after its window was final it came, 0: in time."""

    offset: int
    timestamp_us: int
    name: str
    user_id: str
    anonymous_id: str
    path: str
    referrer_domain: str
    utm_source: str
    country: str
    device: str
    browser: str
    os: str
    value_e6: int | None
    plan: str
    amount: float
    late_by_s: int

    @property
    def user(self) -> str:
        return self.user_id or self.anonymous_id

    def dimension(self, name: str) -> str:
        return str(getattr(self, name))


@dataclass(slots=True)
class Cell:
    """The value of one rollup row."""

    open: bool
    events: int = 0
    users: set[int] = field(default_factory=set)
    values: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class World:
    """The installation under test."""

    settings: Settings
    key: SigningKey
    customers: tuple[int, int]
    events: dict[int, list[Event]]
    tokens: dict[int, str]
    admin_token: str
    watermark_us: int

    def partition(self, customer_id: int) -> int:
        return partition_for(str(customer_id).encode(), self.settings.events_partitions)


def make_world(settings: Settings, shards: tuple[str, ...], *, seed: int = 7, count: int = 3000) -> World:
    """Migrate, create customers and tokens, and fill all configured stores."""
    named = {f"shard-{i + 1}": address for i, address in enumerate(shards)}
    migrate(settings, shards=named)
    key = ensure_signing_key(settings)
    now_s = int(time.time())
    with connect_control(settings) as control:
        made = [create_customer(control, f"customer of {name}", shard_id=name) for name in named]
        customers = tuple(customer.customer_id for customer in made)
        tokens = {
            customer: create_api_token(control, key, customer_id=customer, now_s=now_s, ttl_s=3600)[0]
            for customer in customers
        }
        admin_token, _ = create_api_token(control, key, customer_id=None, now_s=now_s, ttl_s=3600)
    assert len(customers) == 2
    # The watermark stands a little behind now, in the middle of an hour or not, as it comes.
    watermark_us = (now_s - 5) * 1_000_000
    world = World(settings, key, customers, {}, tokens, admin_token, watermark_us)
    for i, (customer, address) in enumerate(zip(customers, shards, strict=True)):
        world.events[customer] = make_events(random.Random(seed + i), now_s - 5, count)
        dsn = f"postgresql://{settings.shard_user}:{settings.shard_password}@{address}"
        with psycopg.connect(dsn) as shard:
            write_rollups(shard, world, customer)
        if settings.clickhouse:
            write_raw(world, customer)
    return world


def make_events(rng: random.Random, until_s: int, count: int) -> list[Event]:
    """Events of the last 500 days, most of them of the last days and hours."""
    events = []
    for offset in range(count):
        reach_s = rng.choice((600, 7200, 2 * 86_400, 9 * 86_400, 60 * 86_400, 500 * 86_400))
        second = until_s - rng.randrange(reach_s)
        late = rng.random() < 0.05
        # 0.3 % without any user, a tenth with an anonymous id alone
        kind = rng.random()
        number = int(rng.paretovariate(0.6)) % 700
        valued = rng.random() < 0.6
        events.append(
            Event(
                offset=offset,
                timestamp_us=second * 1_000_000 + rng.randrange(1_000_000),
                name=rng.choice(NAMES),
                user_id="" if kind < 0.1 else f"user-{number}",
                anonymous_id="" if kind < 0.003 else f"anon-{number}",
                path=f"/page/{int(rng.paretovariate(0.8)) % 40}",
                referrer_domain=rng.choice(("example.org", "search.example", "")),
                utm_source=rng.choice(("mail", "ads", "")),
                country=rng.choice(COUNTRIES),
                device=rng.choice(("phone", "desktop")),
                browser=rng.choice(BROWSERS),
                os=rng.choice(("Linux", "iOS", "")),
                value_e6=rng.choice((-12_950_000, 0, 2_550_000, rng.randrange(1, 10**10))) if valued else None,
                plan=rng.choice(PLANS),
                amount=round(rng.uniform(-5, 100), 2),
                late_by_s=rng.randrange(3600, 86_400) if late else 0,
            )
        )
    return events


def fold(events: list[Event], now_s: int, watermark_s: int) -> dict[tuple[int, int, int, str, int], Cell]:
    """(rollup, grain, window, dims, generation) → cell, with finished windows added to the coarser ones."""
    cells: dict[tuple[int, int, int, str, int], Cell] = {}
    for event in events:
        second = event.timestamp_us // 1_000_000
        age_s = now_s - second
        grain = 0 if age_s < 47 * 3600 else 1 if age_s < 399 * 86_400 else 2
        generation_s = min(second + event.late_by_s, watermark_s) if event.late_by_s else second
        for rollup in ROLLUPS:
            dims = DIMS_SEPARATOR.join(event.dimension(name) for name in rollup.dimensions)
            _add(cells, event, rollup.code, dims, grain, second, generation_s, watermark_s)
    return cells


def _add(
    cells: dict[tuple[int, int, int, str, int], Cell],
    event: Event,
    rollup: int,
    dims: str,
    grain: int,
    second: int,
    generation_s: int,
    watermark_s: int,
) -> None:
    """Into the row of `grain`, and on into the coarser one where that row is final."""
    span = SPAN_S[grain]
    window, generation = second // span * span, generation_s // span * span
    final = generation + span + GRACE_S <= watermark_s
    cell = cells.setdefault((rollup, grain, window, dims, generation), Cell(open=grain == 2 or not final))
    cell.events += 1
    if event.user:
        cell.users.add(xxhash.xxh64_intdigest(event.user.encode()))
    if event.value_e6 is not None:
        cell.values.append(event.value_e6)
    if grain < 2 and final:
        _add(cells, event, rollup, dims, grain + 1, second, generation_s, watermark_s)


def write_rollups(shard: psycopg.Connection[Any], world: World, customer: int) -> None:
    """Rows and cursor of one customer."""
    for grain in ("minute", "hour", "day"):
        shard.execute(f"CREATE TABLE IF NOT EXISTS test_{grain} PARTITION OF rollup_rows_{grain} DEFAULT")
    watermark_s = world.watermark_us // 1_000_000
    part = world.partition(customer)
    with shard.cursor().copy(
        "COPY rollup_rows (customer_id, rollup, grain, window_start, dims, generation, part, ver, open, events,"
        " users, value_e6, value_count, value_hist) FROM STDIN"
    ) as copy:
        for (code, grain_code, window, dims, generation), cell in fold(
            world.events[customer], watermark_s, watermark_s
        ).items():
            copy.write_row(
                (
                    *(customer, code, grain_code, window, dims, generation, part, 10_000, cell.open, cell.events),
                    *(hll_of(sorted(cell.users)), sum(cell.values), len(cell.values), hist_of(cell.values)),
                )
            )
    found = shard.execute("SELECT range_id, keys FROM range_owner WHERE keys @> %s::int8", (customer,)).fetchone()
    assert found is not None
    shard.execute(
        "INSERT INTO range_cursor (partition, range_id, keys, topic_id, applied_to, watermark_us, receive_us,"
        " complete_us) VALUES (%s, %s, %s, 'topic-1', 10000, %s, 17, %s)",
        (part, found[0], found[1], world.watermark_us, world.watermark_us + 1_000_000),
    )


def write_raw(world: World, customer: int) -> None:
    """The same events into ClickHouse; every tenth twice, as a repeated insert leaves them."""
    client = clickhouse_connect.get_client(**ClickHouseAddress.parse(world.settings.clickhouse).client_arguments())
    rows = [_raw_row(world, customer, event) for event in world.events[customer]]
    for some in (rows, rows[::10]):
        client.insert("events", [list(row.values()) for row in some], column_names=list(rows[0]))
    cursor = {
        "sink": "events",
        "topic_id": "topic-1",
        "log_partition": world.partition(customer),
        "next_offset": 10_000,
        "resume_at": 1,
        "fold_version": "v",
        "watermark_us": world.watermark_us,
        "receive_us": 17,
        "complete_us": world.watermark_us + 1_000_000,
    }
    client.insert("sink_cursor", [list(cursor.values())], column_names=list(cursor))
    client.close()


def _raw_row(world: World, customer: int, event: Event) -> dict[str, object]:
    seconds, micros = divmod(event.timestamp_us, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
    same = "name user_id anonymous_id path referrer_domain utm_source country device browser os value_e6"
    return {
        "customer_id": customer,
        "timestamp": moment,
        "type": "track",
        "message_id": f"m{customer}-{event.offset}",
        **{name: getattr(event, name) for name in same.split()},
        "properties": f'{{"plan":{event.plan},"amount":{event.amount},"a\'b\\\\":"x"}}',
        "log_partition": world.partition(customer),
        "log_offset": event.offset,
        "received_at": moment,
    }


@contextmanager
def running_api(settings: Settings) -> Iterator[str]:
    """The API as its own process; yields its URL, and stops it cleanly."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "run", "api"],
        env=environment | settings.as_environment() | {"HEADRACE_LOG_LEVEL": "warning"},
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://{settings.api_host}:{settings.api_port}"
    try:
        wait_until(lambda: _ready(url, process), 30)
        yield url
        process.terminate()
        _, stderr = process.communicate(timeout=15)
        assert process.returncode == 0, stderr
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)


def _ready(url: str, process: "subprocess.Popen[str]") -> bool:
    if process.poll() is not None:
        _, stderr = process.communicate(timeout=5)
        raise AssertionError(f"the API ended with {process.returncode}: {stderr}")
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def settings_with_key(settings: Settings, folder: Path) -> Settings:
    """The same settings, with a signing key of the test's own."""
    environment = settings.as_environment() | {"HEADRACE_SIGNING_KEY_FILE": str(folder / "signing.pem")}
    return Settings.load(environ=environment)


def group_events(events: list[Event], name: str) -> dict[str, list[Event]]:
    """Events by one dimension."""
    grouped: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        grouped[event.dimension(name)].append(event)
    return grouped
