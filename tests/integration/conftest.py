"""Real engines for the integration tests: started on first use, one set a session, gone with it.

Every test gets its own corner of them: a topic prefix, databases, a Redis number, free ports. The folders are
private (0700), which is the harder case for Postgres under root.
"""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import pytest
from confluent_kafka.admin import AdminClient

from headrace.runtime.chdb_engine import ChdbEngine
from headrace.runtime.kafka_engine import KafkaEngine
from headrace.runtime.parts import Part, start, start_all, stop_all
from headrace.runtime.ports import free_ports
from headrace.runtime.postgres_engine import PostgresEngine, Role, create_database, drop_database
from headrace.runtime.process import Process
from headrace.runtime.valkey_engine import DATABASES, ValkeyEngine
from headrace.settings import Settings

EnginePart = TypeVar("EnginePart", bound=Part)
EngineName = Literal["kafka", "postgres", "clickhouse", "redis"]


@dataclass(frozen=True, slots=True)
class Databases:
    """Fresh databases of one test: `control` is a DSN, `shards` are addresses as the shard map holds them."""

    control: str
    shards: tuple[str, ...]
    owner: Role
    reader: Role

    def shard_dsn(self, number: int, role: Role | None = None) -> str:
        """A DSN of one shard, as its owner unless told otherwise."""
        role = role or self.owner
        return f"postgresql://{role.name}:{role.password}@{self.shards[number]}"


class MakeSettings(Protocol):
    """See the fixture `make_settings`."""

    def __call__(self, *engines: EngineName, **overrides: Any) -> Settings: ...


@pytest.fixture(scope="session")
def engines_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="headrace-tests-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def kafka_engine(engines_folder: Path) -> Iterator[KafkaEngine]:
    port, controller_port = free_ports(2)
    engine = KafkaEngine(folder=engines_folder / "kafka", port=port, controller_port=controller_port)
    yield from running(engine)


@pytest.fixture(scope="session")
def kafka_address(kafka_engine: KafkaEngine) -> str:
    """host:port of the session's broker."""
    return kafka_engine.address


@pytest.fixture(scope="session")
def postgres_engines(engines_folder: Path) -> Iterator[tuple[PostgresEngine, ...]]:
    """One control server and two shard servers."""
    owner = Role("headrace", secrets.token_urlsafe(16))
    reader = Role("headrace_reader", secrets.token_urlsafe(16))
    engines = tuple(
        PostgresEngine(
            name=name,
            folder=engines_folder / name,
            port=port,
            owner=owner,
            reader=reader,
            databases=(),
            durable=False,
        )
        for name, port in zip(("control", "shard-a", "shard-b"), free_ports(3), strict=True)
    )
    processes = start_all(engines)
    yield engines
    stop_all(processes)


@pytest.fixture
def postgres(postgres_engines: tuple[PostgresEngine, ...]) -> Iterator[Databases]:
    """Empty databases: one on the control server, one on each shard server; dropped after the test."""
    name = f"t_{secrets.token_hex(6)}"
    control, *shards = postgres_engines
    with ExitStack() as stack:
        for engine in postgres_engines:
            connection = stack.enter_context(engine.connect_superuser())
            create_database(connection, name, owner=engine.owner, reader=engine.reader)
            stack.callback(drop_database, connection, name)
        addresses = tuple(shard.address(name) for shard in shards)
        yield Databases(control.dsn(name), addresses, control.owner, control.reader)


@pytest.fixture(scope="session")
def chdb_engine(engines_folder: Path) -> Iterator[ChdbEngine]:
    password = secrets.token_urlsafe(16)
    engine = ChdbEngine(folder=engines_folder / "clickhouse", port=free_ports(1)[0], password=password)
    yield from running(engine)


@pytest.fixture
def clickhouse_url(chdb_engine: ChdbEngine) -> Iterator[str]:
    """`http://user:password@host:port/database` with a fresh database, dropped after the test."""
    name = f"t_{secrets.token_hex(6)}"
    chdb_engine.run(f"CREATE DATABASE {name}")
    yield chdb_engine.url(name)
    chdb_engine.run(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def valkey_engine(engines_folder: Path) -> Iterator[ValkeyEngine]:
    engine = ValkeyEngine(folder=engines_folder / "valkey", port=free_ports(1)[0], password=secrets.token_urlsafe(16))
    yield from running(engine)


@pytest.fixture(scope="session")
def redis_numbers() -> Iterator[int]:
    return iter(range(DATABASES))


@pytest.fixture
def redis_url(valkey_engine: ValkeyEngine, redis_numbers: Iterator[int]) -> str:
    """An empty Redis database that no other test of this session uses."""
    return valkey_engine.url(next(redis_numbers))


@pytest.fixture
def topic_prefix(kafka_address: str) -> Iterator[str]:
    """A prefix for this test's topics; what carries it is deleted after the test."""
    prefix = f"t{secrets.token_hex(6)}."
    yield prefix
    admin = AdminClient({"bootstrap.servers": kafka_address})
    topics = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    if topics:
        for future in admin.delete_topics(topics).values():
            future.result(timeout=10)


@pytest.fixture
def start_part() -> Iterator[Callable[[Part], Process]]:
    """Start an engine of the test's own (to kill it, say); it is stopped after the test."""
    processes: list[Process] = []

    def started(part: Part) -> Process:
        processes.append(start(part))
        return processes[-1]

    yield started
    stop_all(processes)


@pytest.fixture
def make_settings(request: pytest.FixtureRequest, tmp_path: Path) -> MakeSettings:
    """Settings for the named engines: `make_settings("kafka", "postgres", grace_s=60)`.

    Listening ports are free ones; `data_dir` is the test's tmp_path; 4 partitions.
    """

    def made(*engines: EngineName, **overrides: Any) -> Settings:
        ingest_port, api_port, metrics_port = free_ports(3)
        values: dict[str, Any] = {
            "ingest_port": ingest_port,
            "api_port": api_port,
            "metrics_port": metrics_port,
            "data_dir": str(tmp_path),
            "events_partitions": 4,
        }
        for engine in engines:
            values |= addresses[engine]()
        return Settings.load(flags=values | overrides, environ={})

    def of_kafka() -> dict[str, str]:
        return {"kafka": fixture("kafka_address"), "topic_prefix": fixture("topic_prefix")}

    def of_postgres() -> dict[str, str]:
        databases: Databases = fixture("postgres")
        return {
            "postgres_control": databases.control,
            "shard_user": databases.owner.name,
            "shard_password": databases.owner.password,
            "shard_reader_user": databases.reader.name,
            "shard_reader_password": databases.reader.password,
        }

    fixture = request.getfixturevalue
    addresses: dict[str, Callable[[], dict[str, str]]] = {
        "kafka": of_kafka,
        "postgres": of_postgres,
        "clickhouse": lambda: {"clickhouse": fixture("clickhouse_url")},
        "redis": lambda: {"redis": fixture("redis_url")},
    }
    return made


def running(engine: EnginePart) -> Iterator[EnginePart]:
    """Start, hand over, stop."""
    process = start(engine)
    yield engine
    process.stop()
