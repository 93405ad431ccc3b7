"""Full disks: of a shard, of the broker, of the whole system. Each is said clearly, and nothing acknowledged is lost.

The disks are small tmpfs, filled with a ballast file while events flow, and emptied again. In the end every row of
both shards equals an independent fold of the log.
"""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from headrace import kafka
from headrace.runtime.checks import DISK_BYTES_MIN
from headrace.runtime.credentials import Credentials
from headrace.runtime.postgres_engine import PostgresEngine, Role
from headrace.runtime.process import LOG_BYTES_MAX, Command, PartFailedError, Process
from headrace.runtime.system import PORT_NAMES, Plan, System
from headrace.settings import Settings
from schemas.topics import Topics
from tests.faults import truth
from tests.faults.running import Running, running_system
from tests.faults.sender import Sender
from tests.faults.test_kill9 import caught_up, made_batches, partitions, wait_until
from tests.faults.tmpfs import Volume, small_volume
from tests.reference_fold import ReferenceRules

SEED = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(2**31)))
EVENTS = 6_000
SENDING_S = 8.0
PUBLISH_TIMEOUT_S = 2.0
ANSWER_SPARE_S = 3.0  # beyond that: a busy machine
HEALTHY_LAG_S_MAX = 10.0
RECOVERY_S_MAX = 40.0
WAL_SEGMENTS_MAX = 32


def test_a_full_shard_lags_alone_says_so_and_loses_nothing(tmp_path: Path) -> None:
    print(f"FAULT_SEED={SEED}")
    with (
        small_volume(tmp_path / "data" / "postgres-shard-2", 256) as volume,
        running_system(tmp_path, events_partitions="4") as system,
    ):
        settings = settings_of(system)
        healthy, sick = (shard["dsn"] for shard in system.ready["shards"])
        senders = start_senders(system)
        time.sleep(1.0)

        wait_until(lambda: is_full(volume, system), system)
        ends = log_ends(settings)
        began = time.monotonic()
        wait_until(lambda: behind(healthy, ends) == 0, system)
        assert time.monotonic() - began < HEALTHY_LAG_S_MAX
        assert behind(sick, ends) > 0

        exhaust_write_ahead_log(volume, system)
        wait_until(lambda: bool(ended(system, "postgres-shard-2")), system)
        ends = log_ends(settings)
        began = time.monotonic()
        wait_until(lambda: behind(healthy, ends) == 0, system)
        assert time.monotonic() - began < HEALTHY_LAG_S_MAX

        volume.make_room()
        for sender in senders:
            sender.join()
        assert_all_exact(system, senders)

        retries = [line for line in log_lines(tmp_path / "data/logs/sink.log") if line["event"] == "store_retry"]
        assert {line["store"] for line in retries} == {"shard-2"}
        address = system.ready["shards"][1]["address"]
        told = [line["error"] for line in retries if f"shard shard-2 at {address} has no room left" in line["error"]]
        assert told and all(
            "No space left on device" in text and "make room on that server's disk" in text for text in told
        )
        assert ended(system, *system.ready["pids"]) == ended(system, "postgres-shard-2")
        first = ended(system, "postgres-shard-2")[0]
        assert f"bytes are free at {volume.folder}; make room there" in first["last_lines"]


