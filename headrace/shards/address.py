"""Where a shard is: `host:port/database`, as it stands in the map, and the connection string made of it."""

import re
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from headrace.errors import ConfigurationError, UnavailableError
from headrace.settings import Settings

CONNECT_TIMEOUT_S = 5

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/@\s]+):(?P<port>\d{1,5})/(?P<database>[^/@\s]+)")


@dataclass(frozen=True, slots=True)
class ShardAddress:
    """A shard's server and database, without credentials."""

    host: str
    port: int
    database: str

    @classmethod
    def parse(cls, text: str) -> "ShardAddress":
        """Read `host:port/database`. Raises ConfigurationError."""
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigurationError(
                f"{text!r} is not the address of a shard", remedy="write it as host:port/database, without a user"
            )
        return cls(match["host"].strip("[]"), int(match["port"]), match["database"])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.database}"

    def writer_dsn(self, settings: Settings) -> str:
        """Connection string of the role that owns and writes the rows."""
        return self._dsn(settings.shard_user, settings.shard_password)

    def reader_dsn(self, settings: Settings) -> str:
        """Connection string of the role that row-level security binds to one customer at a time."""
        return self._dsn(settings.shard_reader_user, settings.shard_reader_password)

    def _dsn(self, user: str, password: str) -> str:
        return make_conninfo(
            host=self.host,
            port=self.port,
            dbname=self.database,
            user=user,
            password=password or None,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="headrace",
        )


def connect(dsn: str, what: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Connect to Postgres or raise UnavailableError that names `what`; never shows the connection string."""
    try:
        return psycopg.connect(dsn, autocommit=autocommit, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.OperationalError as error:
        reason = str(error).strip().split("\n")[0]
        raise UnavailableError(f"{what} does not answer: {reason}", remedy="is it running?") from error


def connect_control(settings: Settings) -> psycopg.Connection[Any]:
    """Connect to the control database (autocommit). Raises ConfigurationError, UnavailableError."""
    if not settings.postgres_control:
        raise ConfigurationError(
            "postgres_control is not set", remedy="set HEADRACE_POSTGRES_CONTROL to the control database's DSN"
        )
    return connect(settings.postgres_control, "the control database")
