"""The ClickHouse sink against real Kafka and a real ClickHouse engine: raw events and rollup rows, each once."""

import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
import xxhash

from headrace import clickhouse, kafka, metrics
from headrace.errors import IncarnationError
from headrace.migrations import migrate
from headrace.runtime.chdb_engine import ChdbEngine
from headrace.runtime.parts import Part
from headrace.runtime.ports import free_ports
from headrace.runtime.process import Process
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.codec import encode_events, event_arrow
from schemas.frame import FrameHeader, encode_frame
from schemas.topics import Topics
from sinks.clickhouse import COMPLETE_EVERY_S, consumer_loop
from sinks.live import LiveNotices, stream_key
from tests.frame_log import FOLD_VERSION, FrameTopic, PartitionLog, Row, arrow_rows, write_in_frames
from tests.integration.conftest import Databases, MakeSettings

PARTITIONS = 2
WAIT_S = 40.0
HOUR_US = 3_600_000_000


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    made = make_settings(
        "kafka",
        "postgres",
        "clickhouse",
        events_partitions=PARTITIONS,
        retry_backoff_s=0.05,
        retry_backoff_max_s=0.3,
        sink_batch_rows_max=700,
    )
    prepare(made, postgres)
    return made


def prepare(settings: Settings, postgres: Databases) -> None:
    migrate(settings, shards={"shard-1": postgres.shards[0]})
    create_topics(settings)


