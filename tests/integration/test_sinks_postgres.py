"""The Postgres sink against real Kafka and two real shards: exact through repeats, disorder, kills and outages."""

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psycopg
import pytest

import schemas.frame
from headrace import kafka, metrics
from headrace.errors import HeadraceError, IncarnationError
from headrace.migrations import migrate
from headrace.runtime.parts import Part
from headrace.runtime.ports import free_ports
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.runtime.process import Process
from headrace.settings import Settings
from headrace.shards.router import Router
from headrace.topics import create_topics
from schemas.frame import decode_chunk, encode_frame
from schemas.topics import SINK_POSTGRES_GROUP, Topics
from sinks import postgres as postgres_sink
from sinks.consumer import ConsumerLoop
from sinks.live import LiveNotices
from tests.frame_log import FrameTopic, PartitionLog, Row, applied_to, arrow_rows, stored_rows, write_in_frames
from tests.integration.conftest import Databases, MakeSettings

PARTITIONS = 2
# By the first deal of two shards: 1 and 200,001 lie on the first, 100,001 and 300,005 on the second.
CUSTOMERS = (1, 2, 100_001, 200_001, 300_005)
FIRST_SHARD = {1, 2, 200_001}
WAIT_S = 30.0
NOT_COMMITTED = -1001
"""What the broker's client says of a partition without a committed offset."""


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    made = make_settings(
        "kafka", "postgres", events_partitions=PARTITIONS, retry_backoff_s=0.05, retry_backoff_max_s=0.3
    )
    migrate(made, shards={f"shard-{n}": address for n, address in enumerate(postgres.shards, 1)})
    create_topics(made)
    return made


@pytest.fixture
def logs(settings: Settings) -> list[PartitionLog]:
    topic_id = kafka.topic_id(settings, Topics(settings.topic_prefix).events)
    return [PartitionLog(p, CUSTOMERS, size=2_000, seed=7, topic_id=topic_id) for p in range(PARTITIONS)]


