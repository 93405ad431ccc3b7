"""The whole system on one machine: which parts there are, where they listen, what they are told, and its start.

The one composition root of `headrace up` and `headrace demo`. Engines start together, then tables, topics and
customers are made, then the services start with nothing but addresses. Two customers are made, one per shard.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

from headrace import migrations, schema_registry, topics
from headrace.errors import UsageError
from headrace.log import get_logger
from headrace.runtime import credentials as secrets_of
from headrace.runtime import kafka_install
from headrace.runtime.chdb_engine import ChdbEngine
from headrace.runtime.checks import refuse_unfit
from headrace.runtime.credentials import Credentials, NewCustomer
from headrace.runtime.kafka_engine import KafkaEngine
from headrace.runtime.parts import Part
from headrace.runtime.ports import LOOPBACK, free_ports, is_free, ports_from
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.runtime.process import write_secret
from headrace.runtime.service import Service
from headrace.runtime.supervisor import Supervisor
from headrace.runtime.tansu_engine import TansuEngine
from headrace.runtime.valkey_engine import ValkeyEngine
from headrace.settings import Settings

DATABASE = "headrace"
SHARDS = ("shard-1", "shard-2")
CUSTOMERS = (NewCustomer("First customer", "shard-1"), NewCustomer("Second customer", "shard-2"))
# The order of the ports from a --port-base on; the first two are the ones people use.
PORT_NAMES = (
    "ingest",
    "api",
    "kafka",
    "kafka-controller",
    "postgres-control",
    *(f"postgres-{shard}" for shard in SHARDS),
    "clickhouse",
    "redis",
    "streams",
    "sink",
)
PORTS_FILE = "ports.json"
CONFIG_FILE = "headrace.toml"
LOCK_FILE = "lock"

log = get_logger(__name__)

Broker = Literal["kafka", "tansu"]
Ports = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. `durable` False is for folders that are thrown away; `settings` holds all but the addresses."""

    folder: Path
    settings: Settings
    port_base: int | None = None
    broker: Broker = "kafka"
    durable: bool = True
    customers: Sequence[NewCustomer] = CUSTOMERS


