"""ClickHouse's address and the synchronous client made of it.

Everything in the project knows only "a ClickHouse address", `http://user:password@host:port/database`; whether a
server or the embedded engine answers there makes no difference.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from headrace.errors import ConfigurationError, UnavailableError
from headrace.settings import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

CONNECT_TIMEOUT_S = 5
SEND_TIMEOUT_S = 60
DEFAULT_PORTS = {"http": 8123, "https": 8443}


@dataclass(frozen=True, slots=True)
class ClickHouseAddress:
    """Where ClickHouse is and as whom to talk to it."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    database: str

    @classmethod
    def parse(cls, url: str) -> "ClickHouseAddress":
        """Read `http[s]://[user[:password]@]host[:port][/database]`. Raises ConfigurationError."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ConfigurationError(
                "clickhouse is not a URL", remedy="write it as http://user:password@host:port/database"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"clickhouse has an impossible port: {error}") from error
        return cls(
            parts.scheme,
            parts.hostname,
            port or DEFAULT_PORTS[parts.scheme],
            unquote(parts.username or "default"),
            unquote(parts.password or ""),
            parts.path.strip("/") or "default",
        )

    @property
    def place(self) -> str:
        """Host and port, for messages: never a credential."""
        return f"{self.host}:{self.port}"

    def client_arguments(self) -> dict[str, Any]:
        """Arguments of `clickhouse_connect.get_client` and `get_async_client`."""
        return {
            "interface": self.scheme,
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "password": self.password,
            "database": self.database,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "send_receive_timeout": SEND_TIMEOUT_S,
            "autogenerate_session_id": False,  # a session would run one query at a time
        }


def connect(settings: Settings, *, database: str | None = None) -> "Client":
    """A client of the configured ClickHouse. Raises ConfigurationError, UnavailableError."""
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError

    if not settings.clickhouse:
        raise ConfigurationError("clickhouse is not set", remedy="set HEADRACE_CLICKHOUSE to its URL")
    address = ClickHouseAddress.parse(settings.clickhouse)
    if database is not None:
        address = replace(address, database=database)
    try:
        return clickhouse_connect.get_client(**address.client_arguments())
    except (ClickHouseError, OSError) as error:
        raise UnavailableError(
            f"ClickHouse at {address.place} does not answer: {str(error).splitlines()[0][:300]}",
            remedy="is it running, and is its user right?",
        ) from error
