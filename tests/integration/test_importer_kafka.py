"""The importer against real Kafka and a real control database: all rows once, whatever interrupts it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from headrace import kafka
from headrace.clock import SystemClock
from headrace.errors import UnavailableError, UsageError
from headrace.migrations import migrate
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key
from headrace.topics import create_topics
from producers.bulk import BulkPublisher
from producers.data import online_retail
from producers.importer import mapping
from producers.importer.importer import Imported, Importer, Progress, hash_file
from producers.importer.position import FileImports
from producers.importer.transform import Plan
from schemas.codec import decode_events
from schemas.event import record_key
from schemas.topics import Topics
from tests.integration.conftest import Databases, MakeSettings

HEADER = "t,who,what,n,price\n"
MAPPING = """
format = "csv"
[time]
column = "t"
[event]
column = "what"
[fields]
user_id = "who"
[value]
product = "n * price"
"""


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    made = make_settings("kafka", "postgres")
    migrate(made, shards={"shard-a": postgres.shards[0], "shard-b": postgres.shards[1]})
    create_topics(made)
    return made


@pytest.fixture
def customer_id(settings: Settings) -> int:
    with connect_control(settings) as connection:
        return create_customer(connection, "importing").customer_id


def read_topic(settings: Settings, topic: str) -> list[kafka.Message]:
    """All records of a topic, partition by partition."""
    partitions = list(range(kafka_partitions(settings, topic)))
    ends = kafka.watermarks(settings, topic, partitions)
    consumer = kafka.consumer(settings, "reads-all")
    consumer.assign([kafka.TopicPartition(topic, p, low) for p, (low, _) in ends.items()])
    wanted, out, deadline = (
        sum(high - low for low, high in ends.values()),
        list[kafka.Message](),
        time.monotonic() + 60,
    )
    try:
        while len(out) < wanted:
            assert time.monotonic() < deadline, f"{len(out)} of {wanted} records of {topic} in 60 s"
            out += consumer.consume(20_000, timeout=1)
    finally:
        consumer.close()
    return out


def kafka_partitions(settings: Settings, topic: str) -> int:
    return len(kafka.admin(settings).list_topics(topic, timeout=10).topics[topic].partitions)


def events_of(settings: Settings) -> pl.DataFrame:
    messages = read_topic(settings, Topics(settings.topic_prefix).events)
    decoded = decode_events([message.value() for message in messages])
    assert not decoded.poison
    return pl.DataFrame(pl.from_arrow(decoded.events))


def run(settings: Settings, path: Path, plan: Plan, *, again: bool = False, **callbacks: Any) -> Imported:
    publisher = BulkPublisher(settings, settle_timeout_s=15)
    try:
        with connect_control(settings) as connection:
            importer = Importer(publisher, FileImports(connection), SystemClock(), **callbacks)
            return importer.run(path, plan, again=again)
    finally:
        publisher.close()


def plan_for(path: Path, customer_id: int, text: str = MAPPING) -> Plan:
    return Plan(customer_id, mapping.parse(text.encode(), "test.toml"), hash_file(path))


def write_rows(path: Path, count: int) -> Path:
    rows = "".join(
        f"2024-01-01 00:{i // 60 % 60:02d}:{i % 60:02d},u{i % 97},e{i % 7},{i % 5},1.25\n" for i in range(count)
    )
    path.write_text(HEADER + rows, encoding="utf-8")
    return path


def test_the_whole_shop_file_arrives_row_by_row(settings: Settings, customer_id: int) -> None:
    rules = mapping.load("online_retail")
    path = online_retail()
    done = run(settings, path, Plan(customer_id, rules, hash_file(path)))
    assert (done.events, done.rejected, done.next_row) == (541_909, {}, 541_911)
    events = events_of(settings)
    assert events["message_id"].n_unique() == len(events) == 541_909
    raw = pl.read_csv(path, infer_schema=False)
    assert (
        events["value_e6"].sum()
        == raw.select(
            (
                pl.col("Quantity").cast(pl.Decimal(18, 0)) * pl.col("UnitPrice").cast(pl.Decimal(18, 6)) * 1_000_000
            ).sum()
        ).item()
    )
    assert events["user_id"].n_unique() == raw["CustomerID"].n_unique()
    assert events.filter(pl.col("name") == "cancellation").height == raw["InvoiceNo"].str.starts_with("C").sum()
    mine = events.group_by("country").len().sort("country").rows()
    assert mine == raw.group_by("Country").len().sort("Country").rows()


def test_refused_rows_go_to_their_topic_with_reason_and_position(
    settings: Settings, customer_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "some.csv"
    path.write_text(HEADER + "2024-01-01,u,e,1,1\nnever,u,e,1,1\nshort\n2024-01-02,u,e,x,1\n", encoding="utf-8")
    plan = plan_for(path, customer_id)
    done = run(settings, path, plan)
    assert done.events == 1 and done.rejected == {
        "time_unreadable": 1,
        "wrong_column_count": 1,
        "value_unreadable": 1,
    }
    records = read_topic(settings, Topics(settings.topic_prefix).rejected)
    told = sorted(
        (int(h["headrace.file.row"]), h["__connect.errors.exception.message"], message.value())
        for message in records
        for h in [dict(message.headers() or [])]
    )
    assert told == [
        (3, b"time_unreadable", b"never,u,e,1,1"),
        (4, b"wrong_column_count", b"short"),
        (5, b"value_unreadable", b"2024-01-02,u,e,x,1"),
    ]
    assert {message.key() for message in records} == {record_key(customer_id)}


def test_a_huge_refused_row_is_kept_in_part_and_stops_nothing(
    settings: Settings, customer_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "some.csv"
    path.write_text(HEADER + "2024-01-01,u,e,1,1\n" + "x" * 3_000_000 + "\n2024-01-02,u,e,1,1\n", encoding="utf-8")
    done = run(settings, path, plan_for(path, customer_id))
    assert done.events == 2 and done.rejected == {"wrong_column_count": 1}
    (record,) = read_topic(settings, Topics(settings.topic_prefix).rejected)
    assert record.value() == b"x" * 512 * 1024
    assert dict(record.headers() or [])["headrace.file.row.bytes"] == b"3000000"


def test_a_complete_file_is_refused_unless_asked_again(settings: Settings, customer_id: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "some.csv", 100)
    plan = plan_for(path, customer_id)
    run(settings, path, plan)
    with pytest.raises(UsageError, match=r"was imported .* whole — --again"):
        run(settings, path, plan)
    copy = tmp_path / "renamed.csv"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match=r"renamed\.csv was imported"):
        run(settings, copy, plan_for(copy, customer_id))
    assert run(settings, path, plan, again=True).events == 100
    ids = Counter(events_of(settings)["message_id"].to_list())
    assert len(ids) == 100 and set(ids.values()) == {2}, "the same ids, for the fold to tell"


def test_the_same_file_may_go_to_another_customer(settings: Settings, customer_id: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "some.csv", 10)
    run(settings, path, plan_for(path, customer_id))
    with connect_control(settings) as connection:
        other = create_customer(connection, "other").customer_id
    assert run(settings, path, plan_for(path, other)).events == 10


def test_two_importers_never_work_on_one_file(settings: Settings, customer_id: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "some.csv", 10)
    plan = plan_for(path, customer_id)
    with connect_control(settings) as first, connect_control(settings) as second:
        FileImports(first).begin(customer_id, plan.file_sha256, plan.reading, path.name, again=False)
        with pytest.raises(UsageError, match="right now"):
            FileImports(second, lock_wait_s=0.2).begin(
                customer_id, plan.file_sha256, plan.reading, path.name, again=False
            )


def test_an_interrupted_import_goes_on_where_kafka_had_it(
    settings: Settings, customer_id: int, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "some.csv", 120_000)
    plan = plan_for(path, customer_id)

    def stop_after_two(progress: Progress) -> None:
        if progress.events >= 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, path, plan, on_progress=stop_after_two)
    other_rules = plan_for(path, customer_id, MAPPING + "# changed\n")
    with pytest.raises(UsageError, match="another mapping"):
        run(settings, path, other_rules)
    with pytest.raises(UsageError, match="another --shift-days"):
        run(settings, path, dataclasses.replace(plan, shift_days=300))
    done = run(settings, path, plan)
    assert done.resumed_at_row is not None and done.resumed_at_row > 50_000
    ids = Counter(events_of(settings)["message_id"].to_list())
    assert len(ids) == 120_000 and set(ids.values()) == {1}, "a clean stop repeats nothing"


def test_kill_9_loses_no_row_and_repeats_at_most_a_piece(
    settings: Settings, customer_id: int, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "some.csv", 400_000)
    rules = tmp_path / "rules.toml"
    rules.write_text(MAPPING, encoding="utf-8")
    with connect_control(settings) as connection:
        key_file = tmp_path / "key"
        key_file.write_text(create_write_key(connection, customer_id).secret, encoding="utf-8")
    command = [sys.executable, "-m", "headrace", "backfill", str(path), "--mapping", str(rules), "--json"]
    command += ["--write-key-file", str(key_file)]
    environment = {**os.environ, **settings.as_environment()}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    with connect_control(settings) as connection:
        while not connection.execute("SELECT 1 FROM file_imports WHERE next_row > 1").fetchone():
            assert child.poll() is None and time.monotonic() < deadline, child.communicate()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    again = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    done = json.loads(again.stdout)
    assert done["resumed_at_row"] > 1 and done["events"] < 400_000
    ids = Counter(events_of(settings)["message_id"].to_list())
    repeated = sum(1 for count in ids.values() if count > 1)
    assert len(ids) == 400_000 and max(ids.values()) <= 2 and repeated <= 25_000
    third = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert third.returncode == UsageError.exit_code and b"--again" in third.stderr


def test_without_a_broker_it_says_so_and_keeps_its_place(
    settings: Settings, customer_id: int, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "some.csv", 10)
    away = dataclasses.replace(settings, kafka="127.0.0.1:1")
    publisher = BulkPublisher(away, settle_timeout_s=1)
    with connect_control(settings) as connection:
        importer = Importer(publisher, FileImports(connection), SystemClock())
        with pytest.raises(UnavailableError, match="unacknowledged"):
            importer.run(path, plan_for(path, customer_id))
    publisher.close()
    assert run(settings, path, plan_for(path, customer_id)).events == 10