def test_a_full_broker_refuses_in_bounded_time_and_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    print(f"FAULT_SEED={SEED}")
    with (
        small_volume(tmp_path / "data" / "kafka", 192) as volume,
        running_system(tmp_path, events_partitions="4", ingest_publish_timeout_s=str(PUBLISH_TIMEOUT_S)) as system,
    ):
        gateway = system.ready["pids"]["ingest"]
        senders = start_senders(system)
        prober = Prober(system)
        time.sleep(1.0)
        wait_until(prober.accepted, system)

        deadline = time.monotonic() + 30
        while prober.accepted():
            assert time.monotonic() < deadline, "a full disk takes everything"
            volume.fill()
        wait_until(lambda: bool(ended(system, "kafka")), system)
        for _ in range(3):
            volume.fill()
            assert not prober.accepted()
        assert httpx.get(f"{system.ready['ingest_url']}/livez", timeout=5).status_code == 200

        volume.make_room()
        began = time.monotonic()
        while not prober.accepted():
            assert time.monotonic() - began < RECOVERY_S_MAX, system.log()
        ends_before = len(ended(system, "kafka"))
        for sender in senders:
            sender.join()
        assert_all_exact(system, [*senders, prober])
        assert system.ready["pids"]["ingest"] == gateway, "the gateway lives through it"
        ends = ended(system, "kafka")
        assert len(ends) == ends_before, "a broker that has recovered stays"
        assert f"bytes are free at {volume.folder}; make room there" in ends[0]["last_lines"]


def test_up_on_a_tiny_disk_says_how_much_it_needs_and_makes_nothing(tmp_path: Path) -> None:
    with small_volume(tmp_path / "tiny", 64) as volume:
        refused = up(volume.folder / "data")
        assert refused.returncode == 78
        assert f"({volume.free_bytes} bytes) free at {volume.folder}" in refused.stderr
        assert f"at least {DISK_BYTES_MIN >> 20} MiB ({DISK_BYTES_MIN} bytes) are needed" in refused.stderr
        assert "choose another --data" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert list(volume.folder.iterdir()) == []


@pytest.mark.parametrize("part", ["postgres-shard-1", "kafka"])
def test_a_part_that_fills_its_disk_while_starting_is_named(tmp_path: Path, part: str) -> None:
    with small_volume(tmp_path / "data" / part, 8) as volume:
        if part == "kafka":
            volume.fill()  # it starts on 1 MiB
        failed = up(tmp_path / "data")
        assert failed.returncode == 1
        assert part in failed.stderr
        assert f"bytes are free at {volume.folder}" in failed.stderr and "make room there" in failed.stderr
        assert "Traceback" not in failed.stderr


def test_a_full_disk_takes_neither_the_log_bound_nor_the_supervisor_away(tmp_path: Path) -> None:
    with small_volume(tmp_path / "small", 48) as volume:
        log = volume.folder / "log.txt"
        log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
        Process(Command(name="p", argv=("/bin/true",), log_file=log, folder=tmp_path)).bound_log()
        assert log.stat().st_size == 0
        assert not log.with_name("log.txt.1").exists()

        ports = dict.fromkeys(PORT_NAMES, 1)
        system = System(Plan(folder=tmp_path, settings=Settings()), ports, Credentials("a", "b", "c", "d"))
        ready_file = volume.folder / "ready.json"
        system.keep_ready_file(ready_file)
        before = ready_file.read_text()
        volume.fill()
        system.supervisor.on_restart("kafka")  # it tells, and the caller goes on
        assert ready_file.read_text() == before

        nowhere = Process(Command(name="p", argv=("/bin/true",), log_file=log / "below-a-file", folder=tmp_path))
        with pytest.raises(PartFailedError, match="p could not be started: no log can be written"):
            nowhere.start()


class Prober:
    """Asks the gateway to take one event, and holds it to its promise: yes, or 503 with Retry-After, soon."""

    def __init__(self, system: Running) -> None:
        customer = system.ready["customers"][0]
        self._url = f"{system.ready['ingest_url']}/v1/batch"
        self._key = customer["write_key"]
        self.customer_id = customer["customer_id"]
        self.acknowledged: set[tuple[int, str]] = set()
        self.sent: set[tuple[int, str]] = set()

    def accepted(self) -> bool:
        """Whether one more event was taken."""
        name = f"probe-{len(self.sent)}"
        self.sent.add((self.customer_id, name))
        began = time.monotonic()
        event = {"type": "track", "event": "probed", "messageId": name}
        answer = httpx.post(self._url, json={"batch": [event]}, auth=(self._key, ""), timeout=30)
        assert time.monotonic() - began < PUBLISH_TIMEOUT_S + ANSWER_SPARE_S
        if answer.status_code == 200:
            self.acknowledged.add((self.customer_id, name))
            return True
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        return False


