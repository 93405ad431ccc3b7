"""Seeded chaos: workers are killed, frozen, stopped and joined at random while events come and frames are trimmed.

`STREAMS_CHAOS_SEEDS=20 pytest tests/integration/test_streams_chaos.py` searches longer. The seed is the test's name.
"""

import os
import random
import time
from pathlib import Path

import pytest

from headrace import kafka
from headrace.settings import Settings
from headrace.topics import create_topics
from streams.trimming import GROUP_POSTGRES
from tests.integration.conftest import MakeSettings
from tests.integration.streams_world import Judge, Sender, WorkerProcess, some_events

SEEDS = int(os.environ.get("STREAMS_CHAOS_SEEDS", "1"))
STEPS = 14
WORKERS_MAX = 3
EVENTS_PER_STEP = 1_500


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
    settings = make_settings(
        "kafka", metrics_port=0, snapshot_interval_s=2.0, aggregates_age_min_s=0.0, frame_events_max=300
    )
    create_topics(settings)
    sender, judge, chaos = Sender(settings), Judge(settings), Chaos(seed, settings, tmp_path)
    try:
        for step in range(STEPS):
            chaos.step()
            sender.events(some_events(1000 * seed + step, EVENTS_PER_STEP, span_s=600))
            time.sleep(chaos.rng.uniform(0, 4))
            judge.caught_up()
            commit_as_sink(settings, judge)
        chaos.settle()
        judge.wait(timeout_s=120, workers=chaos.workers)
        judge.assert_exact()
        for worker in chaos.workers:
            assert worker.stop() == 0, worker.log[-3000:]
    except BaseException:
        print(f"seed {seed}: {' '.join(chaos.story)}")
        raise
    finally:
        for worker in chaos.workers:
            worker.clean_up()


def commit_as_sink(settings: Settings, judge: Judge) -> None:
    """Hold frames back, and let go of them, as the Postgres sink would."""
    consumer = kafka.consumer(settings, GROUP_POSTGRES)
    offsets = [
        kafka.TopicPartition(judge.topics.aggregates, p, view.rule.resume_offset) for p, view in judge.views.items()
    ]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()
