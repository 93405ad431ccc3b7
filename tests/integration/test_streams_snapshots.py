"""Snapshots: recovery from them, what is trimmed below them, and what a damaged one does."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from headrace import kafka
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.frame import ROWS_ARROW, DedupeHour, FrameHeader, encode_frame
from schemas.topics import SINK_POSTGRES_GROUP, Topics
from streams.foreign_frames import settled_offset
from streams.log_reader import LogReader
from streams.snapshots import KEPT, SnapshotManifest, find_manifests, read_snapshot
from tests.integration.conftest import MakeSettings
from tests.integration.streams_world import Judge, Sender, WorkerProcess, some_events

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings(
        "kafka", metrics_port=0, events_partitions=2, snapshot_interval_s=1.0, aggregates_age_min_s=0.0
    )
    create_topics(made)
    return made


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[WorkerProcess] = []

    def start(own: Settings = settings) -> WorkerProcess:
        started.append(WorkerProcess(own, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield start
    for worker in started:
        worker.clean_up()


def commit_as_sink(settings: Settings, judge: Judge) -> dict[int, int]:
    """Commit the judge's resume offsets as the Postgres sink's."""
    consumer = kafka.consumer(settings, SINK_POSTGRES_GROUP)
    resume = {p: view.rule.resume_offset for p, view in judge.views.items()}
    consumer.commit(
        offsets=[kafka.TopicPartition(judge.topics.aggregates, p, offset) for p, offset in resume.items()],
        asynchronous=False,
    )
    consumer.close()
    return resume


def manifests(settings: Settings, partition: int) -> list[SnapshotManifest]:
    topic = Topics(settings.topic_prefix).snapshots
    begin, end = kafka.watermarks(settings, topic, [partition])[partition]
    return find_manifests(LogReader(settings), topic, partition, begin, end)


def newest_positions(settings: Settings) -> dict[int, int]:
    found = {p: manifests(settings, p) for p in range(settings.events_partitions)}
    return {p: some[0].position for p, some in found.items() if some}


def begins(settings: Settings) -> dict[int, int]:
    topic = Topics(settings.topic_prefix).aggregates
    bounds = kafka.watermarks(settings, topic, list(range(settings.events_partitions)))
    return {p: begin for p, (begin, _) in bounds.items()}


def wait_for(condition: Callable[[], bool], worker: WorkerProcess, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert worker.process.poll() is None, worker.log[-3000:]
        assert time.monotonic() < deadline, worker.log[-3000:]
        time.sleep(0.2)


def test_recovery_from_a_snapshot_and_trimming_below(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    partitions = range(settings.events_partitions)
    worker = start_worker()
    worker.wait_log("partitions_assigned")
    for part in range(3):
        sender.events(some_events(50 + part, 3_000))
        judge.wait(workers=[worker])
        wait_for(lambda: newest_positions(settings) == judge.positions(), worker)
    assert begins(settings) == dict.fromkeys(partitions, 0), "nothing may go before the sink has committed"

    committed = commit_as_sink(settings, judge)
    sender.events(some_events(60, 2_000))
    judge.wait(workers=[worker])
    wait_for(lambda: all(begin > 0 for begin in begins(settings).values()), worker)
    assert all(begin <= committed[p] for p, begin in begins(settings).items())
    assert all(len(manifests(settings, p)) == KEPT for p in partitions)
    worker.kill()

    sender.events(some_events(61, 2_000))
    again = start_worker()
    judge.wait(workers=[again])
    judge.assert_exact()
    assert again.log.count('"origin": "snapshot"') == settings.events_partitions
    assert again.stop() == 0


def test_a_damaged_snapshot_is_passed_over(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    sender.events(some_events(70, 3_000))
    worker = start_worker()
    judge.wait(workers=[worker])
    wait_for(lambda: all(manifests(settings, p) for p in judge.partitions), worker)
    assert worker.stop() == 0

    topic = judge.topics.snapshots
    producer = kafka.producer(settings)
    for partition in judge.partitions:
        newest = manifests(settings, partition)[0]
        assert read_snapshot(LogReader(settings), topic, newest)
        bad = msgspec.structs.replace(newest, snapshot_id="damaged")
        producer.produce(topic, msgspec.json.encode(bad), b"%d/damaged/manifest" % partition, partition=partition)
    assert producer.flush(20) == 0

    sender.events(some_events(71, 3_000))
    again = start_worker()
    judge.wait(workers=[again])
    judge.assert_exact()
    assert again.log.count("snapshot_unusable") == settings.events_partitions
    assert again.log.count('"origin": "snapshot"') == settings.events_partitions
    assert again.stop() == 0


def test_frames_trimmed_without_a_snapshot_are_a_gap(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    sender.events(some_events(80, 1_000))
    worker = start_worker(replace(settings, snapshot_interval_s=3600.0))
    judge.wait(workers=[worker])
    assert worker.stop() == 0
    admin = kafka.admin(settings)
    topics = judge.topics
    ends = kafka.watermarks(settings, topics.aggregates, judge.partitions)
    trimmed = [kafka.TopicPartition(topics.aggregates, p, end) for p, (_, end) in ends.items()]
    for future in admin.delete_records(trimmed).values():
        future.result(20)
    refused = start_worker()
    assert refused.exit_code() == 70
    assert "no snapshot reaches back that far" in refused.log


def test_what_an_interrupted_snapshot_left_is_deleted(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    topic = judge.topics.snapshots
    producer = kafka.producer(settings)
    for key in (b"0/interrupted/0", b"0/interrupted/1"):
        producer.produce(topic, b"a chunk without a manifest", key, partition=0)
    assert producer.flush(20) == 0
    worker = start_worker()
    rounds = iter(range(20))

    def deleted() -> bool:
        sender.events(some_events(100 + next(rounds), 200))
        time.sleep(1)
        return live_snapshots(settings, 0) == {m.snapshot_id for m in manifests(settings, 0)}

    wait_for(deleted, worker)
    wait_for(lambda: "snapshot_orphans_deleted" in worker.log, worker)
    assert len(live_snapshots(settings, 0)) == KEPT
    assert worker.stop() == 0


def live_snapshots(settings: Settings, partition: int) -> set[str]:
    """Ids of all snapshots of which the topic holds something."""
    topic = Topics(settings.topic_prefix).snapshots
    begin, end = kafka.watermarks(settings, topic, [partition])[partition]
    live: dict[bytes, bool] = {}
    for record in LogReader(settings).read(topic, partition, begin, end):
        live[record.key or b""] = record.value is not None
    return {key.split(b"/")[1].decode() for key, alive in live.items() if alive}


def test_junk_among_the_frames_is_passed_over(settings: Settings, start_worker: StartWorker) -> None:
    """By the worker that writes beside it, by its snapshots and by the next worker: as by the sinks."""
    sender, judge = Sender(settings), Judge(settings)
    sender.events(some_events(90, 1_000))
    worker = start_worker()
    judge.wait(workers=[worker])
    junk = kafka.producer(settings)
    for partition in judge.partitions:
        junk.produce(judge.topics.aggregates, b"junk", partition=partition)
    assert junk.flush(20) == 0
    seeds = iter(range(1_000, 1_100))

    def met() -> bool:  # a snapshot looks between the frames that were there before the one it cuts itself
        sender.events(some_events(next(seeds), 50))
        time.sleep(0.5)
        return "frame_unreadable" in worker.log

    wait_for(met, worker, timeout_s=45)
    wait_for(judge.caught_up, worker)
    worker.kill()
    again = start_worker(replace(settings, snapshot_interval_s=3600.0))
    sender.events(some_events(92, 1_000))
    judge.wait(workers=[again])
    judge.assert_exact()
    assert again.stop() == 0


@pytest.mark.parametrize(
    ("spans", "settled"),
    [
        ([(0, 10, 1), (0, 5, 1)], 2),
        ([(0, 10, 1), (10, 50, 2), (0, 5, 1)], 1),
        ([(0, 10, 1), (5, 50, 1), (0, 5, 1)], 1),
        ([(0, 10, 1), (20, 50, 1)], 1),
    ],
)
def test_a_reader_at_10_may_skip_what_brings_it_no_further(
    settings: Settings, spans: list[tuple[int, int, int]], settled: int
) -> None:
    """`spans`: (from, to, chunks) of foreign frames of which only the first chunk is in the log."""
    topic = Topics(settings.topic_prefix).aggregates
    producer = kafka.producer(settings)
    for start, end, chunks in spans:
        producer.produce(topic, a_chunk(start, end, chunks), partition=0)
    assert producer.flush(20) == 0
    assert settled_offset(settings, topic, 0, 0, len(spans), position=10) == settled


def a_chunk(from_offset: int, to_offset: int, chunks: int) -> bytes:
    header = FrameHeader(
        partition=0,
        from_offset=from_offset,
        to_offset=to_offset,
        writer=secrets.token_hex(16),
        seq=1,
        fold_version="v",
        topic_id="id",
        watermark_us=0,
        receive_us=0,
        last_crc=0,
    )
    rows = pa.RecordBatch.from_pylist([], schema=ROWS_ARROW)
    encoded = encode_frame(header, rows, [DedupeHour(0, np.arange(150_000, dtype=np.uint64))], np.empty(0, np.int64))
    assert len(encoded) == 2
    return encoded[0] if chunks == 2 else encode_frame(header, rows, [], np.empty(0, np.int64))[0]
