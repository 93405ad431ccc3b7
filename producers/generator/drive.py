"""Runs a workload at its pace: each event is handed over when it is due, or late if the target cannot keep up.

Open loop: a slow target makes the run fall behind and the answer says by how much; the rate asked for is never
quietly lowered, and no event is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from headrace.clock import Clock
from producers.generator.pace import Pace
from producers.generator.targets import Target
from producers.generator.workload import BLOCK_ROWS, Schedule, Workload

TICK_S = 0.05  # events that fall due within a tick go together
TEND_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Driven:
    """What a run did. `behind_s_max`: the longest time an event was handed over after it was due."""

    sent: int
    duplicates: int
    seconds: float
    behind_s_max: float


def schedule(pace: Pace, start_us: int) -> Schedule:
    """The pace as times since the epoch, for a workload that starts at `start_us`."""
    return lambda numbers: start_us + (pace.time_of(numbers) * 1e6).astype("int64")


def drive(
    workload: Workload,
    pace: Pace,
    target: Target,
    clock: Clock,
    *,
    stopped: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, float], None] | None = None,
    tick_s: float = TICK_S,
) -> Driven:
    """Hand over all of `pace.rows` events, or until `stopped` says so. Returns when the target has settled.

    `on_progress` gets (events sent, seconds behind) after each step. Raises what the target raises.
    """
    start, sent, duplicates, behind_max, tended = clock.monotonic(), 0, 0, 0.0, 0.0
    while sent < pace.rows and not stopped():
        elapsed_s = clock.monotonic() - start
        due = min(pace.due(elapsed_s), pace.rows)
        if due <= sent:
            if elapsed_s - tended > TEND_EVERY_S:
                target.tend()
                tended = elapsed_s
            target.wait(tick_s)
            continue
        behind_s = elapsed_s - pace.time_of_one(sent)
        behind_max = max(behind_max, behind_s)
        for block in workload.batches(min(due - sent, BLOCK_ROWS), first=sent):
            target.send(block)
            sent += len(block.source)
            duplicates += int(block.duplicates().sum())
        if elapsed_s - tended > TEND_EVERY_S:
            target.tend()
            tended = elapsed_s
        if on_progress is not None:
            on_progress(sent, behind_s)
        spare_s = tick_s - (clock.monotonic() - start - elapsed_s)
        if due - sent < BLOCK_ROWS and spare_s > 0:
            target.wait(spare_s)
    target.settle()
    return Driven(sent, duplicates, clock.monotonic() - start, behind_max)
