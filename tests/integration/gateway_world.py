"""A gateway as a process of its own, on real Kafka and a real control database, with one customer's write key."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from headrace import kafka
from headrace.errors import UnavailableError
from headrace.migrations import migrate
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key
from headrace.topics import create_topics
from schemas.codec import decode_events
from schemas.topics import Topics

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 15.0


@dataclass(slots=True)
class GatewayProcess:
    """`headrace run ingest` with these settings."""

    settings: Settings
    log_file: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "run", "ingest"],
                env=environment | self.settings.as_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def url(self) -> str:
        return f"http://{self.settings.ingest_host}:{self.settings.ingest_port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_ready(self, path: str = "/readyz") -> None:
        """Until `path` answers 200."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self.process.poll() is None, f"the gateway ended:\n{self.log}"
            try:
                if httpx.get(self.url + path, timeout=3).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, f"{path} is not 200 after {START_TIMEOUT_S} s:\n{self.log}"
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the gateway did not stop within {STOP_TIMEOUT_S} s:\n{self.log}") from None


@dataclass(frozen=True, slots=True)
class GatewayWorld:
    """Settings with topics and schema in place, a customer and its write key."""

    settings: Settings
    customer_id: int
    write_key: str
    folder: Path

    @contextmanager
    def running(self) -> Iterator[GatewayProcess]:
        """A ready gateway, stopped (cleanly, exit code 0) at the end unless the test killed it."""
        gateway = GatewayProcess(self.settings, self.folder / "gateway.log")
        try:
            gateway.wait_ready()
            yield gateway
            if gateway.process.poll() is None:
                assert gateway.stop() == 0, gateway.log
        finally:
            if gateway.process.poll() is None:
                gateway.kill()

    def events(self, count: int | None = None) -> list[dict[str, Any]]:
        """All stored events, from the logs' starts to their ends as of now; checks their number if given."""
        values = [message.value() for message in read_all(self.settings, Topics(self.settings.topic_prefix).events)]
        decoded = decode_events(values)
        assert not decoded.poison
        stored: list[dict[str, Any]] = decoded.events.to_pylist()
        assert count is None or len(stored) == count, f"{len(stored)} events instead of {count}"
        return stored

    def rejected(self) -> list[tuple[str, bytes]]:
        """Reason and bytes of each rejected event."""
        found = []
        for message in read_all(self.settings, Topics(self.settings.topic_prefix).rejected):
            assert message.key() == str(self.customer_id).encode()
            headers = dict(message.headers())
            found.append((headers["__connect.errors.exception.message"].decode(), message.value()))
        return found


def make_control(settings: Settings, shards: Sequence[str]) -> None:
    """The schema of the control database and of the shards."""
    migrate(settings, shards={f"shard-{i + 1}": address for i, address in enumerate(shards)})


def make_gateway_world(settings: Settings, shards: Sequence[str], folder: Path) -> GatewayWorld:
    """Migrate, create the topics, and make a customer with a key."""
    make_control(settings, shards)
    create_topics(settings)
    with connect_control(settings) as control:
        customer_id = create_customer(control, "shop").customer_id
        secret = create_write_key(control, customer_id, "test").secret
    return GatewayWorld(settings, customer_id, secret, folder)


def read_all(settings: Settings, topic: str) -> list[kafka.Message]:
    """Every record of a topic, from its start to its end as of now."""
    partitions = list(range(settings.events_partitions))
    ends = {number: end for number, (_, end) in watermarks(settings, topic, partitions).items()}
    consumer = kafka.consumer(settings, "test-reader")
    found: list[kafka.Message] = []
    try:
        consumer.assign([kafka.TopicPartition(topic, number, kafka.OFFSET_BEGINNING) for number in partitions])
        deadline = time.monotonic() + READ_TIMEOUT_S
        while len(found) < sum(ends.values()):
            assert time.monotonic() < deadline, f"read {len(found)} of {sum(ends.values())} records"
            for message in consumer.consume(500, timeout=0.2):
                assert message.error() is None, message.error()
                found.append(message)
    finally:
        consumer.close()
    return found


def watermarks(settings: Settings, topic: str, partitions: list[int]) -> dict[int, tuple[int, int]]:
    """As headrace.kafka has it, but patient with a topic that was made a moment ago and has no leaders yet."""
    deadline = time.monotonic() + READ_TIMEOUT_S
    while True:
        try:
            return kafka.watermarks(settings, topic, partitions)
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
