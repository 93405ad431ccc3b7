"""The whole system on this machine, load generator included: the rate it sustains, and accepted to visible.

`headrace up` runs everything; `headrace load` sends over HTTP for 200 customers. Lag is how many records the slower
shard lacks, and how many ClickHouse (the slower of raw events and rollup rows), sampled every second. ClickHouse
gets an insert every two seconds, after the frames that its raw events wait for, so its lag may be longer; neither
may grow. Then, at a quarter of that rate, single events are sent to a customer of their own and the API is asked
until it counts them. Goals: 50,000 events/s (15,000 at the least); p99 of at most 1 s (2 s).
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx
import psycopg
from clickhouse_connect.driver.client import Client

from bench.report import Report
from bench.stage import Watched, stored, watched
from headrace.clickhouse import ClickHouseAddress
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key

CUSTOMERS = 200
RATES, QUICK_RATES = (
    (10_000, 12_500, 15_000, 15_500, 16_000, 17_500, 20_000, 25_000, 30_000, 40_000, 50_000),
    (1_000,),
)
SECONDS, QUICK_SECONDS = 60, 5
WARM_UP_S, QUICK_WARM_UP_S = 20, 2
"""At half the first rate: a JVM that has just started costs twice as much."""
PROBES, QUICK_PROBES = 150, 10
READY_TIMEOUT_S, PROBE_TIMEOUT_S, DRAIN_TIMEOUT_S = 120.0, 30.0, 120.0
LAG_BOUND_S, CLICKHOUSE_LAG_BOUND_S = 5.0, 10.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Sustained:
    """One rate that was tried."""

    sent_per_s: float
    lag_s_max: float
    clickhouse_lag_s_max: float
    drained_s: float
    generator_behind_s: float

    @property
    def bounded(self) -> bool:
        """Whether neither the stores nor the generator fell behind."""
        return (
            self.lag_s_max <= LAG_BOUND_S
            and self.clickhouse_lag_s_max <= CLICKHOUSE_LAG_BOUND_S
            and self.generator_behind_s <= LAG_BOUND_S
        )


def run(*, quick: bool) -> Report:
    """Raise the rate until the lag grows; then look at the delay at a quarter of the last good one."""
    report = Report("pipeline")
    seconds = QUICK_SECONDS if quick else SECONDS
    with system() as (ready, folder):
        load_file = customers_file(ready, folder)
        best = 0.0
        rates = QUICK_RATES if quick else RATES
        sustain(ready, load_file, folder, rates[0] // 2, QUICK_WARM_UP_S if quick else WARM_UP_S)
        for rate in rates:
            tried = sustain(ready, load_file, folder, rate, seconds)
            note = f"shards' lag ≤ {tried.lag_s_max:.1f} s, ClickHouse's {tried.clickhouse_lag_s_max:.1f}"
            note += f", level after {tried.drained_s:.1f} s"
            report.add(f"at {rate:,} events/s", tried.sent_per_s, "events/s", note)
            if not tried.bounded:
                break
            best = tried.sent_per_s
        report.add("sustained with bounded lag", best, "events/s", f"for {seconds} s; goal 50,000, at least 15,000")
        load = start_load(load_file, folder, max(100.0, best / 4), seconds=PROBES)
        try:
            delays = probe(ready, QUICK_PROBES if quick else PROBES)
        finally:
            load.kill()
        quantiles = statistics.quantiles(delays, n=100)
        report.add("accepted → visible, p50", quantiles[49], "s", f"{len(delays)} probes at {best / 4:,.0f} events/s")
        report.add("accepted → visible, p99", quantiles[98], "s", "goal 1, at most 2")
    return report


@contextmanager
def system() -> Iterator[tuple[dict[str, Any], Path]]:
    """`headrace up` in a folder that goes away."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    ready_file = folder / "ready.json"
    command = [
        sys.executable,
        "-m",
        "headrace",
        "up",
        "--data",
        str(folder / "data"),
        "--ready-file",
        str(ready_file),
    ]
    up = watched(command, folder / "up.log", {"HEADRACE_LOG_LEVEL": "warning"})
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready_file.exists():
            if up.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"`headrace up` did not get ready\n{up.tail()}")
            time.sleep(0.1)
        yield json.loads(ready_file.read_text()), folder
    finally:
        up.stop(60)
        shutil.rmtree(folder, ignore_errors=True)


