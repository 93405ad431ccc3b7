"""The embedded engines start, keep what they must, refuse strangers, and leave nothing."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.runtime.kafka_engine import KafkaEngine
from headrace.runtime.parts import Part, start
from headrace.runtime.ports import free_ports
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.runtime.process import PartFailedError, Process
from headrace.runtime.tansu_engine import TansuEngine
from headrace.runtime.valkey_engine import ValkeyEngine
from tests.integration.conftest import Databases, MakeSettings


def produce(address: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(15) == 0


def consume(address: str, topic: str, count: int) -> list[tuple[int, bytes | None]]:
    """(timestamp type, value) of the first `count` records of partition 0."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages: list[Message] = []
    deadline = time.monotonic() + 15
    while len(messages) < count and time.monotonic() < deadline:
        messages += consumer.consume(count - len(messages), timeout=1)
    consumer.close()
    return [(message.timestamp()[0], message.value()) for message in messages]


def test_kafka_stamps_records_itself_and_makes_no_topic_unasked(kafka_address: str, topic_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_address})
    topic = f"{topic_prefix}stamped"
    admin.create_topics([NewTopic(topic, 1)])[topic].result(timeout=10)

    produce(kafka_address, topic, [b"one", b"two"])

    expected = [(TIMESTAMP_LOG_APPEND_TIME, b"one"), (TIMESTAMP_LOG_APPEND_TIME, b"two")]
    assert consume(kafka_address, topic, 2) == expected
    assert f"{topic_prefix}unasked" not in admin.list_topics(timeout=10).topics
    assert refusal(kafka_address, f"{topic_prefix}unasked") is not None
    assert f"{topic_prefix}unasked" not in admin.list_topics(timeout=10).topics


def refusal(address: str, topic: str) -> KafkaError | None:
    """Why a record for `topic` was not taken; None when it was."""
    outcomes: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": address, "message.timeout.ms": 1500})
    producer.produce(topic, b"x", on_delivery=lambda error, _message: outcomes.append(error))
    producer.flush(10)
    return outcomes[0]


def test_kafka_keeps_its_records_through_kill_9_and_restart(
    tmp_path: Path, start_part: Callable[[Part], Process]
) -> None:
    port, controller_port = free_ports(2)
    engine = KafkaEngine(folder=tmp_path / "kafka", port=port, controller_port=controller_port)
    process = start_part(engine)
    admin = AdminClient({"bootstrap.servers": engine.address})
    admin.create_topics([NewTopic("kept", 1)])["kept"].result(timeout=10)
    produce(engine.address, "kept", [b"before"])

    process.kill()
    start_part(engine)

    produce(engine.address, "kept", [b"after"])
    assert [value for _, value in consume(engine.address, "kept", 2)] == [b"before", b"after"]


def test_tansu_carries_records_in_order_and_forgets_them_when_it_stops(
    tmp_path: Path, start_part: Callable[[Part], Process]
) -> None:
    engine = TansuEngine(tmp_path / "tansu", free_ports(1)[0])
    process = start_part(engine)
    admin = AdminClient({"bootstrap.servers": engine.address})
    admin.create_topics([NewTopic("kept", 1)])["kept"].result(timeout=10)
    values = [b"%d" % number for number in range(500)]
    produce(engine.address, "kept", values)
    assert [value for _, value in consume(engine.address, "kept", 500)] == values

    began = time.monotonic()
    process.stop()
    assert time.monotonic() - began < 5
    start_part(engine)
    assert "kept" not in admin.list_topics(timeout=10).topics


