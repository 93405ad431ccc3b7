"""A worker with a million open rows is killed: how long until another has caught up.

"Assignment to caught up" is what the worker measures itself (headrace_recovery_seconds, snapshot and frames read);
"kill to fresh answers" is wall clock from the kill to the new one's next acknowledged frame. Goals: 5 s and 15 s;
at the least 15 s and 30 s.
"""

import time

from bench.report import Report
from bench.stage import Watched, acknowledged, fill, kafka_stage, metrics, service, total
from headrace.runtime.ports import free_ports
from headrace.settings import Settings

OPEN_ROWS = 1_000_000
QUICK_OPEN_ROWS = 30_000
EVENTS_STEP = 500_000
QUICK_EVENTS_STEP = 50_000
STEPS_MAX = 20
TIMEOUT_S = 300.0


def run(*, quick: bool) -> Report:
    """Fill until enough rows are open (a long grace keeps them open), kill, start another."""
    report = Report("recovery")
    wanted, step = (QUICK_OPEN_ROWS, QUICK_EVENTS_STEP) if quick else (OPEN_ROWS, EVENTS_STEP)
    with kafka_stage() as stage:
        settings = stage.with_prefix("r.", grace_s=3600, snapshot_interval_s=20.0)
        port, second_port = free_ports(2)
        first = service("streams", Settings.load({"metrics_port": port}, settings.as_environment()), stage.folder)
        try:
            events, rows = 0, 0.0
            for number in range(STEPS_MAX):
                # fewer events a second of event time: more minutes, more rows
                fill(settings, step, seed=100 + number, rate_per_s=1000.0)
                events += step
                wait(first, port, events)
                rows = total(metrics(port), "headrace_open_rows")
                if rows >= wanted:
                    break
            time.sleep(settings.snapshot_interval_s)
            rss = first.rss_bytes
            first.kill()
            killed_at = time.perf_counter()
            fill_after = step // 10
            own = Settings.load({"metrics_port": second_port}, settings.as_environment())
            second = service("streams", own, stage.folder, label="-2")
            try:
                fill(settings, fill_after, seed=999)
                wait(second, second_port, fill_after)
                fresh_s = time.perf_counter() - killed_at
                series = metrics(second_port)
            finally:
                second.stop()
        finally:
            if first.process.poll() is None:
                first.kill()
    count = total(series, "headrace_recovery_seconds_count")
    report.add("open rows", rows, "rows", f"{rss / 1e6:.0f} MB resident")
    report.add(
        "assignment → caught up",
        total(series, "headrace_recovery_seconds_sum") / max(1, count),
        "s",
        "goal 5, at most 15",
    )
    report.add("kill → fresh answers", fresh_s, "s", "goal 15, at most 30; includes writing the next events")
    return report


def wait(worker: Watched, port: int, events: int) -> None:
    """Until so many events of this worker are acknowledged."""
    deadline = time.monotonic() + TIMEOUT_S
    while acknowledged(metrics(port)) < events:
        if worker.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"not caught up\n{worker.tail()}")
        time.sleep(0.1)
