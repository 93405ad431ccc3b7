"""The worker's clockwork: how often a busy worker cuts frames."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.clock import ManualClock
from headrace.settings import Settings
from streams import flusher as module
from streams.flusher import Flusher
from streams.frames import BUSY_EVENTS_PER_S
from streams.measures import Measures
from streams.watchdog import Watchdog

TICK_S = 0.05


def no_stop(error: BaseException) -> Any:
    raise error


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The monotonic clock, to be set; no Kafka behind the log's ends; nothing given back."""
    now = [1_000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "LogEnds", lambda *_: None)
    monkeypatch.setattr(module, "release_free_memory", lambda: None)
    monkeypatch.setattr(module, "LOOK_INTERVAL_S", 1e9)
    yield now


@pytest.mark.parametrize(
    ("events_per_s", "frames"), [(BUSY_EVENTS_PER_S // 2, 18), (BUSY_EVENTS_PER_S * 2, 6), (0, 0)]
)
def test_a_busy_worker_cuts_less_often(
    now_s: list[float], monkeypatch: pytest.MonkeyPatch, events_per_s: int, frames: int
) -> None:
    """Ten seconds, caught up all the while: a frame each half second, or each one and a half, and a tick more."""
    measures = Measures()
    writer = SimpleNamespace(busy=False, pending=events_per_s > 0, dead_full=False, last_cut_s=0.0)
    held: Any = SimpleNamespace(
        writer=writer, waiting=[], partition=0, events_unframed=0, receive_us=1, end_offset=0, moved_s=0.0,
        position=SimpleNamespace(next_offset=0), log=SimpleNamespace(topic="events", end_offset=0),
        fold=SimpleNamespace(stats=SimpleNamespace(open_rows=0, dedupe_ids=0)),
    )  # fmt: skip
    assignment: Any = SimpleNamespace(closing=False, held={0: held}, topics=SimpleNamespace(events="events"))
    snapshotter: Any = SimpleNamespace(is_due=lambda *_: False)
    cuts: list[float] = []

    async def cut(*_: Any) -> None:
        cuts.append(now_s[0])
        writer.last_cut_s = now_s[0]

    monkeypatch.setattr(module, "write_frame", cut)

    async def scenario() -> None:
        flusher = Flusher(Settings(), assignment, snapshotter, measures, Watchdog(no_stop), ManualClock(1), no_stop)
        start_s = now_s[0]
        while now_s[0] < start_s + 12:
            now_s[0] += TICK_S
            measures.on_events(round(events_per_s * TICK_S))
            flusher.tick()
            await asyncio.sleep(0)

        steady = [at for at in cuts if at > start_s + 2]
        assert len(steady) == pytest.approx(frames, abs=1)

    asyncio.run(scenario())
