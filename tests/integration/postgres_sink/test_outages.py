"""The Postgres sink killed, and a shard that is away."""

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from headrace import kafka
from headrace.migrations import migrate
from headrace.runtime.parts import Part
from headrace.runtime.ports import free_ports
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.runtime.process import Process
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.topics import Topics
from tests.frame_log import FrameTopic, PartitionLog, applied_to, stored_rows
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.postgres_sink.world import (
    CUSTOMERS,
    PARTITIONS,
    RunningSink,
    caught_up,
    counted,
    expected,
    wait_until,
)


def start_sink(settings: Settings, log_file: Path) -> subprocess.Popen[bytes]:
    with log_file.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", "run", "sink"],
            env={"PATH": os.environ["PATH"], **settings.as_environment(), "HEADRACE_SINKS": "postgres"},
            stdout=output,
            stderr=output,
        )


def test_kill_9_in_the_middle_loses_and_doubles_nothing(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], tmp_path: Path
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    topic = FrameTopic(settings)
    log_file = tmp_path / "sink.log"
    child = start_sink(settings, log_file)
    try:
        wait_until(lambda: applied_to(postgres.shard_dsn(0)) != {})
        writers = [threading.Thread(target=write_slowly, args=(topic, log, rng.randint(8, 20), 0.01)) for log in logs]
        for writer in writers:
            writer.start()
        for _ in range(3):
            time.sleep(rng.uniform(0.3, 1.0))
            assert child.poll() is None, log_file.read_text()
            child.kill()
            child.wait(10)
            child = start_sink(settings, log_file)
        for writer in writers:
            writer.join()
        topic.flush()
        for shard in (0, 1):
            wait_until(lambda shard=shard: caught_up(postgres.shard_dsn(shard), logs))  # type: ignore[misc]
            assert stored_rows(postgres.shard_dsn(shard)) == expected(logs, shard)
        child.send_signal(signal.SIGTERM)
        assert child.wait(15) == 0, log_file.read_text()
    finally:
        child.kill()
        child.wait(10)


def write_slowly(topic: FrameTopic, log: PartitionLog, step: int, pause_s: float) -> None:
    for seq, start in enumerate(range(0, log.size, step), 1):
        end = min(start + step, log.size)
        topic.write(log.partition, log.frame(start, end, f"{log.partition:032x}", seq))
        time.sleep(pause_s)


def test_a_shard_that_is_down_lags_alone_and_catches_up(
    make_settings: MakeSettings,
    postgres: Databases,
    start_part: Callable[[Part], Process],
    run_sink: Callable[..., RunningSink],
    tmp_path: Path,
) -> None:
    settings = make_settings(
        "kafka",
        "postgres",
        events_partitions=PARTITIONS,
        retry_backoff_s=0.05,
        retry_backoff_max_s=0.3,
        sink_queue_bytes_max=20_000,
    )
    sick = PostgresEngine(
        name="sick",
        folder=tmp_path / "sick",
        port=free_ports(1)[0],
        owner=Role(settings.shard_user, settings.shard_password),
        reader=Role(settings.shard_reader_user, settings.shard_reader_password),
        databases=("sick",),  # durable: it is killed, and what it had acknowledged must be there again
    )
    server = start_part(sick)
    migrate(settings, shards={"shard-1": postgres.shards[0], "shard-2": sick.address("sick")})
    create_topics(settings)
    topic_id = kafka.topic_id(settings, Topics(settings.topic_prefix).events)
    logs = [PartitionLog(p, CUSTOMERS, size=6_000, seed=11, topic_id=topic_id) for p in range(PARTITIONS)]
    healthy_dsn, sick_dsn = postgres.shard_dsn(0), sick.dsn("sick")
    topic = FrameTopic(settings)
    sink = run_sink(settings)
    wait_until(lambda: applied_to(healthy_dsn) != {} and applied_to(sick_dsn) != {})

    server.kill()
    down_at = time.monotonic()
    slowest = 0.0
    for start in range(0, 6_000, 50):
        for log in logs:
            topic.write(log.partition, log.frame(start, start + 50, f"{log.partition:032x}", start // 50 + 1))
        topic.flush()
        written_at = time.monotonic()
        wait_until(lambda start=start: applied_to(healthy_dsn) == {p: {start + 50} for p in range(PARTITIONS)})  # type: ignore[misc]
        slowest = max(slowest, time.monotonic() - written_at)
    time.sleep(max(0.0, 10.0 - (time.monotonic() - down_at)))
    print(f"healthy shard's slowest frame: {slowest:.2f} s while the other was down")
    assert slowest < 3.0
    stale_s = counted('headrace_freshness_seconds{shard="shard-2",store="postgres"}')
    assert stale_s > 5
    wait_until(lambda: counted('headrace_freshness_seconds{shard="shard-2",store="postgres"}') > stale_s + 1, 10)
    wait_until(lambda: counted('headrace_freshness_seconds{shard="shard-1",store="postgres"}') < 3)
    assert counted('headrace_sink_queue_bytes{shard="shard-2",store="postgres"}') > 0
    assert stored_rows(healthy_dsn) == expected(logs, 0)

    start_part(sick)
    wait_until(lambda: caught_up(sick_dsn, logs))
    assert stored_rows(sick_dsn) == expected(logs, 1)
    wait_until(lambda: counted('headrace_freshness_seconds{shard="shard-2",store="postgres"}') < 3)
    wait_until(lambda: counted('headrace_sink_queue_bytes{shard="shard-2",store="postgres"}') == 0, 5)
    assert sink.failure is None
