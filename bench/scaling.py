"""One, two and four workers over the same events: CPU per event, the pause when one joins, equal counts.

What a worker uses to start (Python, imports, joining) is measured beside it, on a topic without events, and taken
off: it is paid once, not per event. Goals: CPU per event within 1.1 times that of one worker (1.2 at the least), a
join pauses for at most 3 s (10).
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
        start_up = measure_start(stage)
        report.add("CPU to start a worker", start_up, "s", "taken off below, once a worker")
        for workers in (1, 2, 4):
            settings = stage.with_prefix(f"s{workers}.")
            fill(settings, events)
            used, pause = measure(stage, settings, events, workers)
            whole[workers] = used / events * 1e6
            cpu[workers], tallies[workers] = whole[workers] - workers * start_up / events * 1e6, tally(settings)
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


def measure_start(stage: Stage) -> float:
    """CPU seconds of a worker from its start until it holds all partitions of an empty topic."""
    settings = stage.with_prefix("s0.")
    (port,) = free_ports(1)
    worker = service("streams", Settings.load({"metrics_port": port}, settings.as_environment()), stage.folder)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while not ready(port):
            if worker.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not get ready\n{worker.tail()}")
            time.sleep(0.02)
        return worker.cpu_s
    finally:
        worker.stop()


def measure(stage: Stage, settings: Settings, events: int, count: int) -> tuple[float, float]:
    """CPU seconds of `count` workers over the log, and the longest time in which nothing was acknowledged.

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


def _follow(workers: list[Watched], ports: list[int], events: int, join: object) -> tuple[float, float]:
    deadline = time.monotonic() + TIMEOUT_S
    best, moved_at, pause = 0.0, time.monotonic(), 0.0
    while time.monotonic() < deadline:
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
            return sum(worker.cpu_s for worker in workers), pause
        time.sleep(0.05)
    raise RuntimeError(f"{best:.0f} of {events} after {TIMEOUT_S} s\n{workers[0].tail()}")