class RunningSink:
    """The sink's loop in a thread of this process."""

    def __init__(self, settings: Settings, partitions: tuple[int, ...] | None = None) -> None:
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._router = Router(settings)
        self.loop: ConsumerLoop = postgres_sink.consumer_loop(
            settings, self._router, LiveNotices(settings), self.stopping, partitions
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._router.close()


@pytest.fixture
def run_sink() -> Iterator[Callable[..., RunningSink]]:
    running: list[RunningSink] = []

    def run(settings: Settings, partitions: tuple[int, ...] | None = None) -> RunningSink:
        running.append(RunningSink(settings, partitions))
        return running[-1]

    yield run
    for sink in running:
        sink.stop()


def expected(logs: Sequence[PartitionLog], shard: int) -> list[Row]:
    rows = [row for log in logs for row in log.rows(0, log.size)]
    return sorted(row for row in rows if (row[0] in FIRST_SHARD) == (shard == 0))


def wait_until(what: Callable[[], bool], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def caught_up(dsn: str, logs: Sequence[PartitionLog]) -> bool:
    return applied_to(dsn) == {log.partition: {log.size} for log in logs}


def test_rows_of_frames_land_on_the_shards_of_their_customers(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    topic = FrameTopic(settings)
    for log in logs:
        write_in_frames(topic, log, 300)
    topic.flush()

    run_sink(settings)

    for shard in (0, 1):
        wait_until(lambda shard=shard: caught_up(postgres.shard_dsn(shard), logs))  # type: ignore[misc]
        assert stored_rows(postgres.shard_dsn(shard)) == expected(logs, shard)


def test_repeated_half_and_stale_frames_of_several_writers_change_nothing(
    settings: Settings,
    postgres: Databases,
    logs: list[PartitionLog],
    run_sink: Callable[..., RunningSink],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(schemas.frame, "CHUNK_BYTES_MAX", 2_000)
    monkeypatch.setattr(schemas.frame, "SEGMENT_ROWS_MIN", 8)
    topic = FrameTopic(settings)
    run_sink(settings)
    several_chunks = 0
    for log in logs:
        position = 0
        written: list[list[bytes]] = []
        while position < log.size:
            writer = f"{rng.getrandbits(128):032x}"
            start = rng.randint(0, position) if rng.random() < 0.3 else position  # a zombie starts further back
            end = min(log.size, start + rng.randint(1, 400))
            chunks = log.frame(start, end, writer, 1)
            several_chunks += len(chunks) > 1
            if rng.random() < 0.2:
                topic.write(log.partition, chunks[: rng.randint(0, len(chunks) - 1)])  # the writer died half-way
                continue
            order = list(chunks)
            if rng.random() < 0.3:
                order += rng.sample(order, rng.randint(1, len(order)))  # landed twice
            topic.write(log.partition, order)
            if written and rng.random() < 0.3:
                topic.write(log.partition, rng.choice(written))  # a whole old frame, late
            written.append(chunks)
            position = max(position, end)
    topic.flush()

    assert several_chunks
    for shard in (0, 1):
        wait_until(lambda shard=shard: caught_up(postgres.shard_dsn(shard), logs))  # type: ignore[misc]
        assert stored_rows(postgres.shard_dsn(shard)) == expected(logs, shard)


def test_a_gap_is_not_applied_and_a_later_writer_fills_it(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    log, other = logs
    topic = FrameTopic(settings)
    topic.write(0, log.frame(0, 500, "a" * 32, 1))
    topic.write(0, log.frame(700, 1000, "a" * 32, 2))  # [500, 700) never came
    write_in_frames(topic, other, 500)
    topic.flush()
    run_sink(settings)

    wait_until(lambda: applied_to(postgres.shard_dsn(0)) == {0: {500}, 1: {other.size}})
    time.sleep(0.5)
    assert applied_to(postgres.shard_dsn(0))[0] == {500}
    assert counted('headrace_frame_gaps_total{reader="postgres-shard-1"}') >= 1
    write_in_frames(topic, log, 500, begin=500, writer="b" * 32)
    topic.flush()
    for shard in (0, 1):
        wait_until(lambda shard=shard: caught_up(postgres.shard_dsn(shard), logs))  # type: ignore[misc]
        assert stored_rows(postgres.shard_dsn(shard)) == expected(logs, shard)


def counted(series: str) -> float:
    lines = metrics.exposition()[0].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


def test_two_sinks_on_the_same_partitions_do_no_harm(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    both = tuple(range(PARTITIONS))
    sinks = [run_sink(settings, both), run_sink(settings, both)]
    topic = FrameTopic(settings)
    for log in logs:
        write_in_frames(topic, log, 40)
    topic.flush()

    for shard in (0, 1):
        wait_until(lambda shard=shard: caught_up(postgres.shard_dsn(shard), logs))  # type: ignore[misc]
        assert stored_rows(postgres.shard_dsn(shard)) == expected(logs, shard)
    assert [sink.failure for sink in sinks] == [None, None]


def test_a_second_sink_shares_the_partitions_and_takes_over(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    topic = FrameTopic(settings)
    first = run_sink(settings)
    for log in logs:
        write_in_frames(topic, log, 50, end=700)
    topic.flush()
    wait_until(lambda: applied_to(postgres.shard_dsn(0)) == {log.partition: {700} for log in logs})
    second = run_sink(settings)
    wait_until(lambda: second.loop.ready)
    for log in logs:
        write_in_frames(topic, log, 50, begin=700, end=1_400, writer="b" * 32)
    topic.flush()
    wait_until(lambda: applied_to(postgres.shard_dsn(0)) == {log.partition: {1_400} for log in logs})
    assert first.loop.ready
    first.stop()
    for log in logs:
        write_in_frames(topic, log, 50, begin=1_400, writer="c" * 32)
    topic.flush()
    for shard in (0, 1):
        wait_until(lambda shard=shard: caught_up(postgres.shard_dsn(shard), logs))  # type: ignore[misc]
        assert stored_rows(postgres.shard_dsn(shard)) == expected(logs, shard)
    assert committed(settings) == ends(settings)


def committed(settings: Settings, within_s: float = 10) -> dict[int, int]:
    """What the sink's group says is no longer needed, once it says so of everything or the time is over."""
    topic = Topics(settings.topic_prefix).aggregates
    asking = kafka.consumer(settings, SINK_POSTGRES_GROUP)
    try:
        deadline = time.monotonic() + within_s
        while True:
            found = asking.committed([kafka.TopicPartition(topic, p) for p in range(PARTITIONS)], 10)
            offsets = {item.partition: item.offset for item in found}
            if offsets == ends(settings) or time.monotonic() > deadline:
                return offsets
            time.sleep(0.2)
    finally:
        asking.close()


def ends(settings: Settings) -> dict[int, int]:
    topic = Topics(settings.topic_prefix).aggregates
    return {p: end for p, (_, end) in kafka.watermarks(settings, topic, list(range(PARTITIONS))).items()}


def test_frames_of_another_fold_version_are_refused(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    log, other = logs
    topic = FrameTopic(settings)
    topic.write(0, log.frame(0, 300, "a" * 32, 1))
    topic.write(0, log.frame(300, 600, "b" * 32, 1, fold_version="fold-2"))
    topic.write(0, log.frame(300, 400, "a" * 32, 2))
    write_in_frames(topic, other, 500)
    topic.flush()
    run_sink(settings)

    wait_until(lambda: applied_to(postgres.shard_dsn(0)) == {0: {400}, 1: {other.size}})
    assert counted('headrace_frames_refused_total{reader="postgres-shard-1",reason="other_version"}') >= 1


def set_topic_id(dsn: str, topic_id: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO range_cursor (partition, range_id, keys, topic_id)
            SELECT p, range_id, keys, %s FROM range_owner, unnest(%s::int4[]) AS p
            ON CONFLICT (partition, range_id) DO UPDATE SET topic_id = excluded.topic_id
            """,
            (topic_id, list(range(PARTITIONS))),
        )


def test_a_shard_of_another_incarnation_is_set_aside_alone(
    settings: Settings,
    postgres: Databases,
    logs: list[PartitionLog],
    run_sink: Callable[..., RunningSink],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_sink, "FAILED_RETRY_S", 1.0)
    set_topic_id(postgres.shard_dsn(1), "another")
    sink = run_sink(settings)
    topic = FrameTopic(settings)
    for log in logs:
        write_in_frames(topic, log, 300)
    topic.flush()

    wait_until(lambda: caught_up(postgres.shard_dsn(0), logs))
    assert stored_rows(postgres.shard_dsn(0)) == expected(logs, 0)
    assert counted('headrace_sink_lanes_detached{shard="shard-2"}') == 1
    assert applied_to(postgres.shard_dsn(1)) == {p: {0} for p in range(PARTITIONS)}
    time.sleep(postgres_sink.FAILED_RETRY_S + 2.5)  # retried, and past the next commit of positions
    assert sink.failure is None
    assert committed(settings, within_s=0) == dict.fromkeys(range(PARTITIONS), NOT_COMMITTED)

    set_topic_id(postgres.shard_dsn(1), logs[0].topic_id)
    wait_until(lambda: caught_up(postgres.shard_dsn(1), logs))
    assert stored_rows(postgres.shard_dsn(1)) == expected(logs, 1)
    wait_until(lambda: counted('headrace_sink_lanes_detached{shard="shard-2"}') == 0)
    assert committed(settings) == ends(settings)


def test_a_shard_that_the_log_does_not_reach_back_to_is_set_aside_alone(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    topic = FrameTopic(settings)
    for log in logs:
        write_in_frames(topic, log, 100, end=1_000)
    topic.flush()
    sink = run_sink(settings)
    wait_until(lambda: applied_to(postgres.shard_dsn(0)) == {p: {1_000} for p in range(PARTITIONS)})
    wait_until(lambda: applied_to(postgres.shard_dsn(1)) == {p: {1_000} for p in range(PARTITIONS)})
    sink.stop()
    with psycopg.connect(postgres.shard_dsn(1), autocommit=True) as connection:
        connection.execute("UPDATE range_cursor SET applied_to = 0, resume_at = 0")  # an old backup
    delete_frames_below(settings, 5)

    sink = run_sink(settings)
    for log in logs:
        write_in_frames(topic, log, 100, begin=1_000, writer="b" * 32)
    topic.flush()
    wait_until(lambda: caught_up(postgres.shard_dsn(0), logs))
    assert stored_rows(postgres.shard_dsn(0)) == expected(logs, 0)
    time.sleep(1)
    assert sink.failure is None
    assert applied_to(postgres.shard_dsn(1)) == {p: {0} for p in range(PARTITIONS)}


def test_a_shard_that_refuses_a_row_is_set_aside_alone(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    log, other = logs
    rows = log.rows(0, log.size)
    at = next(index for index, row in enumerate(rows) if row[0] not in FIRST_SHARD)
    unfit = sorted([*rows[:at], (*rows[at][:4], "a\0b", *rows[at][5:]), *rows[at + 1 :]])
    header = decode_chunk(log.frame(0, log.size, "a" * 32, 1)[0]).header
    topic = FrameTopic(settings)
    topic.write(0, encode_frame(header, arrow_rows(unfit), [], np.empty(0, dtype=np.int64)))
    write_in_frames(topic, other, 500)
    topic.flush()
    sink = run_sink(settings)

    wait_until(lambda: caught_up(postgres.shard_dsn(0), logs))
    assert stored_rows(postgres.shard_dsn(0)) == expected(logs, 0)
    wait_until(lambda: counted('headrace_sink_lanes_detached{shard="shard-2"}') == 1)
    assert applied_to(postgres.shard_dsn(1))[0] == {0}
    assert sink.failure is None


def test_the_sink_stops_when_every_shard_is_of_another_incarnation(
    settings: Settings, postgres: Databases, run_sink: Callable[..., RunningSink]
) -> None:
    for shard in (0, 1):
        set_topic_id(postgres.shard_dsn(shard), "another")
    sink = run_sink(settings)

    wait_until(lambda: sink.failure is not None)
    assert isinstance(sink.failure, IncarnationError)
    assert "another" in str(sink.failure)


def test_a_range_of_the_map_that_its_shard_does_not_know_is_waited_for(
    settings: Settings, postgres: Databases, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    dsn = postgres.shard_dsn(1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM range_owner")  # migrate ended between the shard's tables and this
    sink = run_sink(settings)
    topic = FrameTopic(settings)
    for log in logs:
        write_in_frames(topic, log, 300)
    topic.flush()
    wait_until(lambda: caught_up(postgres.shard_dsn(0), logs))
    time.sleep(2.5)  # past the next commit of positions
    assert committed(settings, within_s=0) == dict.fromkeys(range(PARTITIONS), NOT_COMMITTED)

    migrate(settings)
    wait_until(lambda: caught_up(dsn, logs))
    assert stored_rows(dsn) == expected(logs, 1)
    assert sink.failure is None


def test_a_trimmed_log_is_refused_not_skipped(
    settings: Settings, logs: list[PartitionLog], run_sink: Callable[..., RunningSink]
) -> None:
    topic = FrameTopic(settings)
    write_in_frames(topic, logs[0], 100)
    topic.flush()
    delete_frames_below(settings, 5, partitions=1)

    sink = run_sink(settings)

    wait_until(lambda: sink.failure is not None)
    assert isinstance(sink.failure, HeadraceError)
    assert "does not hold the offset" in str(sink.failure)


def delete_frames_below(settings: Settings, offset: int, partitions: int = PARTITIONS) -> None:
    name = Topics(settings.topic_prefix).aggregates
    client = kafka.admin(settings)
    wanted = [kafka.TopicPartition(name, partition, offset) for partition in range(partitions)]
    for future in client.delete_records(wanted).values():
        future.result(10)


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
