"""Worker, sink, gateway and broker are killed with -9 while events arrive; every row comes out exact.

10 % of the requests are sent twice, and every request again until it is acknowledged. In the end each rollup row of
both shards equals an independent fold of the log, and the log holds every acknowledged id.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.settings import Settings
from tests.faults import truth
from tests.faults.running import Running, running_system
from tests.faults.sender import Sender
from tests.reference_fold import ReferenceRules

SEED = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(2**31)))
EVENTS_PER_REQUEST = 50
KILLED = ("streams", "sink", "ingest", "kafka")
SETTLE_TIMEOUT_S = 120.0
NAMES = ("viewed", "clicked", "bought", "left")


@pytest.mark.parametrize("events", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_every_row_is_exact_after_kills(tmp_path: Path, events: int) -> None:
    print(f"FAULT_SEED={SEED}")
    rng = random.Random(SEED)
    with running_system(tmp_path) as system:
        senders = [
            Sender(system.ready["ingest_url"], c["write_key"], c["customer_id"], batches, rng.randrange(2**31))
            for c, batches in zip(system.ready["customers"], made_batches(rng, events), strict=True)
        ]
        for sender in senders:
            sender.pause_s = 20.0 / len(sender.batches)
            sender.start()
        for name in rng.sample(KILLED, len(KILLED)):
            time.sleep(rng.uniform(1.0, 5.0))
            kill(system, name)
        for sender in senders:
            sender.join()
        settings = Settings(kafka=system.ready["kafka"], events_partitions=partitions(system))
        log = truth.read_log(settings)
        wait_until(lambda: caught_up(system, log), system)
        folds = truth.fold_log(log, ReferenceRules())
        stored: dict[Any, Any] = {}
        for shard in system.ready["shards"]:
            stored |= truth.stored_rows(shard["dsn"])
        truth.assert_equal(folds, stored)
        logged = truth.message_ids(log)
        assert set(logged) == set().union(*(sender.acknowledged for sender in senders))
        assert len(set(logged)) == sum(len(batch) for sender in senders for batch in sender.batches)
        assert sum(len(fold.duplicates) for fold in folds.values()) == len(logged) - len(set(logged)) > 0


def made_batches(rng: random.Random, events: int) -> list[list[list[dict[str, Any]]]]:
    """Requests for two customers, `events` in all; a few events are up to an hour old."""
    now = time.time()
    out: list[list[list[dict[str, Any]]]] = [[], []]
    for number in range(events // EVENTS_PER_REQUEST):
        batch = []
        for i in range(EVENTS_PER_REQUEST):
            at = now - (rng.uniform(0, 3600) if rng.random() < 0.05 else rng.uniform(0, 60))
            batch.append(
                {
                    "type": "track",
                    "event": rng.choice(NAMES),
                    "messageId": f"m-{number}-{i}",
                    "userId": f"u{rng.randrange(500)}",
                    "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{rng.randrange(1000):03d}Z",
                    "properties": {"value": rng.randrange(-500, 10_000) / 100},
                    "context": {"page": {"path": f"/{rng.randrange(40)}"}},
                }
            )
        out[number % 2].append(batch)
    return out


def kill(system: Running, name: str) -> None:
    """kill -9 one process and see it come back."""
    full = next(child for child in sorted(system.ready["pids"]) if child.startswith(name))
    system.wait_restarted(full, system.kill9(full))


def partitions(system: Running) -> int:
    """Partitions of `events` in that system."""
    return int(system.ready.get("events_partitions", Settings().events_partitions))


def caught_up(system: Running, log: dict[int, list[tuple[int, int, bytes]]]) -> bool:
    """Whether both shards' cursors stand at the end of the log."""
    for shard in system.ready["shards"]:
        at = truth.cursors(shard["dsn"])
        if any(at.get(partition, 0) < records[-1][0] + 1 for partition, records in log.items()):
            return False
    return True


def wait_until(condition: Callable[[], bool], system: Running) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not caught up after {SETTLE_TIMEOUT_S} s\n{system.log()}"
        time.sleep(0.3)
