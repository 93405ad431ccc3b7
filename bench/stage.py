"""The stage benches play on: a real broker in a throw-away folder, filled topics, watched processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from headrace import kafka
from headrace.runtime.kafka_engine import KafkaEngine
from headrace.runtime.parts import start, stop_all
from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from headrace.topics import create_topics
from producers.bulk import BulkPublisher
from producers.generator.workload import Workload, WorkloadRules, steady
from schemas.codec import encode_events
from schemas.event import record_key
from schemas.topics import Topics

SEED = 20_240_229
RATE_PER_S = 50_000.0
"""Event time of the workload runs as if it had come at this rate."""

POLL_S = 0.2
"""How often a worker's series are read. A reading costs it some 2 ms: twenty a second were 5 % of a core."""


@dataclass(slots=True)
class Stage:
    """A broker with its folder; `settings` point to it."""

    folder: Path
    settings: Settings
    broker_pid: int

    def with_prefix(self, prefix: str, **changes: object) -> Settings:
        """The same broker under another topic prefix, topics made."""
        settings = replace(self.settings, topic_prefix=prefix, **changes)  # type: ignore[arg-type]
        create_topics(settings)
        return settings


@contextmanager
def kafka_stage(partitions: int = 24) -> Iterator[Stage]:
    """A fresh broker, gone afterwards with all that was in it."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    client_port, controller_port = free_ports(2)
    engine = KafkaEngine(folder / "kafka", client_port, controller_port)
    process = start(engine)
    try:
        yield Stage(
            folder, Settings(kafka=engine.address, events_partitions=partitions, log_level="warning"), process.pid
        )
    finally:
        stop_all([process])
        shutil.rmtree(folder, ignore_errors=True)


def fill(
    settings: Settings,
    events: int,
    *,
    seed: int = SEED,
    rate_per_s: float = RATE_PER_S,
    customer_ids: Sequence[int] = range(1, 201),
    rules: WorkloadRules | None = None,
) -> int:
    """Write `events` events of the workload that end about now; gives how many of them are duplicates."""
    start_us = time.time_ns() // 1000 - round(events / rate_per_s * 1e6)
    workload = Workload(seed, steady(start_us, rate_per_s), customer_ids, rules)
    publisher = BulkPublisher(settings)
    duplicates = 0
    for block in workload.batches(events):
        customers = block.events.column("customer_id").to_pylist()
        publisher.send([record_key(customer) for customer in customers], encode_events(block.events))
        duplicates += int(block.duplicates().sum())
    publisher.settle()
    publisher.close()
    return duplicates


def stored(settings: Settings) -> int:
    """Records in `events`."""
    partitions = list(range(settings.events_partitions))
    return sum(
        high - low
        for low, high in kafka.watermarks(settings, Topics(settings.topic_prefix).events, partitions).values()
    )


@dataclass(slots=True)
class Watched:
    """A child process whose CPU and memory can be read, also after its end through the last reading."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def cpu_s(self) -> float:
        """CPU seconds of it and its children."""
        root = psutil.Process(self.process.pid)
        return sum(sum(p.cpu_times()[:2]) for p in [root, *root.children(recursive=True)])

    @property
    def rss_bytes(self) -> int:
        """Resident memory of it and its children."""
        root = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in [root, *root.children(recursive=True)])

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, then SIGKILL."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(5)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(5)

    def tail(self, lines: int = 15) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def service(name: str, settings: Settings, folder: Path, *, label: str = "") -> Watched:
    """`headrace run NAME` with these settings."""
    command = [sys.executable, "-m", "headrace", "run", name]
    return watched(command, folder / f"{name}{label}.log", settings.as_environment())


def watched(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Watched:
    """Start `command` with its output in `log`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=inherited | dict(environment),
        )
    return Watched(process, log)


def metrics(port: int) -> dict[str, float]:
    """Series of a process's /metrics: name with labels → value; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def ready(port: int) -> bool:
    """Whether a process's /readyz says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def acknowledged(series: Mapping[str, float]) -> float:
    """Events of a worker that are in acknowledged frames, second arrivals included."""
    return total(series, "headrace_events_folded_total") + total(series, "headrace_events_deduplicated_total")


def total(series: Mapping[str, float], name: str) -> float:
    """Sum of a series over its labels."""
    return sum(value for key, value in series.items() if key == name or key.startswith(name + "{"))
