"""chDB's HTTP server (chdb_server.py) as a child process on a kept folder."""

import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from headrace.runtime.ports import LOOPBACK
from headrace.runtime.process import Command, our_packages, write_secret

USER = "headrace"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChdbEngine:
    """One server. `databases` are created once it answers."""

    folder: Path
    port: int
    password: str
    databases: tuple[str, ...] = ()
    name: str = "clickhouse"

    def url(self, database: str = "default") -> str:
        """`http://user:password@host:port/database`: a secret."""
        return f"http://{USER}:{quote(self.password, safe='')}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> None:
        """Write the password where the server alone reads it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_secret(self._password_file, self.password)

    def command(self) -> Command:
        """The server by our own interpreter; -P keeps the working directory out of its imports."""
        options = ["--data", str(self.folder / "data"), "--port", str(self.port), "--user", USER]
        program = (sys.executable, "-P", "-m", "headrace.runtime.chdb_server")
        return Command(
            name=self.name,
            argv=(*program, *options, "--password-file", str(self._password_file)),
            log_file=self.folder / "log.txt",
            folder=self.folder,
            environment=our_packages(),
        )

    def answers(self) -> bool:
        """Whether it runs a query for its user."""
        try:
            return self.run("SELECT 1") == b"1\n"
        except OSError:
            return False

    def complete(self) -> None:
        """Create the databases."""
        for database in self.databases:
            self.run(f"CREATE DATABASE IF NOT EXISTS {database}")

    def run(self, statement: str) -> bytes:
        """Run one statement; its answer. Raises OSError (urllib's errors are such) when refused."""
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.port}/",
            data=statement.encode(),
            headers={"X-ClickHouse-User": USER, "X-ClickHouse-Key": self.password},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return bytes(answer.read())

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"