class System:
    """A running system. Made by `running`."""

    def __init__(self, plan: Plan, ports: Ports, credentials: Credentials) -> None:
        self._plan = plan
        self._ports = ports
        self._ready_file: Path | None = None
        self.credentials = credentials
        self.supervisor = Supervisor(on_restart=self._refresh_ready_file)
        self.control, *self.shards = self._postgres_engines()
        self.clickhouse = ChdbEngine(
            folder=plan.folder / "clickhouse", port=ports["clickhouse"], password=credentials.clickhouse_password
        )
        self.redis = ValkeyEngine(
            folder=plan.folder / "redis", port=ports["redis"], password=credentials.redis_password
        )
        self.broker = self._broker()
        self.settings = self._addressed(plan.settings)

    @property
    def ingest_url(self) -> str:
        """Where SDKs send to."""
        return f"http://{LOOPBACK}:{self._ports['ingest']}"

    @property
    def api_url(self) -> str:
        """Where queries are asked; the dashboard is served there too."""
        return f"http://{LOOPBACK}:{self._ports['api']}"

    def start(self) -> None:
        """Start everything and wait until it answers. What was started is stopped by `supervisor.stop`."""
        self.supervisor.start([self.broker, self.control, *self.shards, self.clickhouse, self.redis])
        shard_addresses = {shard: engine.address(DATABASE) for shard, engine in self._named_shards()}
        migrations.migrate(self.settings, shards=shard_addresses)
        schema_registry.register_schemas(self.settings)
        topics.create_topics(self.settings)
        self.credentials = secrets_of.complete(
            self._plan.folder, self.credentials, self.settings, self._plan.customers
        )
        write_secret(self._plan.folder / CONFIG_FILE, self.settings.as_toml())
        self.supervisor.start(self._services())

    def ready(self) -> dict[str, Any]:
        """What the ready file says: addresses, secrets, process ids."""
        return {
            "ingest_url": self.ingest_url,
            "api_url": self.api_url,
            "dashboard_url": self.api_url,
            "kafka": self.broker.address,
            "events_partitions": self.settings.events_partitions,
            "clickhouse": self.settings.clickhouse,
            "postgres_control": self.settings.postgres_control,
            "shards": [
                {"name": shard, "address": engine.address(DATABASE), "dsn": engine.dsn(DATABASE)}
                for shard, engine in self._named_shards()
            ],
            "redis": self.settings.redis,
            "customers": [
                {
                    "customer_id": customer.customer_id,
                    "name": customer.name,
                    "write_key": customer.write_key,
                    "read_token": customer.read_token,
                }
                for customer in self.credentials.customers
            ],
            "admin_token": self.credentials.admin_token,
            "pids": dict(self.supervisor.pids()),
        }

    def keep_ready_file(self, path: Path) -> None:
        """Write the ready file (0600), and again after every restart of a part."""
        self._ready_file = path
        self._write_ready_file()

    def remove_ready_file(self) -> None:
        """Take it back: what it names is going away."""
        if self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)
            self._ready_file = None

    def watch(self, stopping: threading.Event) -> None:
        """Restart what dies until `stopping` is set. Call it from the thread that called `start`."""
        self.supervisor.watch(stopping)

    def _write_ready_file(self) -> None:
        if self._ready_file is not None:
            draft = self._ready_file.with_name(f".{self._ready_file.name}.new")
            write_secret(draft, json.dumps(self.ready(), indent=2) + "\n")
            draft.replace(self._ready_file)

    def _refresh_ready_file(self, restarted: str) -> None:
        """After a restart. A full disk must not take down what runs: the file is then old, and the log says so."""
        try:
            self._write_ready_file()
        except OSError as error:
            log.error("ready_file_not_written", file=str(self._ready_file), part=restarted, error=str(error))

    def _named_shards(self) -> Iterator[tuple[str, PostgresEngine]]:
        return zip(SHARDS, self.shards, strict=True)

    def _postgres_engines(self) -> list[PostgresEngine]:
        owner = Role(self._plan.settings.shard_user, self.credentials.owner_password)
        reader = Role(self._plan.settings.shard_reader_user, self.credentials.reader_password)
        return [
            PostgresEngine(
                name=name,
                folder=self._plan.folder / name,
                port=self._ports[name],
                owner=owner,
                reader=reader,
                databases=(DATABASE,),
                durable=self._plan.durable,
            )
            for name in ("postgres-control", *(f"postgres-{shard}" for shard in SHARDS))
        ]

    def _broker(self) -> KafkaEngine | TansuEngine:
        folder, port = self._plan.folder / "kafka", self._ports["kafka"]
        if self._plan.broker == "tansu":
            return TansuEngine(folder=folder, port=port)
        return KafkaEngine(folder=folder, port=port, controller_port=self._ports["kafka-controller"])

    def _addressed(self, settings: Settings) -> Settings:
        return replace(
            settings,
            kafka=self.broker.address,
            kafka_idempotence=settings.kafka_idempotence and self._plan.broker == "kafka",
            postgres_control=self.control.dsn(DATABASE),
            shard_password=self.credentials.owner_password,
            shard_reader_password=self.credentials.reader_password,
            clickhouse=self.clickhouse.url(DATABASE),
            redis=self.redis.url(),
            ingest_host=LOOPBACK,
            ingest_port=self._ports["ingest"],
            api_host=LOOPBACK,
            api_port=self._ports["api"],
            metrics_host=LOOPBACK,
            ingest_url=settings.ingest_url or self.ingest_url,
            data_dir=str(self._plan.folder),
            privacy_key=settings.privacy_key or self.credentials.privacy_key,
            signing_key_file=settings.signing_key_file or str(self._plan.folder / "signing-key.pem"),
        )

    def _services(self) -> list[Part]:
        logs = self._plan.folder / "logs"
        logs.mkdir(exist_ok=True)
        made: list[Part] = []
        for name in ("ingest", "streams", "sink", "api"):
            own_metrics = name in ("streams", "sink")  # the others have an HTTP server that serves them
            settings = replace(self.settings, metrics_port=self._ports[name] if own_metrics else 0)
            made.append(Service(name=name, service=name, settings=settings, health_port=self._ports[name], logs=logs))
        return made


@contextmanager
def running(plan: Plan) -> Iterator[System]:
    """Start the system of `plan`, hand it over when everything answers, stop all of it at the end.

    Raises ConfigurationError (too little memory or disk, no Java), UsageError (folder in use, port in use), and
    PartFailedError with the last lines of the part that failed.
    """
    folder = plan.folder.resolve()
    refuse_unfit(folder, plan.settings)
    if plan.broker == "kafka":
        kafka_install.require_programs()  # before anything is made
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    plan = replace(plan, folder=folder)
    with locked(folder):
        system = System(plan, choose_ports(folder, plan.port_base), secrets_of.load_or_make(folder))
        try:
            system.start()
            yield system
        finally:
            system.remove_ready_file()
            system.supervisor.stop()


@contextmanager
def locked(folder: Path) -> Iterator[TextIO]:
    """Hold the folder for this process alone; the kernel lets go when it dies. Raises UsageError."""
    with (folder / LOCK_FILE).open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UsageError(
                f"{folder} is in use by process {lock.read().strip() or '(unknown)'}",
                remedy="stop that one or choose another --data",
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield lock


def choose_ports(folder: Path, port_base: int | None) -> Ports:
    """Ports from `port_base` on; without it those of the folder's last run if they are free, else new ones."""
    if port_base is not None:
        return dict(zip(PORT_NAMES, ports_from(port_base, len(PORT_NAMES)), strict=True))
    path = folder / PORTS_FILE
    try:
        remembered = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        remembered = {}
    if remembered.keys() == set(PORT_NAMES) and all(is_free(port) for port in remembered.values()):
        return {name: int(port) for name, port in remembered.items()}
    drawn = dict(zip(PORT_NAMES, free_ports(len(PORT_NAMES)), strict=True))
    path.write_text(json.dumps(drawn, indent=2) + "\n", encoding="ascii")
    return drawn