class RunningSink:
    """The sink's loop in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._notices = LiveNotices(settings)
        self._loop = consumer_loop(settings, self._notices, self.stopping)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run()
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._notices.close()


@pytest.fixture
def run_sink() -> Iterator[Callable[[Settings], RunningSink]]:
    running: list[RunningSink] = []

    def run(settings: Settings) -> RunningSink:
        running.append(RunningSink(settings))
        return running[-1]

    yield run
    for sink in running:
        sink.stop()


def wait_until(what: Callable[[], bool], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def query(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    client = clickhouse.connect(settings)
    try:
        return [tuple(row) for row in client.query(statement).result_rows]
    finally:
        client.close()


def positions(settings: Settings, sink: str) -> dict[int, int]:
    rows = query(settings, f"SELECT log_partition, next_offset FROM sink_cursor FINAL WHERE sink = '{sink}'")
    return {row[0]: row[1] for row in rows}


def stored_positions(settings: Settings) -> list[tuple[int, int]]:
    return sorted(query(settings, "SELECT log_partition, log_offset FROM events FINAL"))


def customer_of(partition: int) -> int:
    """A customer whose events go to `partition`."""
    return next(c for c in range(1, 1000) if kafka.partition_for(b"%d" % c, PARTITIONS) == partition)


def event(customer: int, number: int, **changes: Any) -> dict[str, Any]:
    now_us = time.time_ns() // 1000
    plain = {
        "customer_id": customer,
        "message_id": f"m{number}",
        "type": "track",
        "name": f"name{number % 5}",
        "user_id": f"u{number % 7}",
        "timestamp_us": now_us,
        "received_at_us": now_us,
        "properties": "{}",
        "context": "{}",
        "protocol": "segment",
        "library": "test",
        "attempt": 0,
    }
    return {item.name: None for item in event_arrow()} | plain | changes


class EventTopic:
    """Writes to `events`; remembers what went where."""

    def __init__(self, settings: Settings) -> None:
        self._topic = Topics(settings.topic_prefix).events
        self._producer = kafka.producer(settings)
        self.ends = dict.fromkeys(range(PARTITIONS), 0)

    def write(self, partition: int, events: Sequence[Mapping[str, Any]]) -> None:
        batch = pa.RecordBatch.from_pylist([dict(item) for item in events], schema=event_arrow())
        self.write_bytes(partition, encode_events(batch))

    def write_bytes(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            self._producer.produce(self._topic, value, key=b"x", partition=partition)
            self._producer.poll(0)
            self.ends[partition] += 1

    def flush(self) -> None:
        assert self._producer.flush(20) == 0


class Coverage:
    """Frames without rows that say which offsets are decided and which are second arrivals."""

    def __init__(self, settings: Settings, partition: int, begin: int = 0) -> None:
        self._frames = FrameTopic(settings)
        self._topic_id = kafka.topic_id(settings, Topics(settings.topic_prefix).events)
        self._partition = partition
        self._to = begin
        self._seq = begin

    def cover(self, end: int, duplicates: Sequence[int] = (), rows: Sequence[Row] = ()) -> None:
        self._seq += 1
        header = FrameHeader(
            partition=self._partition,
            from_offset=self._to,
            to_offset=end,
            writer="a" * 32,
            seq=self._seq,
            fold_version=FOLD_VERSION,
            topic_id=self._topic_id,
            watermark_us=1,
            receive_us=end,
            last_crc=0,
        )
        self._frames.write(
            self._partition, encode_frame(header, arrow_rows(rows), [], np.array(duplicates, dtype=np.int64))
        )
        self._frames.flush()
        self._to = end


def test_events_are_stored_once_up_to_what_frames_cover(
    settings: Settings, run_sink: Callable[[Settings], RunningSink]
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    topic = EventTopic(settings)
    expected: list[tuple[int, int]] = []
    run_sink(settings)
    for partition in range(PARTITIONS):
        customer, stranger = customer_of(partition), customer_of(1 - partition)
        coverage = Coverage(settings, partition)
        bad = set(rng.sample(range(2000), 40))
        for start in range(0, 2000, 100):
            for number in range(start, start + 100):
                if number not in bad:
                    topic.write(partition, [event(customer, number)])
                elif number % 2:
                    topic.write_bytes(partition, [rng.randbytes(30)])  # no event at all
                else:
                    topic.write(partition, [event(stranger, number)])  # in the wrong partition for its key
        topic.flush()
        position = 0
        while position < 1900:
            end = min(1900, position + rng.randint(1, 400))
            duplicates = sorted(rng.sample(range(position, end), (end - position) // 10))
            coverage.cover(end, duplicates)
            expected += [(partition, o) for o in range(position, end) if o not in bad and o not in set(duplicates)]
            position = end
    # before that, a look at the log may have found a partition empty, or cut short where frames cover it
    written_us = time.time_ns() // 1000

    wait_until(lambda: positions(settings, "events") == dict.fromkeys(range(PARTITIONS), 1900))
    assert stored_positions(settings) == sorted(expected)
    time.sleep(COMPLETE_EVERY_S + 1)
    assert positions(settings, "events") == dict.fromkeys(range(PARTITIONS), 1900), "the rest is not decided"
    assert query(settings, "SELECT max(complete_us) FROM sink_cursor FINAL")[0][0] <= written_us
    for partition in range(PARTITIONS):
        Coverage(settings, partition, begin=1900).cover(2000)
    began_us = time.time_ns() // 1000 - 2_000_000
    wait_until(lambda: query(settings, "SELECT min(complete_us) FROM sink_cursor FINAL")[0][0] > began_us)


def test_columns_are_stored_as_they_are_and_times_are_clamped(
    settings: Settings, run_sink: Callable[[Settings], RunningSink]
) -> None:
    customer = customer_of(0)
    topic = EventTopic(settings)
    at = 1_700_000_000_123_456
    full = event(
        customer,
        0,
        name="signup",
        user_id=None,
        anonymous_id="änön",
        path="/päth",
        country="FR",
        value_e6=-1_500_000,
        currency="EUR",
        timestamp_us=at,
        sent_at_us=at,
        properties='{"plan":"pro"}',
        attempt=3,
    )
    ahead = event(customer, 1, timestamp_us=time.time_ns() // 1000 + 24 * HOUR_US, anonymous_id="a", user_id="u")
    nobody = event(customer, 2, user_id=None)
    topic.write(0, [full, ahead, nobody])
    topic.flush()
    Coverage(settings, 0).cover(3)
    run_sink(settings)
    wait_until(lambda: positions(settings, "events").get(0) == 3)

    rows = query(
        settings,
        """
        SELECT customer_id, name, user_id, anonymous_id, path, country, value_e6, currency, timestamp, sent_at,
            original_timestamp, properties, attempt, utm_source, user_hash FROM events FINAL ORDER BY log_offset
        """,
    )
    stamp = datetime.fromtimestamp(at // 1_000_000, UTC).replace(microsecond=at % 1_000_000)
    first = [value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for value in rows[0]]
    assert first == [
        customer,
        "signup",
        "",
        "änön",
        "/päth",
        "FR",
        -1_500_000,
        "EUR",
        stamp,
        stamp,
        None,
        '{"plan":"pro"}',
        3,
        "",
        xxhash.xxh64_intdigest("änön".encode()),
    ]
    assert [row[-1] for row in rows[1:]] == [xxhash.xxh64_intdigest(b"u"), 0]
    clamped = query(
        settings, "SELECT dateDiff('second', stored_at, timestamp) FROM events FINAL WHERE log_offset = 1"
    )
    assert clamped == [(settings.skew_s,)]


def test_one_insert_over_300_months_goes_in(settings: Settings, run_sink: Callable[[Settings], RunningSink]) -> None:
    customer = customer_of(0)
    month_us = 30 * 24 * HOUR_US
    topic = EventTopic(settings)
    topic.write(0, [event(customer, n, timestamp_us=946_684_800_000_000 + n * month_us) for n in range(300)])
    topic.flush()
    day = 86_400
    rows: list[Row] = [
        (customer, 0, 2, n * 30 * day, "", n * 30 * day, 0, 1, 0, 0, b"", b"", True) for n in range(300)
    ]
    Coverage(settings, 0).cover(300, rows=rows)
    run_sink(settings)

    wait_until(lambda: positions(settings, "events").get(0) == 300)
    assert len(stored_positions(settings)) == 300
    assert query(settings, "SELECT uniqExact(toYYYYMM(timestamp)) FROM events")[0][0] > 290
    wait_until(lambda: positions(settings, "rollups").get(0) == 300)
    assert query(settings, "SELECT count() FROM rollup_rows FINAL") == [(300,)]


def test_rollup_rows_equal_the_fold(settings: Settings, run_sink: Callable[[Settings], RunningSink]) -> None:
    topic_id = kafka.topic_id(settings, Topics(settings.topic_prefix).events)
    logs = [PartitionLog(p, (1, 2, 100_001), size=1_500, seed=3, topic_id=topic_id) for p in range(PARTITIONS)]
    topic = FrameTopic(settings)
    for log in logs:
        write_in_frames(topic, log, 70)
        write_in_frames(topic, log, 230, writer="f" * 32)  # a zombie that repeats all of it
    topic.flush()
    run_sink(settings)

    wait_until(lambda: positions(settings, "rollups") == {log.partition: log.size for log in logs})
    assert stored_rollups(settings) == sorted(row for log in logs for row in log.rows(0, log.size))


def stored_rollups(settings: Settings) -> list[Row]:
    rows = query(
        settings,
        """
        SELECT customer_id, rollup, grain, window_start, dims, generation, part, events, value_e6, value_count,
            hex(users), hex(value_hist), open FROM rollup_rows FINAL
        """,
    )
    return sorted((*row[:10], bytes.fromhex(row[10]), bytes.fromhex(row[11]), bool(row[12])) for row in rows)


def test_a_batch_that_is_inserted_again_collapses(
    settings: Settings, run_sink: Callable[[Settings], RunningSink]
) -> None:
    customer = customer_of(0)
    topic = EventTopic(settings)
    topic.write(0, [event(customer, number) for number in range(1000)])
    topic.flush()
    Coverage(settings, 0).cover(1000, duplicates=[5, 900])
    sink = run_sink(settings)
    wait_until(lambda: positions(settings, "events").get(0) == 1000)
    sink.stop()
    before = stored_positions(settings)
    query(settings, "TRUNCATE TABLE sink_cursor")  # as if no cursor had been written after the inserts

    run_sink(settings)
    wait_until(lambda: positions(settings, "events").get(0) == 1000)
    assert stored_positions(settings) == before
    assert query(settings, "SELECT count() FROM events")[0][0] >= len(before)


def test_another_incarnation_is_refused(settings: Settings, run_sink: Callable[[Settings], RunningSink]) -> None:
    query(
        settings, "INSERT INTO sink_cursor (sink, topic_id, log_partition, next_offset) VALUES ('events', 'x', 0, 5)"
    )
    sink = run_sink(settings)
    wait_until(lambda: sink.failure is not None)
    assert isinstance(sink.failure, IncarnationError)


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "while it starts"])
def test_clickhouse_away_for_a_while_loses_nothing(
    begun: bool,
    make_settings: MakeSettings,
    postgres: Databases,
    start_part: Callable[[Part], Process],
    run_sink: Callable[[Settings], RunningSink],
    tmp_path: Path,
) -> None:
    engine = ChdbEngine(
        folder=tmp_path / "clickhouse", port=free_ports(1)[0], password=secrets.token_urlsafe(16), databases=("away",)
    )
    server = start_part(engine)
    settings = replace(
        make_settings(
            "kafka", "postgres", events_partitions=PARTITIONS, retry_backoff_s=0.05, retry_backoff_max_s=0.3
        ),
        clickhouse=engine.url("away"),
    )
    prepare(settings, postgres)
    customer = customer_of(0)
    topic, coverage = EventTopic(settings), Coverage(settings, 0)
    sink = run_sink(settings)
    for round_ in range(4):
        topic.write(0, [event(customer, number) for number in range(250)])
        topic.flush()
        coverage.cover((round_ + 1) * 250)
        if round_ == 0 and begun:
            wait_until(lambda: positions(settings, "rollups").get(0) == 250)
        if round_ == 1:
            server.kill()
            time.sleep(2)
            for part in ("events", "rollups"):
                wait_until(lambda part=part: freshness_s(part) > 4)  # type: ignore[misc]
        if round_ == 2:
            server = start_part(engine)

    wait_until(lambda: positions(settings, "events").get(0) == 1000)
    assert stored_positions(settings) == [(0, number) for number in range(1000)]
    for part in ("events", "rollups"):
        wait_until(lambda part=part: freshness_s(part) < 4)  # type: ignore[misc]
    assert sink.failure is None


def freshness_s(part: str) -> float:
    series = f'headrace_freshness_seconds{{shard="{part}",store="clickhouse"}} '
    lines = metrics.exposition()[0].decode().splitlines()
    return next(float(line.removeprefix(series)) for line in lines if line.startswith(series))


def test_kill_9_of_the_sink_loses_and_doubles_nothing(settings: Settings, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    topic = EventTopic(settings)
    coverages = [Coverage(settings, partition) for partition in range(PARTITIONS)]
    expected: list[tuple[int, int]] = []
    log_file = tmp_path / "sink.log"
    child = start_sink(settings, log_file)
    try:
        for round_ in range(30):
            for partition, coverage in enumerate(coverages):
                start = topic.ends[partition]
                topic.write(partition, [event(customer_of(partition), n) for n in range(rng.randint(20, 60))])
                topic.flush()
                end = topic.ends[partition]
                duplicates = sorted(rng.sample(range(start, end), 3))
                coverage.cover(end, duplicates)
                expected += [(partition, o) for o in range(start, end) if o not in duplicates]
            time.sleep(0.15)
            if round_ % 8 == 7:
                assert child.poll() is None, log_file.read_text()
                child.kill()
                child.wait(10)
                child = start_sink(settings, log_file)
        wait_until(lambda: positions(settings, "events") == topic.ends)
        assert stored_positions(settings) == sorted(expected)
        child.terminate()
        assert child.wait(20) == 0, log_file.read_text()
    finally:
        child.kill()
        child.wait(10)


def start_sink(settings: Settings, log_file: Path) -> subprocess.Popen[bytes]:
    with log_file.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", "run", "sink"],
            env={"PATH": os.environ["PATH"], **settings.as_environment(), "HEADRACE_SINKS": "clickhouse"},
            stdout=output,
            stderr=output,
        )


def test_a_sample_of_stored_events_goes_to_the_customers_stream(
    settings: Settings, redis_url: str, run_sink: Callable[[Settings], RunningSink]
) -> None:
    customer = customer_of(0)
    topic = EventTopic(settings)
    topic.write(0, [event(customer, number, value_e6=2_500_000) for number in range(100)])
    topic.flush()
    Coverage(settings, 0).cover(100)
    run_sink(replace(settings, redis=redis_url))
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    key = stream_key(customer)
    wait_until(lambda: client.xlen(key) > 0)

    entries: Any = client.xrange(key)
    fields = entries[0][1]
    sampled = json.loads(fields["data"])
    assert fields["kind"] == "events"
    assert 0 < len(sampled) <= 20
    assert sampled[-1]["event"].startswith("name")
    assert sampled[-1]["value"] == 2.5
    assert set(sampled[0]) >= {"message_id", "type", "user_id", "anonymous_id", "timestamp", "path", "country"}
    assert 0 < client.ttl(key) <= 3600
