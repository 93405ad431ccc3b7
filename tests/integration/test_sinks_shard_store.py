"""One shard's transactions, without Kafka: leaves, retention, holds, plans, lost answers."""

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest

from headrace import metrics
from headrace.clock import ManualClock, SystemClock
from headrace.errors import FatalError, UnavailableError
from headrace.migrations import migrate
from headrace.settings import Settings
from headrace.shards.address import ShardAddress
from headrace.shards.router import Router
from schemas.frame import Frame, decode_chunk, encode_frame
from sinks import retention
from sinks.leaf_partitions import Leaf, existing_leaves, stray_leaves
from sinks.retention import cuts, expired, tidy
from sinks.shard_store import ShardStore
from tests.frame_log import PartitionLog, applied_to, arrow_rows, stored_rows
from tests.integration.conftest import Databases, MakeSettings

CUSTOMERS = (1, 2, 200_001)
TOPIC_ID = "topic-1"


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    made = make_settings("postgres")
    migrate(made, shards={"shard-1": postgres.shards[0]})
    return made


@pytest.fixture
def store(settings: Settings, postgres: Databases) -> Iterator[ShardStore]:
    made = open_store(settings, postgres)
    made.cursors([0, 1], TOPIC_ID)
    yield made
    made.close()


def open_store(settings: Settings, postgres: Databases) -> ShardStore:
    return ShardStore(settings, "shard-1", ShardAddress.parse(postgres.shards[0]), SystemClock())


def log_of(partition: int = 0, size: int = 500, **changes: Any) -> PartitionLog:
    return PartitionLog(partition, CUSTOMERS, size=size, seed=5, topic_id=TOPIC_ID, **changes)


def frames(log: PartitionLog, *ends: int) -> list[Frame]:
    out, start = [], 0
    for end in ends:
        chunks = tuple(decode_chunk(value) for value in log.frame(start, end, "w" * 32, end))
        out.append(Frame(chunks[0].header, chunks))
        start = end
    return out


def one(dsn: str, statement: str, parameters: Sequence[Any] = ()) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement, parameters).fetchone()
        return row[0] if row else None


def test_frames_of_several_partitions_share_a_transaction(store: ShardStore, postgres: Databases) -> None:
    first, second = log_of(0), log_of(1)
    applied = store.apply([*frames(first, 200, 500), *frames(second, 500)], {0: 7, 1: 9})

    dsn = postgres.shard_dsn(0)
    assert stored_rows(dsn) == sorted(first.rows(0, 500) + second.rows(0, 500))
    assert applied_to(dsn) == {0: {500}, 1: {500}}
    assert applied.rows == len(first.rows(0, 500)) + len(second.rows(0, 500))
    assert sum(applied.changed.values()) == applied.rows
    assert (applied.receive_us, applied.behind) == (500_000, False)
    assert one(dsn, "SELECT min(resume_at) FROM range_cursor WHERE partition = 1") == 9
    assert one(dsn, "SELECT max(xmin::text) = min(xmin::text) FROM range_cursor") is True


def test_an_older_version_never_replaces_a_newer_one(store: ShardStore, postgres: Databases) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    store.apply(frames(log, 500), {0: 1})
    one(dsn, "UPDATE range_cursor SET applied_to = 0 RETURNING 1")  # a cursor restored from an older backup
    store.apply(frames(log, 200), {0: 1})
    assert stored_rows(dsn) == log.rows(0, 500)
    store.apply(frames(log, 500), {0: 1})
    assert stored_rows(dsn) == log.rows(0, 500)


