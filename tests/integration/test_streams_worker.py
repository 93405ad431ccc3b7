"""The stream worker against real Kafka: every row as the plain reference folds it, whatever happens to workers."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.settings import Settings
from headrace.topics import create_topics
from tests.integration.conftest import MakeSettings
from tests.integration.streams_world import Judge, Sender, WorkerProcess, some_events

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings("kafka", metrics_port=0)
    create_topics(made)
    return made


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[WorkerProcess] = []

    def start(own: Settings = settings) -> WorkerProcess:
        started.append(WorkerProcess(own, tmp_path / f"worker-{len(started)}.log"))
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