def test_postgres_roles_have_no_way_around_row_level_security(postgres: Databases) -> None:
    for role in (postgres.owner, postgres.reader):
        with psycopg.connect(postgres.shard_dsn(0, role)) as connection:
            row = connection.execute(
                "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
        assert row == (False, False, False, False), role.name


@pytest.mark.parametrize("password", ["", "wrong"])
@pytest.mark.parametrize("user", ["postgres", "headrace", "headrace_reader"])
def test_postgres_lets_nobody_in_without_the_password(postgres: Databases, user: str, password: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://{user}@{postgres.shards[0]}", password=password)


def test_the_reader_may_not_create_or_read_unasked(postgres: Databases) -> None:
    with psycopg.connect(postgres.shard_dsn(1)) as owner:
        owner.execute("CREATE TABLE secret_rows (id int)")
    with (
        psycopg.connect(postgres.shard_dsn(1, postgres.reader)) as reader,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        reader.execute("SELECT * FROM secret_rows")
    with (
        psycopg.connect(postgres.shard_dsn(1, postgres.reader)) as reader,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        reader.execute("CREATE TABLE public.mine (id int)")


def test_postgres_never_runs_as_root_and_keeps_what_it_committed_through_kill_9(
    tmp_path: Path, start_part: Callable[[Part], Process]
) -> None:
    engine = PostgresEngine(
        name="shard",
        folder=tmp_path / "shard",
        port=free_ports(1)[0],
        owner=Role("headrace", "first"),
        reader=Role("headrace_reader", "it's \\ odd"),
        databases=("headrace",),
    )
    process = start_part(engine)
    assert psutil.Process(process.pid).uids().effective != 0
    with psycopg.connect(engine.dsn("headrace")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    process.kill()
    wait_for_no_group(process.pid)
    start_part(engine)

    with psycopg.connect(engine.dsn("headrace")) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert psycopg.connect(f"postgresql://headrace_reader@{engine.address('headrace')}", password="it's \\ odd")
    for secret in (tmp_path / "shard").glob("*password*"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_valkey_wants_the_password_and_bounds_its_memory(valkey_engine: ValkeyEngine, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.set("key", "value", ex=60)
    assert client.get("key") == b"value"
    assert int(client.info("memory")["maxmemory"]) == 64 * 1024 * 1024
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=valkey_engine.port).get("key")


def test_settings_carry_addresses_that_work(make_settings: MakeSettings) -> None:
    settings = make_settings("kafka", "postgres", "redis", grace_s=60)

    assert AdminClient({"bootstrap.servers": settings.kafka}).list_topics(timeout=10).brokers
    with psycopg.connect(settings.postgres_control) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert redis.Redis.from_url(settings.redis).ping()
    assert settings.grace_s == 60


ORPHANING_PARENT = """
import sys, time
from pathlib import Path
from headrace.runtime.parts import start
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.runtime.tansu_engine import TansuEngine
from headrace.runtime.valkey_engine import ValkeyEngine
folder, port_a, port_b = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
roles = {"owner": Role("headrace", "a"), "reader": Role("headrace_reader", "b")}
postgres = PostgresEngine(name="p", folder=folder / "p", port=port_a, databases=(), durable=False, **roles)
valkey = ValkeyEngine(folder=folder / "v", port=port_b, password="c")
print(start(postgres).pid, start(valkey).pid, flush=True)
time.sleep(60)
"""


def test_a_killed_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    arguments = [str(tmp_path), *map(str, free_ports(2))]
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANING_PARENT, *arguments], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    for pid in pids:
        wait_for_no_group(pid)


def wait_for_no_group(group: int, timeout_s: float = 10.0) -> None:
    """Until no living process of the group is left."""
    deadline = time.monotonic() + timeout_s
    while group in living_groups():
        assert time.monotonic() < deadline, f"process group {group} still has members"
        time.sleep(0.05)


def living_groups() -> set[int]:
    """The process groups that have a member which is not a zombie."""
    groups = set()
    for process in psutil.process_iter(["status"]):
        try:
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                groups.add(os.getpgid(process.pid))
        except ProcessLookupError:
            continue
    return groups


def test_a_port_in_use_fails_with_the_engines_own_words(valkey_engine: ValkeyEngine, tmp_path: Path) -> None:
    engine = ValkeyEngine(folder=tmp_path / "second", port=valkey_engine.port, password="other")
    with pytest.raises(PartFailedError, match="Address already in use"):
        start(engine)
