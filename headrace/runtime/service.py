"""One of our own services as a child process, configured through HEADRACE_* variables and nothing else."""

import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from headrace.runtime.ports import LOOPBACK
from headrace.runtime.process import Command, our_packages
from headrace.settings import Settings

READY_TIMEOUT_S = 90.0  # a worker may have a long log to recover from
STOP_TIMEOUT_S = 30.0  # a gateway waits for Kafka's answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`headrace run SERVICE` with `settings`; `health_port` serves its /readyz."""

    name: str
    service: str
    settings: Settings
    health_port: int
    logs: Path

    def prepare(self) -> None:
        """Nothing: services keep no files."""

    def command(self) -> Command:
        """Our own interpreter, so that child and supervisor are of one version."""
        return Command(
            name=self.name,
            argv=(sys.executable, "-m", "headrace", "run", self.service),
            log_file=self.logs / f"{self.name}.log",
            folder=self.logs,
            environment=self.settings.as_environment() | our_packages(),
            ready_timeout_s=READY_TIMEOUT_S,
            stop_timeout_s=STOP_TIMEOUT_S,
        )

    def answers(self) -> bool:
        """Whether /readyz says yes."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{LOOPBACK}:{self.health_port}/readyz", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def complete(self) -> None:
        """Nothing."""
