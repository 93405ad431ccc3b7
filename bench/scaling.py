"""One, two and four workers over the same events: CPU per event, what a start and a join cost, the pause when one
joins, equal counts.

All but the last worker start together; the last joins when a sixth is read. CPU per event is that of the stretch in
which all of them are at work: from SETTLING_S after the last one is ready until nearly all is read. What is paid once
(Python, imports, restoring partitions at each join) is told apart, per worker. Goals: CPU per event within 1.1 times
that of one worker (1.2 at the least), a join pauses for at most 3 s (10).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.report import Report
from bench.stage import POLL_S, Stage, Watched, acknowledged, fill, kafka_stage, metrics, ready, service, total
from bench.tally import Tally, tally
from headrace.runtime.ports import free_ports
from headrace.settings import Settings

EVENTS = 6_000_000
QUICK_EVENTS = 300_000
JOIN_AT, LAST_AT = 1 / 6, 0.95
SETTLING_S, QUICK_SETTLING_S = 1.0, 0.1
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds an event while all were at work, of how many events; CPU seconds of the whole run; seconds in which
    nothing was acknowledged."""

    cpu_s_per_event: float
    at_work: float
    cpu_s: float
    pause_s: float


def run(*, quick: bool) -> Report:
    """The same seeded log for each number of workers."""
    report = Report("scaling")
    events = QUICK_EVENTS if quick else EVENTS
    found: dict[int, Measured] = {}
    tallies: dict[int, Tally] = {}
    with kafka_stage() as stage:
        for workers in (1, 2, 4):
            settings = stage.with_prefix(f"s{workers}.")
            fill(settings, events)
            one = found[workers] = measure(stage, settings, events, workers, quick=quick)
            tallies[workers] = tally(settings)
            cpu_us, share = one.cpu_s_per_event * 1e6, one.at_work / events
            report.add(f"CPU per event, {workers} worker(s)", cpu_us, "µs", f"over {share:.0%} of the events")
            once = (one.cpu_s - one.cpu_s_per_event * events) / workers
            report.add(f"CPU for starts and joins, {workers} worker(s)", once, "s a worker")
            if workers > 1:
                report.add(f"longest pause, last of {workers} joining", one.pause_s, "s", "goal 3, at most 10")
    for workers in (2, 4):
        ratio = found[workers].cpu_s_per_event / found[1].cpu_s_per_event
        whole = found[workers].cpu_s / found[1].cpu_s
        note = f"goal 1.1, at most 1.2; {whole:.2f} × with starts and joins"
        report.add(f"CPU per event, {workers} against 1", ratio, "×", note)
    counts = {(t.events, t.duplicates, t.value_e6) for t in tallies.values()}
    report.add("different results", len(counts) - 1, "", "must be 0: events, duplicates and value are equal")
    report.details["tallies"] = {n: str(t) for n, t in tallies.items()}
    return report


def measure(stage: Stage, settings: Settings, events: int, count: int, *, quick: bool) -> Measured:
    """`count` workers over the log."""
    ports = free_ports(count)
    workers: list[Watched] = []

    def start_next() -> None:
        number = len(workers)
        own = Settings.load({"metrics_port": ports[number]}, settings.as_environment())
        workers.append(service("streams", own, stage.folder, label=f"-{settings.topic_prefix}{number}"))

    for _ in range(max(1, count - 1)):
        start_next()
    try:
        join = start_next if count > 1 else None
        return _follow(workers, ports, events, join, QUICK_SETTLING_S if quick else SETTLING_S)
    finally:
        for worker in workers:
            worker.stop()


def _follow(
    workers: list[Watched], ports: list[int], events: int, join: Callable[[], None] | None, settling_s: float
) -> Measured:
    deadline = time.monotonic() + TIMEOUT_S
    best, moved_at, pause = 0.0, time.monotonic(), 0.0
    ready_ports: set[int] = set()
    settled_at: float | None = None
    begin: tuple[float, float] | None = None
    end: tuple[float, float] | None = None
    while time.monotonic() < deadline:
        series = [metrics(port) for port in ports[: len(workers)]]
        read = sum(total(one, "headrace_events_read_total") for one in series)
        done, now = sum(map(acknowledged, series)), time.monotonic()
        if best:
            pause = max(pause, now - moved_at)
        if done > best:
            best, moved_at = done, now
        if join is not None and read > events * JOIN_AT:
            join()
            join = None
        ready_ports |= {port for port in ports[: len(workers)] if port not in ready_ports and ready(port)}
        if len(ready_ports) == len(ports) and settled_at is None:
            settled_at = now + settling_s
        place = read, sum(worker.cpu_s for worker in workers)
        if begin is None and settled_at is not None and now >= settled_at:
            begin = place
        elif begin is not None and end is None and read >= LAST_AT * events:
            end = place
        if done >= events:
            if begin is None or end is None:
                raise RuntimeError(f"{events} events are too few: all were read before all workers were at work")
            return Measured((end[1] - begin[1]) / (end[0] - begin[0]), end[0] - begin[0], place[1], pause)
        time.sleep(POLL_S)
    raise RuntimeError(f"{best:.0f} of {events} after {TIMEOUT_S} s\n{workers[0].tail()}")