def test_leaves_are_made_on_demand_and_ahead(store: ShardStore, postgres: Databases) -> None:
    log = log_of(start_s=1_000_000_000)
    store.apply(frames(log, 500), {0: 1})
    with psycopg.connect(postgres.shard_dsn(0), autocommit=True) as connection:
        leaves = existing_leaves(connection)
        options: dict[str, str] = dict(
            connection.execute("SELECT relname, reloptions::text FROM pg_class WHERE relname ~ '_[0-9]+$'").fetchall()
        )
    now_s = int(time.time())
    assert {
        Leaf(0, now_s // 86_400),
        Leaf(0, now_s // 86_400 + 1),
        Leaf(2, 1_000_000_000 // (512 * 86_400)),
    } <= leaves
    assert options[Leaf(0, now_s // 86_400).name] == "{fillfactor=60}"
    assert options[Leaf(2, now_s // (512 * 86_400)).name] == "{fillfactor=80}"
    assert stored_rows(postgres.shard_dsn(0)) == log.rows(0, 500)


def test_making_a_leaf_does_not_wait_for_open_snapshots(store: ShardStore, postgres: Databases) -> None:
    store.apply(frames(log_of(), 100), {0: 1})
    with psycopg.connect(postgres.shard_dsn(0)) as reading:
        reading.execute("SELECT count(*) FROM rollup_rows")  # its locks are held until the end of its transaction
        began = time.monotonic()
        store.apply(frames(log_of(1, start_s=1_500_000_000), 100), {1: 1})
        assert time.monotonic() - began < 5
        reading.execute("SELECT count(*) FROM rollup_rows")


def test_expired_rows_go_and_open_ones_stay(store: ShardStore, postgres: Databases) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    store.apply(frames(log, 500), {0: 1})
    everything = stored_rows(dsn)
    below = {0: log.start_s + 10 * 86_400, 1: log.start_s + 100 * 86_400}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE rollup_rows SET open = false WHERE grain = 1")
        dropped = tidy(connection, below)
        assert {leaf.grain for leaf in dropped} == {1}, "minutes have open rows, days are for ever"
        assert not set(dropped) & existing_leaves(connection)
    kept = [row for row in everything if row[2] == 2 or (row[2] == 0 and row[12])]
    assert stored_rows(dsn) == kept
    assert len(kept) < len(everything)


def test_below_the_cut_only_added_rows_without_a_partition_are_left_out(
    store: ShardStore, settings: Settings, postgres: Databases
) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    one(dsn, "INSERT INTO retention_cut VALUES (0, %s) RETURNING 1", (log.start_s + 10 * 86_400,))
    store.apply(frames(log, 500), {0: 1})
    expected = [row for row in log.rows(0, 500) if row[2] != 0 or row[12]]
    assert len(expected) == len(log.rows(0, 500)), "all of them are still open"
    assert stored_rows(dsn) == expected
    one(dsn, "UPDATE range_cursor SET applied_to = 0 RETURNING 1")
    longer = log_of(size=20_000)
    store.apply(frames(longer, 20_000), {0: 2})  # closes them: a stored open row must not stay open
    assert not [row for row in stored_rows(dsn) if row[2] == 0 and row[12]]
    assert applied_to(dsn)[0] == {20_000}
    one(dsn, "UPDATE range_cursor SET applied_to = 0 RETURNING 1")
    with psycopg.connect(dsn, autocommit=True) as connection:
        tidy(connection, {0: log.start_s + 10 * 86_400})
    again = open_store(settings, postgres)
    again.apply(frames(longer, 20_000), {0: 2})  # a replay: added rows bring no partition back
    again.close()
    assert not [row for row in stored_rows(dsn) if row[2] == 0]


def test_a_detachment_that_was_cut_short_is_taken_up_again(store: ShardStore, postgres: Databases) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    store.apply(frames(log, 500), {0: 1})
    rows = stored_rows(dsn)
    leaf = Leaf(1, log.start_s // (32 * 86_400))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE rollup_rows_hour DETACH PARTITION {leaf.name}")
        assert stray_leaves(connection) == {leaf}
        assert tidy(connection, {0: 0, 1: 0}) == []
        assert stray_leaves(connection) == set()
        assert stored_rows(dsn) == rows
        connection.execute(f"ALTER TABLE rollup_rows_hour DETACH PARTITION {leaf.name}")
    store.close()
    one(dsn, "UPDATE range_cursor SET applied_to = 0 RETURNING 1")
    store.apply(frames(log, 500), {0: 2})  # a sink that needs it attaches it, too
    assert stored_rows(dsn) == rows


def test_only_whole_leaves_below_the_cut_expire() -> None:
    leaves = {Leaf(0, 10), Leaf(0, 11), Leaf(1, 0), Leaf(2, 0)}
    assert expired(leaves, {0: 11 * 86_400, 1: 0}) == [Leaf(0, 10)]
    assert expired(leaves, {0: 11 * 86_400 - 1, 1: 0}) == []
    assert cuts(Settings(minute_retention_h=48, hour_retention_d=400), 10**9) == {
        0: 10**9 - 48 * 3600,
        1: 10**9 - 400 * 86_400,
    }


def test_a_clock_that_runs_ahead_deletes_nothing(
    store: ShardStore, settings: Settings, postgres: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    store.apply(frames(log, 500), {0: 1})
    one(dsn, "UPDATE rollup_rows SET open = false RETURNING 1")
    rows = stored_rows(dsn)
    newest_s = log.start_s + 3 * 3600
    one(dsn, "UPDATE range_cursor SET receive_us = %s RETURNING 1", (newest_s * 1_000_000,))
    monkeypatch.setattr(retention, "FIRST_AFTER_S", 0.05, raising=False)
    monkeypatch.setattr(retention, "EVERY_S", 0.05)
    with Router(settings) as router:
        router.map()
        thread = retention.Retention(settings, router, ManualClock((log.start_s + 2 * 365 * 86_400) * 1_000_000))
        thread.start()
        deadline = time.monotonic() + 20
        while one(dsn, "SELECT count(*) FROM retention_cut") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        thread.stop()
        thread.join(20)
    assert one(dsn, "SELECT generation_min FROM retention_cut WHERE grain = 0") == newest_s - 48 * 3600
    assert stored_rows(dsn) == rows


def test_a_row_that_postgres_never_takes_is_named(store: ShardStore, postgres: Databases) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    rows = log.rows(0, 500)
    for dims in ("a\0b", secrets.token_hex(10_000)):
        unfit = sorted([*rows, (*rows[77][:4], dims, *rows[77][5:])])
        header = frames(log, 500)[0].header
        values = encode_frame(header, arrow_rows(unfit), [], np.empty(0, dtype=np.int64))
        frame = Frame(header, tuple(decode_chunk(value) for value in values))
        with pytest.raises(FatalError) as caught:
            store.apply([frame], {0: 1})
        assert f"'customer_id': '{rows[77][0]}'" in str(caught.value)
        assert repr(dims[:200]) in str(caught.value)
    refused = 'headrace_sink_transactions_total{outcome="refused",shard="shard-1",store="postgres"}'
    assert any(line.startswith(refused) for line in metrics.exposition()[0].decode().splitlines())
    assert stored_rows(dsn) == []
    assert applied_to(dsn)[0] == {0}
    store.apply(frames(log, 500), {0: 1})
    assert stored_rows(dsn) == rows


def test_a_held_range_stands_still_and_the_others_go_on(store: ShardStore, postgres: Databases) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    held = one(dsn, "SELECT range_id FROM range_owner WHERE keys @> 200001::int8")
    one(dsn, "UPDATE range_cursor SET hold = true WHERE range_id = %s RETURNING 1", (held,))
    applied = store.apply(frames(log, 500), {0: 1})
    assert not applied.behind
    assert {row[0] for row in stored_rows(dsn)} == {1, 2}
    one(dsn, "UPDATE range_cursor SET hold = false RETURNING 1")
    assert store.apply(frames(log, 500), {0: 1}).rows == len([r for r in log.rows(0, 500) if r[0] == 200_001])
    assert stored_rows(dsn) == log.rows(0, 500)


def test_a_range_that_fell_behind_is_reported_and_not_skipped(store: ShardStore, postgres: Databases) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    first, second = frames(log, 200, 500)
    store.apply([first], {0: 1})
    one(dsn, "UPDATE range_cursor SET applied_to = 100 WHERE keys @> 200001::int8 RETURNING 1")
    applied = store.apply([second], {0: 2})
    assert applied.behind
    assert one(dsn, "SELECT applied_to FROM range_cursor WHERE partition = 0 AND keys @> 200001::int8") == 100


def test_a_commit_whose_answer_was_lost_is_repeated_without_effect(
    store: ShardStore, settings: Settings, postgres: Databases
) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    store.apply(frames(log, 500), {0: 1})
    again = open_store(settings, postgres)
    applied = again.apply(frames(log, 500), {0: 1})
    again.close()
    assert (applied.rows, applied.frames_skipped) == (0, 1)
    assert stored_rows(dsn) == log.rows(0, 500)


def test_a_connection_cut_in_the_middle_changes_nothing_and_is_made_again(
    store: ShardStore, postgres: Databases
) -> None:
    dsn, log = postgres.shard_dsn(0), log_of()
    store.apply(frames(log, 100), {0: 1})
    before = stored_rows(dsn)
    locking = psycopg.connect(dsn)
    locking.execute("SELECT 1 FROM range_cursor FOR UPDATE")  # the sink's transaction will wait here
    errors: list[BaseException] = []

    def apply() -> None:
        try:
            store.apply(frames(log, 500), {0: 2})
        except UnavailableError as error:
            errors.append(error)

    thread = threading.Thread(target=apply)
    thread.start()
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    deadline = time.monotonic() + 10
    while (pid := one(dsn, waiting)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert one(dsn, "SELECT pg_terminate_backend(%s)", (pid,)) is True
    thread.join(10)
    locking.rollback()
    locking.close()
    assert len(errors) == 1
    assert stored_rows(dsn) == before
    store.close()
    store.apply(frames(log, 500), {0: 2})
    assert stored_rows(dsn) == log.rows(0, 500)


def test_an_idle_shard_notes_that_it_is_complete(store: ShardStore, postgres: Databases) -> None:
    dsn = postgres.shard_dsn(0)
    store.apply(frames(log_of(), 500), {0: 1})
    store.complete({0: 500, 1: 3}, 1_234)
    assert one(dsn, "SELECT array_agg(DISTINCT complete_us) FROM range_cursor WHERE partition = 0") == [1_234]
    assert one(dsn, "SELECT array_agg(DISTINCT complete_us) FROM range_cursor WHERE partition = 1") == [0]
    store.complete({0: 500}, 1_000)
    assert one(dsn, "SELECT max(complete_us) FROM range_cursor") == 1_234


def plan_of(connection: psycopg.Connection[Any], statement: str) -> str:
    return "\n".join(row[0] for row in connection.execute(f"EXPLAIN {statement}"))


def test_reads_use_the_keys(store: ShardStore, postgres: Databases) -> None:
    with psycopg.connect(postgres.shard_dsn(0), autocommit=True) as owner:
        store.apply(frames(log_of(), 10), {0: 1})
        day = 86_400
        start = 1_767_225_600 // day * day
        owner.execute(
            """
            INSERT INTO rollup_rows (customer_id, rollup, grain, window_start, dims, generation, part, ver, open,
                events, users, value_e6, value_count, value_hist)
            SELECT c, r, g, t, 'd' || d, t, 0, 1, g = 2, 1, '', 0, 0, ''
            FROM generate_series(1, 40) c, generate_series(0, 5) r, generate_series(0, 2) g, generate_series(1, 20) d,
                LATERAL (SELECT %s::int8 + d * 60 AS t) w
            ON CONFLICT DO NOTHING
            """,
            (start,),
        )
        owner.execute("VACUUM ANALYZE rollup_rows")
        where = f"""
            customer_id = 7 AND rollup = 1 AND window_start >= {start} AND window_start < {start + day}
            AND generation >= {start}
        """
        by_key = plan_of(
            owner, f"SELECT dims, sum(events) FROM rollup_rows WHERE {where} AND grain = 2 GROUP BY dims"
        )
        open_rows = plan_of(
            owner, f"SELECT dims, sum(events) FROM rollup_rows WHERE {where} AND grain = 0 AND open GROUP BY dims"
        )
        upsert = plan_of(
            owner,
            """
            INSERT INTO rollup_rows AS t SELECT * FROM rollup_rows_day WHERE false
            ON CONFLICT (customer_id, rollup, grain, window_start, dims, generation, part)
            DO UPDATE SET ver = excluded.ver WHERE t.ver < excluded.ver
            """,
        )
    days, minutes = f"rollup_rows_day_{start // day // 512}", f"rollup_rows_minute_{start // day}"
    assert f"using {days}_pkey on {days} " in by_key, by_key
    assert "rollup_rows_minute" not in by_key, "the grain prunes the other partitions"
    assert f"using {minutes}_customer_id_rollup_window_start_idx on {minutes} " in open_rows, open_rows
    assert "Conflict Arbiter Indexes: rollup_rows_pkey" in upsert


def test_updates_of_hot_rows_stay_on_their_page(store: ShardStore, postgres: Databases) -> None:
    log = log_of(size=4_000, rows_per_customer=200)
    for end in range(200, 4_001, 200):
        chunks = tuple(decode_chunk(value) for value in log.frame(end - 200, end, "w" * 32, end))
        store.apply([Frame(chunks[0].header, chunks)], {0: end})
    store.close()  # its counts are published when it leaves
    with psycopg.connect(postgres.shard_dsn(0), autocommit=True) as connection:
        deadline = time.monotonic() + 10
        updated = hot = 0
        while not updated:
            assert time.monotonic() < deadline
            updated, hot = connection.execute(
                """
                SELECT coalesce(sum(n_tup_upd), 0)::int8, coalesce(sum(n_tup_hot_upd), 0)::int8
                FROM pg_stat_user_tables
                WHERE relname ~ '^rollup_rows_.*_[0-9]+$'
                """
            ).fetchone() or (0, 0)
            time.sleep(0.1)
    print(f"{hot} of {updated} updates stayed on their page")
    assert updated > 1000
    assert hot > updated * 0.7