def customers_file(ready: dict[str, Any], folder: Path) -> Path:
    """A ready file with the bench's customers, for `headrace load`."""
    settings = Settings(postgres_control=ready["postgres_control"])
    with connect_control(settings) as control:
        made = [create_customer(control, f"load {number}").customer_id for number in range(CUSTOMERS)]
        keys = [{"customer_id": each, "write_key": create_write_key(control, each, "load").secret} for each in made]
    path = folder / "load.json"
    path.write_text(json.dumps({"ingest_url": ready["ingest_url"], "customers": keys}))
    return path


def start_load(load_file: Path, folder: Path, rate: float, *, seconds: int) -> Watched:
    """`headrace load` in the background."""
    command = [sys.executable, "-m", "headrace", "load", "--rate", str(rate), "--for", f"{seconds}s", "--json"]
    return watched([*command, "--seed", str(int(rate)), "--ready-file", str(load_file)], folder / "load.log", {})


def sustain(ready: dict[str, Any], load_file: Path, folder: Path, rate: int, seconds: int) -> Sustained:
    """Send at `rate` for `seconds`; watch how far the stores are behind the log."""
    settings = Settings(kafka=ready["kafka"], events_partitions=ready["events_partitions"])
    (folder / "load.log").write_text("")
    load = start_load(load_file, folder, rate, seconds=seconds)
    lag = clickhouse_lag = 0
    while load.process.poll() is None:
        end = stored(settings)
        lag, clickhouse_lag = max(lag, end - applied(ready)), max(clickhouse_lag, end - inserted(ready))
        time.sleep(1)
    ended = time.monotonic()
    while (left := stored(settings) - min(applied(ready), inserted(ready))) > 0:
        if time.monotonic() - ended > DRAIN_TIMEOUT_S:
            raise RuntimeError(f"{left} records are not stored after {DRAIN_TIMEOUT_S} s")
        time.sleep(0.1)
    answer = json.loads((folder / "load.log").read_text().strip().splitlines()[-1])
    return Sustained(
        answer["rate"], lag / rate, clickhouse_lag / rate, time.monotonic() - ended, answer["behind_s_max"]
    )


def applied(ready: dict[str, Any]) -> int:
    """Records of `events` that both shards have applied."""
    low: dict[int, int] = {}
    for shard in ready["shards"]:
        with psycopg.connect(shard["dsn"]) as connection:
            query = "SELECT partition, min(applied_to) FROM range_cursor GROUP BY partition"
            for partition, position in connection.execute(query).fetchall():
                low[partition] = min(low.get(partition, position), position)
    return sum(low.values())


def inserted(ready: dict[str, Any]) -> int:
    """Records of `events` that ClickHouse has, both as raw events and as rollup rows."""
    positions = clickhouse(ready["clickhouse"]).query(
        "SELECT sum(at) FROM (SELECT sink, log_partition, max(next_offset) AS at FROM sink_cursor"
        " GROUP BY sink, log_partition) GROUP BY sink"
    )
    return min((int(row[0]) for row in positions.result_rows), default=0)


@cache
def clickhouse(url: str) -> Client:
    """A client that is made once."""
    return clickhouse_connect.get_client(**ClickHouseAddress.parse(url).client_arguments())


def probe(ready: dict[str, Any], count: int) -> list[float]:
    """Seconds from an event's 200 to the first answer that has it, `count` times."""
    customer = ready["customers"][0]
    headers = {"Authorization": f"Bearer {customer['read_token']}"}
    question = {"kind": "totals", "metrics": ["events"], "range": {"from": "-1h", "to": "now"}}
    delays = []
    with httpx.Client(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
        for number in range(1, count + 1):
            body = {"batch": [{"type": "track", "event": "probe", "userId": "p", "messageId": f"probe-{number}"}]}
            client.post(
                ready["ingest_url"] + "/v1/batch", json=body, auth=(customer["write_key"], "")
            ).raise_for_status()
            sent = time.monotonic()
            while True:
                answer = client.post(ready["api_url"] + "/v1/query", json=question, headers=headers)
                answer.raise_for_status()
                if answer.json()["rows"][0][0] >= number:
                    break
                if time.monotonic() - sent > PROBE_TIMEOUT_S:
                    raise RuntimeError(f"probe {number} is not visible after {PROBE_TIMEOUT_S} s")
                time.sleep(POLL_S)
            delays.append(time.monotonic() - sent)
            time.sleep(0.1)
    return delays
