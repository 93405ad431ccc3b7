"""Every process of the system is killed with -9 while events arrive and windows close; every row comes out exact.

Six hours of event time go by meanwhile, so that minutes and hours close, and late generations open, between the
kills. 10 % of the requests are sent twice, and every request again until it is acknowledged. In the end each rollup
row of both shards and of ClickHouse equals an independent fold of the log, ClickHouse holds each event once, the log
holds every acknowledged id, and the API counts them.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.settings import Settings
from tests.faults import truth
from tests.faults.running import Running, running_system
from tests.faults.sender import Sender
from tests.reference_fold import ReferenceFold, ReferenceRules

SEED = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(2**31)))
EVENTS_PER_REQUEST = 50
PARTITIONS = 2  # few, so that each passes several multiples of 4096 records: windows close there
EVENT_TIME_S = 6 * 3600
SENDING_S = 25.0
PAUSE_S = (0.5, 3.0)  # between kills: some hit what has not yet recovered from the one before
SETTLE_TIMEOUT_S = 240.0
NAMES = ("viewed", "clicked", "bought", "left")


@pytest.mark.parametrize(("events", "rounds"), [(20_000, 1), pytest.param(200_000, 3, marks=pytest.mark.slow)])
def test_every_row_is_exact_after_kills(tmp_path: Path, events: int, rounds: int) -> None:
    print(f"FAULT_SEED={SEED}")
    rng = random.Random(SEED)
    with running_system(tmp_path, events_partitions=str(PARTITIONS)) as system:
        senders = [
            Sender(system.ready["ingest_url"], c["write_key"], c["customer_id"], batches, rng.randrange(2**31))
            for c, batches in zip(system.ready["customers"], made_batches(rng, events), strict=True)
        ]
        for sender in senders:
            sender.pause_s = rounds * SENDING_S / len(sender.batches)
            sender.start()
        names = sorted(system.ready["pids"])
        for name in [name for _ in range(rounds) for name in rng.sample(names, len(names))]:
            time.sleep(rng.uniform(*PAUSE_S))
            system.wait_restarted(name, system.kill9(name))
        for sender in senders:
            sender.join()
        log = truth.read_log(Settings(kafka=system.ready["kafka"], events_partitions=partitions(system)))
        folds = truth.fold_log(log, ReferenceRules())
        assert_windows_closed(folds)
        wait_until(
            lambda: caught_up(system, log) and truth.clickhouse_caught_up(system.ready["clickhouse"], log), system
        )
        assert_stores_exact(system, folds, log)
        assert_nothing_lost(folds, log, senders)
        wait_until(lambda: [counted(system, c) for c in system.ready["customers"]] == distinct(senders), system)


def made_batches(rng: random.Random, events: int) -> list[list[list[dict[str, Any]]]]:
    """Requests for two customers, `events` in all, that run through the six hours up to now.

    Half are some seconds out of order, a few percent later than the grace, a few of these hours or days old.
    """
    began = time.time() - EVENT_TIME_S
    requests = events // EVENTS_PER_REQUEST
    out: list[list[list[dict[str, Any]]]] = [[], []]
    for number in range(requests):
        batch = []
        for i in range(EVENTS_PER_REQUEST):
            at = began + (number + 1) * EVENT_TIME_S / requests - age_s(rng)
            batch.append(
                {
                    "type": "track",
                    "event": rng.choice(NAMES),
                    "messageId": f"m-{number}-{i}",
                    "userId": f"u{rng.randrange(500)}",
                    "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{rng.randrange(1000):03d}Z",
                    "properties": {"value": rng.randrange(-50, 1_000) / 10},
                    "context": {"page": {"path": f"/{rng.randrange(40)}"}},
                }
            )
        out[number % 2].append(batch)
    return out


def age_s(rng: random.Random) -> float:
    """How much older an event is than those around it."""
    kind = rng.random()
    if kind < 0.5:
        return 0.0
    if kind < 0.95:
        return rng.uniform(0, 60)
    if kind < 0.985:
        return rng.uniform(400, 3000)
    if kind < 0.998:
        return rng.uniform(3600, 3 * 3600)
    return rng.uniform(49, 96) * 3600  # opens no minute


def assert_windows_closed(folds: dict[int, ReferenceFold]) -> None:
    """The test tests something: in each partition minutes and hours were closed, and late events got generations."""
    for partition, fold in folds.items():
        closed = {key.grain for key, row in fold.rows.items() if not row.open}
        assert closed == {0, 1}, f"partition {partition}: only grains {closed} closed"
        late = {key.grain for key in fold.rows if key.generation > key.window_start}
        assert fold.late > 0 and late >= {0, 1}, f"partition {partition}: only grains {late} have late generations"


def assert_stores_exact(system: Running, folds: dict[int, ReferenceFold], log: truth.Log) -> None:
    """The shards' rows, and ClickHouse's rows and events, are those of the reference."""
    stored: dict[Any, Any] = {}
    for shard in system.ready["shards"]:
        stored |= truth.stored_rows(shard["dsn"])
    truth.assert_equal(folds, stored)
    truth.assert_equal(folds, truth.clickhouse_rows(system.ready["clickhouse"]))
    counted = {
        (partition, offset)
        for partition, records in log.items()
        for offset in {offset for offset, _, _ in records} - set(folds[partition].duplicates)
    }
    raw = truth.clickhouse_events(system.ready["clickhouse"])
    assert len(raw) == len(set(raw)), f"{len(raw) - len(set(raw))} events are doubled in ClickHouse"
    missing, surplus = sorted(counted - set(raw)), sorted(set(raw) - counted)
    assert not (missing or surplus), (
        f"{len(missing)} events missing in ClickHouse, such as {missing[:3]}; {len(surplus)} too many, such as "
        f"{surplus[:3]}"
    )


def assert_nothing_lost(folds: dict[int, ReferenceFold], log: truth.Log, senders: list[Sender]) -> None:
    """The log holds what was acknowledged, which is all, and the fold left out what stands there twice."""
    logged = truth.message_ids(log)
    assert set(logged) == set().union(*(sender.acknowledged for sender in senders))
    assert len(set(logged)) == sum(distinct(senders))
    assert sum(len(fold.duplicates) for fold in folds.values()) == len(logged) - len(set(logged)) > 0


def distinct(senders: list[Sender]) -> list[int]:
    """Events of each sender, each once."""
    return [sum(len(batch) for batch in sender.batches) for sender in senders]


def counted(system: Running, customer: dict[str, Any]) -> int:
    """Events of the last week as the API tells them; -1: it does not answer."""
    hour = int(time.time()) // 3600 * 3600
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(hour + s)) for s in (-7 * 86_400, 7200))
    try:
        answer = httpx.post(
            f"{system.ready['api_url']}/v1/query",
            json={"kind": "totals", "range": {"from": start, "to": end}},
            headers={"Authorization": f"Bearer {customer['read_token']}"},
            timeout=20,
        )
    except httpx.HTTPError:
        return -1
    return int(answer.json()["rows"][0][0]) if answer.status_code == 200 else -1


def partitions(system: Running) -> int:
    """Partitions of `events` in that system."""
    return int(system.ready["events_partitions"])


def caught_up(system: Running, log: truth.Log) -> bool:
    """Whether both shards' cursors stand at the end of the log."""
    return all(truth.reaches_end(truth.cursors(shard["dsn"]), log) for shard in system.ready["shards"])


def wait_until(condition: Callable[[], bool], system: Running) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not so after {SETTLE_TIMEOUT_S} s\n{system.log()}"
        time.sleep(0.3)
