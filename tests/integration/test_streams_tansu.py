"""The stream worker on Tansu, the demo's broker: no idempotent producer, no broker's time, no record deletion."""

from collections.abc import Callable
from pathlib import Path

from headrace.runtime.parts import Part
from headrace.runtime.ports import free_ports
from headrace.runtime.process import Process
from headrace.runtime.tansu_engine import TansuEngine
from headrace.topics import create_topics
from tests.integration.conftest import MakeSettings
from tests.integration.streams_world import Judge, Sender, WorkerProcess, some_events


def test_kill_and_join_on_tansu(
    make_settings: MakeSettings, start_part: Callable[[Part], Process], tmp_path: Path
) -> None:
    engine = TansuEngine(folder=tmp_path / "tansu", port=free_ports(1)[0])
    start_part(engine)
    settings = make_settings(kafka=engine.address, kafka_idempotence=False, metrics_port=0, snapshot_interval_s=2.0)
    create_topics(settings)
    sender, judge = Sender(settings), Judge(settings)
    sender.events(some_events(40, 4_000))
    workers = [WorkerProcess(settings, tmp_path / "first.log")]
    try:
        workers[0].wait_log("partitions_assigned")
        sender.events(some_events(41, 4_000))
        judge.wait(workers=workers)
        workers.append(WorkerProcess(settings, tmp_path / "second.log"))
        workers[1].wait_log("partitions_assigned")
        sender.events(some_events(42, 2_000))
        workers.pop(0).kill()
        sender.events(some_events(43, 2_000))
        judge.wait(workers=workers)
        judge.assert_exact()
        assert workers[0].stop() == 0
    finally:
        for worker in workers:
            worker.clean_up()
