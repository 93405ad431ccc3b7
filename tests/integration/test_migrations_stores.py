"""Migrations of the three stores: once, together, checked, repeatable."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from headrace import clickhouse
from headrace.errors import ConfigurationError, FatalError, UnavailableError
from headrace.migrations import Step, migrate
from headrace.shards.address import connect_control
from headrace.shards.map import load_map
from tests.integration.conftest import Databases, MakeSettings


def named(postgres: Databases) -> dict[str, str]:
    return {f"shard-{number}": address for number, address in enumerate(postgres.shards, 1)}


def stores(steps: Sequence[Step]) -> set[str]:
    return {step.store.split(" at ")[0].split(" 127")[0] for step in steps}


def test_a_first_run_makes_every_store_and_a_second_does_nothing(
    make_settings: MakeSettings, postgres: Databases
) -> None:
    settings = make_settings("postgres", "clickhouse")

    planned = migrate(settings, shards=named(postgres), dry_run=True)
    with psycopg.connect(postgres.control) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert tables == (0,), "a dry run changes nothing"
    done = migrate(settings, shards=named(postgres))

    assert done == planned
    assert stores(done) == {"control", "shard shard-1", "shard shard-2", "clickhouse"}
    assert migrate(settings) == []
    assert migrate(settings, shards=named(postgres), dry_run=True) == []
    client = clickhouse.connect(settings)
    names = {row[0] for row in client.query("SHOW TABLES").result_rows}
    made = {name: client.query(f"SHOW CREATE TABLE {name}").result_rows[0][0] for name in ("events", "rollup_rows")}
    client.close()
    assert {"events", "rollup_rows", "sink_cursor"} <= names
    for table in made.values():
        assert "min_bytes_for_wide_part = 268435456" in table and "min_parts_to_merge_at_once = 10" in table


def test_the_map_covers_every_id_and_each_shard_knows_its_ranges(
    make_settings: MakeSettings, postgres: Databases
) -> None:
    settings = make_settings("postgres")
    migrate(settings, shards=named(postgres))

    with connect_control(settings) as connection:
        shard_map = load_map(connection)
    for number, shard_id in enumerate(("shard-1", "shard-2")):
        with psycopg.connect(postgres.shard_dsn(number)) as shard:
            owned = {row[0] for row in shard.execute("SELECT range_id FROM range_owner WHERE state = 'owned'")}
        assert owned == {item.range_id for item in shard_map.ranges_of(shard_id)}
        assert owned


def test_two_migrations_at_once_apply_each_file_once(make_settings: MakeSettings, postgres: Databases) -> None:
    settings = make_settings("postgres", "clickhouse")
    steps: list[Step] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            steps.extend(migrate(settings, shards=named(postgres)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(steps) == len(set(steps))


def test_a_changed_file_is_refused(make_settings: MakeSettings, postgres: Databases) -> None:
    settings = make_settings("postgres")
    migrate(settings, shards=named(postgres))
    with psycopg.connect(postgres.shard_dsn(1), autocommit=True) as connection:
        connection.execute("UPDATE headrace_migrations SET checksum = 'other' WHERE version = 2")

    with pytest.raises(FatalError, match="range_cursor"):
        migrate(settings)


def test_a_store_of_a_newer_program_is_refused(make_settings: MakeSettings, postgres: Databases) -> None:
    settings = make_settings("postgres")
    migrate(settings, shards=named(postgres))
    with psycopg.connect(postgres.control, autocommit=True) as connection:
        connection.execute("INSERT INTO headrace_migrations (version, name, checksum) VALUES (99, 'later', 'x')")

    with pytest.raises(FatalError, match="version 99"):
        migrate(settings)


def test_a_broken_file_leaves_nothing_behind(
    make_settings: MakeSettings, postgres: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    import headrace.migrations as module

    settings = make_settings("postgres")
    real = module.migrations

    def with_broken(folder: str) -> list[module.Migration]:
        broken = module.Migration(len(real(folder)) + 1, "broken", "CREATE TABLE half (a int); SELECT nonsense")
        return [*real(folder), broken] if folder == "control" else real(folder)

    monkeypatch.setattr(module, "migrations", with_broken)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        migrate(settings, shards=named(postgres))
    with psycopg.connect(postgres.control) as connection:
        half = connection.execute("SELECT to_regclass('half'), to_regclass('customers')").fetchone()
    assert half == (None, "customers")
    monkeypatch.setattr(module, "migrations", real)
    assert stores(migrate(settings, shards=named(postgres))) == {"shard shard-1", "shard shard-2"}


def test_without_shards_or_servers_it_says_what_to_do(make_settings: MakeSettings, postgres: Databases) -> None:
    settings = make_settings("postgres")
    with pytest.raises(Exception, match="--shard NAME="):
        migrate(settings)
    with pytest.raises(ConfigurationError, match="HEADRACE_POSTGRES_CONTROL"):
        migrate(replace(settings, postgres_control=""))
    with pytest.raises(UnavailableError, match="control database"):
        migrate(replace(settings, postgres_control="postgresql://nobody:x@127.0.0.1:1/none"))


def test_the_reader_role_sees_one_customer_and_writes_nothing(
    make_settings: MakeSettings, postgres: Databases
) -> None:
    settings = make_settings("postgres")
    migrate(settings, shards=named(postgres))
    with psycopg.connect(postgres.shard_dsn(0), autocommit=True) as owner:
        owner.execute("CREATE TABLE leaf PARTITION OF rollup_rows_day FOR VALUES FROM (0) TO (100)")
        owner.execute(
            """
            INSERT INTO rollup_rows (customer_id, window_start, generation, ver, events, value_e6, value_count,
                rollup, grain, part, open, dims, users, value_hist)
            SELECT c, 0, 0, 1, 1, 0, 0, 0, 2, 0, true, '', '', '' FROM unnest('{1,2}'::int8[]) c
            """
        )
    with psycopg.connect(postgres.shard_dsn(0, postgres.reader), autocommit=True) as reader:
        assert reader.execute("SELECT count(*) FROM rollup_rows").fetchone() == (0,)
        with reader.transaction():
            reader.execute("SELECT set_config('headrace.customer_id', '2', true)")
            assert reader.execute("SELECT customer_id FROM rollup_rows").fetchall() == [(2,)]
        assert reader.execute("SELECT count(*) FROM rollup_rows").fetchone() == (0,), "the binding ends with it"
        reader.execute("SELECT * FROM range_cursor")
        for statement in ("SELECT * FROM leaf", "DELETE FROM rollup_rows", "UPDATE range_cursor SET hold = true"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)
