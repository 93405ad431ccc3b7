"""The stream worker against real Kafka: every row as the plain reference folds it, whatever happens to workers."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from headrace import kafka
from headrace.runtime.kafka_engine import KafkaEngine
from headrace.runtime.parts import Part
from headrace.runtime.ports import free_ports
from headrace.runtime.process import Process
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.event import record_key
from tests.integration.conftest import MakeSettings
from tests.integration.streams_world import Judge, Sender, WorkerProcess, encode, some_events

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings("kafka", metrics_port=0)
    create_topics(made)
    return made


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[WorkerProcess] = []

    def start(own: Settings = settings, prelude: str = "") -> WorkerProcess:
        started.append(WorkerProcess(own, tmp_path / f"worker-{len(started)}.log", prelude))
        return started[-1]

    yield start
    for worker in started:
        worker.clean_up()


def test_rows_are_those_of_the_reference(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    sender.events(some_events(1, 12_000))
    worker = start_worker()
    judge.wait(workers=[worker])
    sender.events(some_events(2, 3_000, span_s=60))
    judge.wait(workers=[worker])
    judge.assert_exact()
    assert worker.stop() == 0


def test_a_stopped_worker_has_written_all_it_folded(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    sender.events(some_events(3, 4_000))
    worker = start_worker()
    judge.wait(workers=[worker])
    assert worker.stop() == 0
    sender.events(some_events(4, 4_000))
    again = start_worker()
    judge.wait(workers=[again])
    judge.assert_exact()
    assert '"origin": "log"' in again.log


def test_kills_joins_and_a_frozen_worker(settings: Settings, start_worker: StartWorker) -> None:
    """Two kill -9, three joins, a worker frozen past its session; events come all the while."""
    sender, judge = Sender(settings), Judge(settings)
    events = some_events(5, 20_000)
    parts = [events[i : i + 2_000] for i in range(0, len(events), 2_000)]

    def send_some(count: int) -> None:
        for _ in range(count):
            sender.events(parts.pop())
            time.sleep(0.3)

    parts.reverse()
    send_some(2)
    first = start_worker()
    first.wait_log("partitions_assigned")
    send_some(1)
    second = start_worker()
    send_some(1)
    second.wait_log("partitions_assigned")
    first.kill()
    send_some(1)
    third = start_worker()
    third.wait_log("partitions_assigned")
    send_some(1)
    second.freeze()
    send_some(2)
    judge_deadline = time.monotonic() + 60
    while third.log.count("partitions_assigned") < 2 and time.monotonic() < judge_deadline:
        time.sleep(0.2)
    second.thaw()
    send_some(1)
    third.kill()
    send_some(1)
    assert not parts
    fourth = start_worker()
    judge.wait(workers=[second, fourth])
    judge.assert_exact()
    assert len({w for view in judge.views.values() for w in view.writers}) >= 6
    assert second.stop() == 0
    assert fourth.stop() == 0


def test_a_storm_of_joins_and_leaves(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    steady = start_worker()
    steady.wait_log("partitions_assigned")
    for part in range(4):
        guest = start_worker()
        sender.events(some_events(90 + part, 1_000))
        guest.wait_log("worker_starting")
        time.sleep(part)
        assert guest.stop() == 0
    judge.wait(workers=[steady])
    judge.assert_exact()
    assert '"origin": "memory"' in steady.log
    assert steady.stop() == 0


def test_a_broker_that_dies_and_comes_back(
    make_settings: MakeSettings,
    start_part: Callable[[Part], Process],
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """The worker waits, or stops and is started again, as a supervisor would; the counts are exact either way."""
    port, controller_port = free_ports(2)
    engine = KafkaEngine(folder=tmp_path / "kafka", port=port, controller_port=controller_port)
    broker = start_part(engine)
    own = make_settings(kafka=engine.address, metrics_port=0)
    create_topics(own)
    sender, judge = Sender(own), Judge(own)
    sender.events(some_events(95, 3_000))
    worker = start_worker(own)
    judge.wait(workers=[worker])
    for part in range(2):
        sender.events(some_events(96 + part, 1_000))
        broker.kill()
        time.sleep(3)
        broker = start_part(engine)
        sender.events(some_events(98 + part, 1_000))
    deadline = time.monotonic() + 90
    while not judge.caught_up():
        if worker.process.poll() is not None:
            assert worker.process.returncode == 70, worker.log[-3000:]
            worker = start_worker(own)
        assert time.monotonic() < deadline, worker.log[-3000:]
        time.sleep(0.5)
    judge.assert_exact()
    assert worker.stop() == 0


@pytest.mark.parametrize("after_s", [0.0, 0.7, 1.5, 2.5])
def test_a_stop_while_starting_is_clean(settings: Settings, start_worker: StartWorker, after_s: float) -> None:
    worker = start_worker()
    worker.wait_log("worker_starting")
    time.sleep(after_s)
    assert worker.stop() == 0, worker.log[-3000:]


@pytest.mark.parametrize(
    "hang",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()",
        "import mode.threads, time; mode.threads.WorkerThread.stop = lambda self: time.sleep(600)",
    ],
    ids=["a thread that does not end", "an event loop that stands still"],
)
def test_what_hangs_holds_up_no_stop(settings: Settings, start_worker: StartWorker, hang: str) -> None:
    worker = start_worker(prelude=hang + "\n")
    worker.wait_log("partitions_assigned")
    assert worker.stop() == 0
    assert "worker_did_not_end" in worker.log


def test_health_and_metrics(settings: Settings, start_worker: StartWorker) -> None:
    own = replace(settings, metrics_port=free_ports(1)[0])
    Sender(own).events(some_events(99, 500))
    worker = start_worker(own)
    Judge(own).wait(workers=[worker])
    address = f"http://{own.metrics_host}:{own.metrics_port}"
    assert httpx.get(address + "/readyz").status_code == 200
    assert httpx.get(address + "/livez").status_code == 200
    series = httpx.get(address + "/metrics").text
    for name in ("headrace_events_folded_total", "headrace_consumer_lag_records", "headrace_stage_seconds_total"):
        assert name in series
    folded = re.search(r"^headrace_events_folded_total (\S+)", series, re.MULTILINE)
    twice = re.search(r"^headrace_events_deduplicated_total (\S+)", series, re.MULTILINE)
    assert folded and twice
    assert float(folded[1]) + float(twice[1]) == 500
    assert worker.stop() == 0


def test_idle_partitions_are_no_hang(settings: Settings, start_worker: StartWorker, tmp_path: Path) -> None:
    """Nothing for longer than the limit, then records; and offsets at the log's end that hold no record."""
    sender, judge = Sender(settings), Judge(settings)
    worker = WorkerProcess(settings, tmp_path / "short.log", "import streams.flusher as f; f.IDLE_LIMIT_S = 2.0\n")
    try:
        worker.wait_log("partitions_assigned")
        for part in range(3):
            time.sleep(4)
            sender.events(some_events(200 + part, 200))
            judge.wait(workers=[worker])
        producer = kafka.producer(settings, transactional_id=settings.topic_prefix + "tail")
        producer.init_transactions(20)
        producer.begin_transaction()
        for event, value in zip(events := some_events(210, 200), encode(events), strict=True):
            producer.produce(sender.topic, value, record_key(event["customer_id"]))
        producer.commit_transaction(20)
        time.sleep(8)
        sender.events(some_events(211, 400))
        judge.wait(workers=[worker])
        judge.assert_exact()
        assert worker.stop() == 0
    finally:
        worker.clean_up()
