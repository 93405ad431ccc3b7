"""Apicurio Registry as a child process: a real schema registry with Confluent's API, without IMPORT mode, in memory.

Its distribution comes from Maven like Kafka's jars (140 MB, once), is checked against its committed SHA-256, and kept
in the same cache. Version 2.6 is the newest that runs on Java 17.
"""

import fcntl
import hashlib
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace.runtime.kafka_install import MAVEN_PLUGIN, MAVEN_TIMEOUT_S, cache_folder, find_java, find_maven
from headrace.runtime.ports import LOOPBACK
from headrace.runtime.process import Command

VERSION: Final = "2.6.13.Final"
SHA256: Final = "3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba"
RUNNER: Final = f"apicurio-registry-app-{VERSION}-runner.jar"
HEAP_MB: Final = 256


@dataclass(frozen=True, slots=True)
class Apicurio:
    """One registry. `folder` takes its log."""

    folder: Path
    port: int
    name: str = "apicurio"

    @property
    def url(self) -> str:
        """The root of its Confluent API."""
        return f"http://{LOOPBACK}:{self.port}/apis/ccompat/v7"

    def prepare(self) -> None:
        """Fetch it if need be."""
        find_java()
        self.folder.mkdir(parents=True, exist_ok=True)
        installed()

    def command(self) -> Command:
        """The registry, its storage in memory."""
        options = (f"-Xmx{HEAP_MB}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        listening = (f"-Dquarkus.http.host={LOOPBACK}", f"-Dquarkus.http.port={self.port}")
        return Command(
            name=self.name,
            argv=(str(find_java()), *options, *listening, "-jar", str(installed() / RUNNER)),
            log_file=self.folder / "apicurio.log",
            folder=self.folder,
        )

    def answers(self) -> bool:
        """Whether it lists its subjects."""
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def complete(self) -> None:
        """Nothing is left to do."""


def installed() -> Path:
    """The folder of the unpacked distribution; fetches it when it is not there yet."""
    folder = cache_folder().parent / f"apicurio-{VERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as scratch:
                unpacked = Path(scratch) / "unpacked"
                with tarfile.open(fetched(Path(scratch))) as archive:
                    archive.extractall(unpacked, filter="data")
                unpacked.rename(folder)
    return folder


def fetched(folder: Path) -> Path:
    """The distribution as Maven brings it into `folder`, checked."""
    artifact = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
    command = [str(find_maven()), "-q", "-B", "-C", f"{MAVEN_PLUGIN}:copy", f"-Dartifact={artifact}"]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={folder}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=MAVEN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256, "Maven brought another file than the known one"
    return archive
