"""The Postgres sink: frames become rows, exact through repeats, disorder and several sinks."""

import random
import secrets
from collections.abc import Callable

import pytest

import schemas.frame
from headrace.settings import Settings
from tests.frame_log import FrameTopic, PartitionLog, applied_to, stored_rows, write_in_frames
from tests.integration.conftest import Databases
from tests.integration.postgres_sink.world import (
    PARTITIONS,
    RunningSink,
    caught_up,
    committed,
    ends,
    expected,
    wait_until,
)


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