def start_senders(system: Running) -> list[Sender]:
    """A sender for each customer, at work for SENDING_S at least."""
    rng = random.Random(SEED)
    senders = [
        Sender(system.ready["ingest_url"], c["write_key"], c["customer_id"], batches, rng.randrange(2**31))
        for c, batches in zip(system.ready["customers"], made_batches(rng, EVENTS), strict=True)
    ]
    for sender in senders:
        sender.pause_s = SENDING_S / len(sender.batches)
        sender.start()
    return senders


def settings_of(system: Running) -> Settings:
    """As much as reading the log takes."""
    return Settings(kafka=system.ready["kafka"], events_partitions=partitions(system))


def log_ends(settings: Settings) -> dict[int, int]:
    """The next offset of each partition of `events`."""
    topic = Topics(settings.topic_prefix).events
    ends = kafka.watermarks(settings, topic, list(range(settings.events_partitions)))
    return {partition: end for partition, (_, end) in ends.items()}


def behind(dsn: str, ends: dict[int, int]) -> int:
    """How many records a shard's cursors have not reached."""
    at = truth.cursors(dsn)
    return sum(max(0, end - at.get(partition, 0)) for partition, end in ends.items())


def is_full(volume: Volume, system: Running) -> bool:
    """Take all room; whether the sink has said so."""
    volume.fill()
    return "has no room left" in (system.folder / "data/logs/sink.log").read_text()


def exhaust_write_ahead_log(volume: Volume, system: Running) -> None:
    """Drive the full server to where it can only panic: its log of changes needs a segment that it cannot have."""
    port = int(system.ready["shards"][1]["address"].partition(":")[2].partition("/")[0])
    nobody = Role("unused", "unused")
    server = PostgresEngine(
        name="postgres-shard-2", folder=volume.folder, port=port, owner=nobody, reader=nobody, databases=()
    )
    with suppress(psycopg.OperationalError), server.connect_superuser() as connection:
        for _ in range(WAL_SEGMENTS_MAX):
            volume.fill()
            connection.execute("SELECT pg_logical_emit_message(false, 'ballast', 'x')")
            connection.execute("SELECT pg_switch_wal()")
        raise AssertionError(f"{WAL_SEGMENTS_MAX} segments found room on a full disk")


def ended(system: Running, *parts: str) -> list[dict[str, Any]]:
    """What the supervisor said each time that one of these parts ended unasked."""
    lines = log_lines(system.folder / "up.log")
    return [line for line in lines if line["event"] == "part_ended" and line["part"] in parts]


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The structured lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]


def assert_all_exact(system: Running, senders: list[Any]) -> None:
    """Every acknowledged event is in the log, and every row of both shards is the fold of the log."""
    log = truth.read_log(settings_of(system))
    wait_until(lambda: caught_up(system, log), system)
    stored: dict[Any, Any] = {}
    for shard in system.ready["shards"]:
        stored |= truth.stored_rows(shard["dsn"])
    truth.assert_equal(truth.fold_log(log, ReferenceRules()), stored)
    logged = set(truth.message_ids(log))
    acknowledged = set().union(*(sender.acknowledged for sender in senders))
    assert len(acknowledged) >= EVENTS
    assert acknowledged <= logged
    assert all(name.startswith("probe-") for _, name in logged - acknowledged)


def up(data: Path) -> subprocess.CompletedProcess[str]:
    """`headrace up` that is to fail by itself."""
    return subprocess.run(
        [sys.executable, "-m", "headrace", "up", "--data", str(data)],
        env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
