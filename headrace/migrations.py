"""Brings the stores to the newest schema: the control database, each shard of the map, ClickHouse.

The schemas are numbered .sql files in schemas/control, schemas/shard and schemas/clickhouse. A file is applied once,
in a transaction where the store has them, and recorded with its checksum; a recorded file that has changed since is
refused, never applied again. Two migrations at once wait for each other. Databases and roles exist before: whoever
runs the server makes them.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg

from headrace import clickhouse
from headrace.errors import FatalError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.address import ShardAddress, connect, connect_control
from headrace.shards.bootstrap import announce_owner, register_shards
from headrace.shards.map import load_map, shard_addresses

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

MIGRATION_LOCK = 0x4845_4144_0000
"""Advisory lock held in the control database for the whole run, and in each shard for its part ("HEAD", 0)."""

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Migration:
    """One .sql file."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """A migration of one store: done, or to be done when it was a dry run."""

    store: str
    version: int
    name: str


def migrate(settings: Settings, *, shards: Mapping[str, str] | None = None, dry_run: bool = False) -> list[Step]:
    """Apply what is missing everywhere; returns it in order. Safe to repeat and to run twice at once.

    `shards` names shards to register (`{"shard-1": "host:port/database"}`); with the first ones the ranges are
    dealt. Raises UnavailableError, ConfigurationError, FatalError (a changed file).
    """
    named = {shard_id: ShardAddress.parse(address) for shard_id, address in (shards or {}).items()}
    with connect_control(settings) as control, _locked(control):
        steps = _migrate_postgres(control, "control", "control", dry_run=dry_run)
        if dry_run and steps:
            addresses = named
        else:
            if not dry_run:
                register_shards(control, named)
            addresses = shard_addresses(control) | named
        for shard_id, address in addresses.items():
            what = f"shard {shard_id} at {address}"
            with connect(address.writer_dsn(settings), what) as shard, _locked(shard):
                steps += _migrate_postgres(shard, "shard", what, dry_run=dry_run)
                if not dry_run:
                    announce_owner(shard, load_map(control), shard_id)
        if settings.clickhouse:
            steps += _migrate_clickhouse(settings, dry_run=dry_run)
    return steps


def migrations(folder: str) -> list[Migration]:
    """The numbered files of schemas/`folder`, by number. Numbers start at 1 and have no gap."""
    found = []
    for item in files("schemas").joinpath(folder).iterdir():
        match = _FILE_NAME.fullmatch(item.name)
        if match:
            found.append(Migration(int(match[1]), match[2], item.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    assert [migration.version for migration in found] == list(range(1, len(found) + 1)), folder
    return found


def pending(known: Sequence[Migration], applied: Mapping[int, str], store: str) -> list[Migration]:
    """What is missing in a store that has `applied` (version → checksum). Raises FatalError if a file changed."""
    for migration in known:
        recorded = applied.get(migration.version)
        if recorded is not None and recorded != migration.checksum:
            raise FatalError(
                f"{store}: migration {migration.version:04} ({migration.name}) was applied with another text",
                remedy="never edit an applied file; put the change into a new one",
            )
    newest = max(applied, default=0)
    if newest > len(known):
        raise FatalError(
            f"{store} is at version {newest}, this program knows {len(known)}", remedy="use a newer headrace"
        )
    return [migration for migration in known if migration.version not in applied]


def statements(text: str) -> list[str]:
    """The statements of a ClickHouse file: each ends with `;` at the end of a line. Comments are dropped."""
    bare = re.sub(r"--[^\n]*", "", text)
    return [part.strip() for part in re.split(r";[ \t]*(?:\n|$)", bare) if part.strip()]


@contextmanager
def _locked(connection: psycopg.Connection[Any]) -> Iterator[None]:
    connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))


def _migrate_postgres(connection: psycopg.Connection[Any], folder: str, store: str, *, dry_run: bool) -> list[Step]:
    exists = connection.execute("SELECT to_regclass('headrace_migrations') IS NOT NULL").fetchone() == (True,)
    applied: dict[int, str] = {}
    if exists:
        applied = dict(connection.execute("SELECT version, checksum FROM headrace_migrations").fetchall())
    missing = pending(migrations(folder), applied, store)
    if not dry_run and not exists:
        connection.execute(
            """
            CREATE TABLE headrace_migrations (
                version    int4 PRIMARY KEY,
                name       text NOT NULL,
                checksum   text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT now()
            )
            """
        )
    for migration in missing:
        if not dry_run:
            with connection.transaction():
                connection.execute(migration.text.encode())
                connection.execute(
                    "INSERT INTO headrace_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                    (migration.version, migration.name, migration.checksum),
                )
            log.info("migrated", store=store, version=migration.version, migration=migration.name)
    return [Step(store, migration.version, migration.name) for migration in missing]


def _migrate_clickhouse(settings: Settings, *, dry_run: bool) -> list[Step]:
    address = clickhouse.ClickHouseAddress.parse(settings.clickhouse)
    store = f"clickhouse {address.place}/{address.database}"
    default = clickhouse.connect(settings, database="default")
    try:
        databases = {row[0] for row in default.query("SELECT name FROM system.databases").result_rows}
        if address.database not in databases:
            if dry_run:
                return [Step(store, migration.version, migration.name) for migration in migrations("clickhouse")]
            default.command(f"CREATE DATABASE IF NOT EXISTS {_quoted(address.database)}")
    finally:
        default.close()
    client = clickhouse.connect(settings)
    try:
        return _apply_clickhouse(client, store, dry_run=dry_run)
    finally:
        client.close()


def _apply_clickhouse(client: "Client", store: str, *, dry_run: bool) -> list[Step]:
    """Apply in order; a file that failed half-way is repeated, which its IF NOT EXISTS allow."""
    tables = {
        row[0]
        for row in client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    }
    applied: dict[int, str] = {}
    if "headrace_migrations" in tables:
        applied = dict(client.query("SELECT version, checksum FROM headrace_migrations FINAL").result_rows)
    elif not dry_run:
        client.command(
            "CREATE TABLE IF NOT EXISTS headrace_migrations (version UInt32, name String, checksum String, "
            "applied_at DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY version"
        )
    missing = pending(migrations("clickhouse"), applied, store)
    for migration in missing:
        if not dry_run:
            for statement in statements(migration.text):
                client.command(statement)
            client.insert(
                "headrace_migrations",
                [[migration.version, migration.name, migration.checksum]],
                column_names=["version", "name", "checksum"],
            )
            log.info("migrated", store=store, version=migration.version, migration=migration.name)
    return [Step(store, migration.version, migration.name) for migration in missing]


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
