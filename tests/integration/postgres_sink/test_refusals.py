"""What the Postgres sink does not apply: gaps, other versions, other logs; and which shards that stops."""

import time
from collections.abc import Callable

import numpy as np
import psycopg
import pytest

from headrace import kafka
from headrace.errors import HeadraceError, IncarnationError
from headrace.migrations import migrate
from headrace.settings import Settings
from schemas.frame import decode_chunk, encode_frame
from schemas.topics import Topics
from sinks import postgres as postgres_sink
from tests.frame_log import FrameTopic, PartitionLog, applied_to, arrow_rows, stored_rows, write_in_frames
from tests.integration.conftest import Databases
from tests.integration.postgres_sink.world import (
    FIRST_SHARD,
    NOT_COMMITTED,
    PARTITIONS,
    RunningSink,
    caught_up,
    committed,
    counted,
    ends,
    expected,
    wait_until,
)


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
