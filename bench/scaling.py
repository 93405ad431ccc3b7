"""One, two and four workers over the same events: CPU per event, the pause when one joins, equal counts.

What a worker has used by the time it first holds partitions (Python, imports, joining) is read then and taken off:
it is paid once, not per event. The ratio with it is told beside. Goals: CPU per event within 1.1 times that of one
worker (1.2 at the least), a join pauses for at most 3 s (10).
"""

import time

from bench.report import Report
from bench.stage import Stage, Watched, acknowledged, fill, kafka_stage, metrics, ready, service
from bench.tally import Tally, tally
from headrace.runtime.ports import free_ports
from headrace.settings import Settings

EVENTS = 2_000_000
QUICK_EVENTS = 150_000
TIMEOUT_S = 600.0


def run(*, quick: bool) -> Report:
    """The same seeded log for each number of workers."""
    report = Report("scaling")
    events = QUICK_EVENTS if quick else EVENTS
    cpu: dict[int, float] = {}
    whole: dict[int, float] = {}
    tallies: dict[int, Tally] = {}
    with kafka_stage() as stage:
        for workers in (1, 2, 4):
            settings = stage.with_prefix(f"s{workers}.")
            fill(settings, events)
            used, starting, pause = measure(stage, settings, events, workers)
            whole[workers], cpu[workers] = used / events * 1e6, (used - starting) / events * 1e6
            tallies[workers] = tally(settings)
            report.add(f"CPU per event, {workers} worker(s)", cpu[workers], "µs")
            if workers > 1:
                report.add(f"longest pause, last of {workers} joining", pause, "s", "goal 3, at most 10")
    for workers in (2, 4):
        note = f"goal 1.1, at most 1.2; {whole[workers] / whole[1]:.2f} × with their start"
        report.add(f"CPU per event, {workers} against 1", cpu[workers] / cpu[1], "×", note)
    counts = {(t.events, t.duplicates, t.value_e6) for t in tallies.values()}
    report.add("different results", len(counts) - 1, "", "must be 0: events, duplicates and value are equal")
    report.details["tallies"] = {n: str(t) for n, t in tallies.items()}
    return report


def measure(stage: Stage, settings: Settings, events: int, count: int) -> tuple[float, float, float]:
    """CPU seconds of `count` workers over the log, those of them that went into starting, and the longest time in
    which nothing was acknowledged.

    All but the last start together; the last joins when a third is done.
    """
    ports = free_ports(count)
    workers: list[Watched] = []

    def start_next() -> None:
        number = len(workers)
        own = Settings.load({"metrics_port": ports[number]}, settings.as_environment())
        workers.append(service("streams", own, stage.folder, label=f"-{settings.topic_prefix}{number}"))

    for _ in range(max(1, count - 1)):
        start_next()
    try:
        return _follow(workers, ports, events, start_next if count > 1 else None)
    finally:
        for worker in workers:
            worker.stop()


def _follow(workers: list[Watched], ports: list[int], events: int, join: object) -> tuple[float, float, float]:
    deadline = time.monotonic() + TIMEOUT_S
    best, moved_at, pause = 0.0, time.monotonic(), 0.0
    started: dict[int, float] = {}
    while time.monotonic() < deadline:
        for number, worker in enumerate(workers):
            if number not in started and ready(ports[number]):
                started[number] = worker.cpu_s
        done = sum(acknowledged(metrics(port)) for port in ports[: len(workers)])
        now = time.monotonic()
        if best:
            pause = max(pause, now - moved_at)
        if done > best:
            best, moved_at = done, now
        if callable(join) and done > events / 3:
            join()
            join = None
        if done >= events:
            used = [worker.cpu_s for worker in workers]
            return sum(used), sum(started.get(number, cpu_s) for number, cpu_s in enumerate(used)), pause
        time.sleep(0.05)
    raise RuntimeError(f"{best:.0f} of {events} after {TIMEOUT_S} s\n{workers[0].tail()}")
