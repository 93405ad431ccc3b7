"""A whole system under test, started as people start it: `headrace up`, known by its ready file alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

READY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0


class Running:
    """A `headrace up` of our own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._ready_file = folder / "ready.json"
        self._log = (folder / "up.log").open("wb")
        command = [sys.executable, "-m", "headrace", "up", "--data", str(folder / "data")]
        self.process = subprocess.Popen(
            [*command, "--ready-file", str(self._ready_file)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | environment,
        )

    def wait_ready(self) -> None:
        """Block until the ready file is there."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._ready_file.exists():
            assert self.process.poll() is None, f"`headrace up` ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"not ready after {READY_TIMEOUT_S} s:\n{self.log()}"
            time.sleep(0.1)

    @property
    def ready(self) -> dict[str, Any]:
        """The ready file as it is now."""
        loaded: dict[str, Any] = json.loads(self._ready_file.read_text())
        return loaded

    def kill9(self, name: str) -> int:
        """kill -9 one child; gives the pid it had.

        One that is down already (it may end when what it needs is away) counts as killed.
        """
        pid: int = self.ready["pids"][name]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, name: str, old_pid: int, timeout_s: float = 120.0) -> None:
        """Block until the supervisor has another process of that name and says so in the ready file."""
        deadline = time.monotonic() + timeout_s
        while self.ready["pids"].get(name, old_pid) == old_pid:
            assert time.monotonic() < deadline, f"{name} was not restarted:\n{self.log()}"
            time.sleep(0.1)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self._log.close()

    def log(self) -> str:
        """The end of what it wrote."""
        return "\n".join((self.folder / "up.log").read_text(errors="replace").splitlines()[-40:])


@contextmanager
def running_system(folder: Path, **settings: str) -> Iterator[Running]:
    """`headrace up` on `folder`, stopped cleanly at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    system = Running(folder, {f"HEADRACE_{name.upper()}": value for name, value in settings.items()})
    try:
        system.wait_ready()
        yield system
    finally:
        code = system.stop()
    assert code == 0, f"`headrace up` ended with {code}:\n{system.log()}"
