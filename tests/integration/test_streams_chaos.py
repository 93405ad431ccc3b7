"""Seeded chaos: workers are killed, frozen, stopped and joined at random while events come and frames are trimmed.

Event time runs meanwhile, and few partitions pass several multiples of 4096 records: windows close all through it.

`STREAMS_CHAOS_SEEDS=20 pytest tests/integration/test_streams_chaos.py` searches longer. The seed is the test's name.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from headrace import kafka
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.topics import SINK_POSTGRES_GROUP
from tests.integration.conftest import MakeSettings
from tests.integration.streams_world import US, Judge, Sender, WorkerProcess, some_events

SEEDS = int(os.environ.get("STREAMS_CHAOS_SEEDS", "1"))
STEPS = 14
WORKERS_MAX = 3
EVENTS_PER_STEP = 2_000
SPAN_S = 1_200  # event time of a step
PARTITIONS = 2


class Chaos:
    """Up to three workers and what happens to them."""

    def __init__(self, seed: int, settings: Settings, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.settings = settings
        self.folder = folder
        self.workers: list[WorkerProcess] = []
        self.frozen: list[WorkerProcess] = []
        self.story: list[str] = []

    def step(self) -> None:
        running = [w for w in self.workers if w not in self.frozen]
        actions = ["nothing"]
        if len(self.workers) < WORKERS_MAX:
            actions += ["start", "start"]
        if running:
            actions += ["kill", "stop", "freeze"]
        if self.frozen:
            actions += ["thaw", "thaw"]
        action = "start" if not running else self.rng.choice(actions)
        self.story.append(action)
        if action == "start":
            self.workers.append(WorkerProcess(self.settings, self.folder / f"worker-{len(self.story)}.log"))
        elif action == "thaw":
            self.frozen.pop().thaw()
        elif action != "nothing":
            self._disturb(action, self.rng.choice(running))

    def settle(self) -> None:
        """All that is frozen goes on, and somebody is there to finish the work."""
        for worker in self.frozen:
            worker.thaw()
        self.frozen.clear()
        if not self.workers:
            self.workers.append(WorkerProcess(self.settings, self.folder / "last.log"))

    def _disturb(self, action: str, worker: WorkerProcess) -> None:
        if action == "freeze":
            worker.freeze()
            self.frozen.append(worker)
            return
        self.workers.remove(worker)
        if action == "kill":
            worker.kill()
        else:
            assert worker.stop() == 0 or "worker_starting" not in worker.log, worker.log[-3000:]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_chaos_is_exact(seed: int, make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = settings_of(make_settings)
    create_topics(settings)
    sender, judge, chaos = Sender(settings), Judge(settings), Chaos(seed, settings, tmp_path)
    try:
        for step in range(STEPS):
            chaos.step()
            sender.events(events_of(1000 * seed + step, steps_left=STEPS - step))
            time.sleep(chaos.rng.uniform(0, 4))
            judge.caught_up()
            commit_as_sink(settings, judge)
        chaos.settle()
        judge.wait(timeout_s=120, workers=chaos.workers)
        judge.assert_exact()
        closed = [{key.grain for key, row in judge.views[p].rows.items() if not row[-1]} for p in judge.partitions]
        assert closed == [{0, 1}] * PARTITIONS, f"only these grains were closed, by partition: {closed}"
        for worker in chaos.workers:
            assert worker.stop() == 0, worker.log[-3000:]
    except BaseException:
        print(f"seed {seed}: {' '.join(chaos.story)}")
        raise
    finally:
        for worker in chaos.workers:
            worker.clean_up()


def test_a_worker_that_slept_goes_on_from_what_others_left(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = settings_of(make_settings)
    create_topics(settings)
    sender, judge = Sender(settings), Judge(settings)
    sleeper = WorkerProcess(settings, tmp_path / "sleeper.log")
    workers = [sleeper]
    try:
        sender.events(events_of(0, steps_left=STEPS))
        judge.wait(workers=workers)
        sleeper.freeze()
        asleep_at = first_frames(settings, judge, end=True)
        workers.append(WorkerProcess(settings, tmp_path / "other.log"))
        deadline = time.monotonic() + 120
        for step in range(1, 1000):  # until nothing is left of the frames that the sleeper knows
            sender.events(events_of(step, steps_left=STEPS - 1)[:50])
            judge.caught_up()
            commit_as_sink(settings, judge)
            if all(first > asleep_at[p] for p, first in first_frames(settings, judge).items()):
                break
            assert time.monotonic() < deadline, workers[1].log[-3000:]
            time.sleep(0.5)
        workers[1].kill()
        del workers[1]
        sleeper.thaw()
        sleeper.wait_log("kept_state_out_of_reach", timeout_s=120)
        sender.events(events_of(1000, steps_left=1))
        judge.wait(timeout_s=120, workers=workers)
        judge.assert_exact()
        assert sleeper.stop() == 0, sleeper.log[-3000:]
    finally:
        for worker in workers:
            worker.clean_up()


def settings_of(make_settings: MakeSettings) -> Settings:
    """Few partitions, small frames, and trimming as early as the sinks allow."""
    return make_settings(
        "kafka",
        metrics_port=0,
        snapshot_interval_s=2.0,
        aggregates_age_min_s=0.0,
        frame_events_max=300,
        events_partitions=PARTITIONS,
    )


def first_frames(settings: Settings, judge: Judge, *, end: bool = False) -> dict[int, int]:
    """Where `aggregates` begins, or ends, by partition."""
    bounds = kafka.watermarks(settings, judge.topics.aggregates, judge.partitions)
    return {partition: bound[1 if end else 0] for partition, bound in bounds.items()}


def events_of(seed: int, steps_left: int) -> list[dict[str, Any]]:
    """The events of a step: their time is that many steps ago."""
    events = some_events(seed, EVENTS_PER_STEP, span_s=SPAN_S)
    return [event | {"timestamp_us": event["timestamp_us"] - steps_left * SPAN_S * US} for event in events]


def commit_as_sink(settings: Settings, judge: Judge) -> None:
    """Hold frames back, and let go of them, as the Postgres sink would."""
    consumer = kafka.consumer(settings, SINK_POSTGRES_GROUP)
    offsets = [
        kafka.TopicPartition(judge.topics.aggregates, p, view.rule.resume_offset) for p, view in judge.views.items()
    ]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()
