"""One Faust worker with everything on, beside naive Faust, Quix Streams and bare getmany + decode, in one run.

The rate is events per second of wall clock between the first acknowledged frames and the last, over a log that is
there already. Goals: 60 times naive Faust (30 at the least), 7 times Quix (4), half of the bare read (30 %).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.report import Report
from bench.stage import (
    POLL_S,
    Stage,
    Watched,
    acknowledged,
    fill,
    kafka_stage,
    metrics,
    service,
    stored,
    total,
    watched,
)
from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from schemas.topics import Topics

EVENTS = 3_000_000
QUICK_EVENTS = 200_000
PEER_SECONDS = 15.0
TIMEOUT_S = 600.0
ATTEMPTS_MAX = 3
ROOT = Path(__file__).parents[1]


def run(*, quick: bool) -> Report:
    """Fill a topic once; every contestant reads it from the beginning."""
    report = Report("worker")
    events = QUICK_EVENTS if quick else EVENTS
    seconds = 4.0 if quick else PEER_SECONDS
    with kafka_stage() as stage:
        settings = stage.with_prefix("w.")
        duplicates = fill(settings, events)
        report.details["events"], report.details["duplicates"] = events, duplicates
        topic = Topics(settings.topic_prefix).events
        ours = measure_worker(stage, settings, events, report)
        bare = peer(stage, "bare_getmany", [settings.kafka, topic, str(settings.events_partitions), str(events)])
        data = str(stage.folder / "naive")
        naive = peer(
            stage, "naive_faust", [settings.kafka, topic, str(settings.events_partitions), str(seconds), data]
        )
        quix = peer(
            stage,
            "quix_tumbling",
            [settings.kafka, topic, str(seconds), str(ROOT / "schemas/event.avsc"), str(stage.folder / "quix")],
            python=str(bench_python()),
        )
    report.add("Headrace worker", ours, "events/s")
    report.add("naive Faust, one table counter", naive, "events/s")
    report.add("Quix Streams, decode + tumbling count", quix, "events/s")
    report.add("bare getmany + decode", bare, "events/s")
    report.add("against naive Faust", ours / naive, "×", "goal 60, at least 30")
    report.add("against Quix Streams", ours / quix, "×", "goal 7, at least 4")
    report.add("against bare getmany + decode", 100 * ours / bare, "%", "goal 50, at least 30")
    return report


def measure_worker(stage: Stage, settings: Settings, events: int, report: Report) -> float:
    """Events per second of one worker over the whole log; stages and frames go into the report."""
    (port,) = free_ports(1)
    worker = service("streams", Settings.load({"metrics_port": port}, settings.as_environment()), stage.folder)
    try:
        rate, series = wait_folded(worker, port, events)
        report.details["cpu_s"] = worker.cpu_s
        report.details["rss_bytes"] = worker.rss_bytes
    finally:
        worker.stop()
    done = acknowledged(series)
    frames = total(series, "headrace_frames_total")
    rows = total(series, "headrace_frame_rows_sum")
    report.details["frames"], report.details["stored"] = frames, stored(settings)
    report.add("rows per frame", rows / frames, "rows", f"{frames:.0f} frames")
    for key, value in sorted(series.items()):
        if key.startswith("headrace_stage_seconds_total{"):
            report.add("stage " + key.split('"')[1], value / done * 1e6, "µs/event")
    return rate


def wait_folded(worker: Watched, port: int, events: int) -> tuple[float, dict[str, float]]:
    """Events per second between the first acknowledged frames and the last, and the series at the end."""
    deadline = time.monotonic() + TIMEOUT_S
    first: tuple[float, float] | None = None
    while time.monotonic() < deadline:
        if worker.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {worker.process.returncode}\n{worker.tail()}")
        series = metrics(port)
        done, now = acknowledged(series), time.perf_counter()
        if done and first is None:
            first = (done, now)
        if first is not None and done >= events:
            return (done - first[0]) / (now - first[1]), series
        time.sleep(POLL_S)
    raise RuntimeError(f"not done after {TIMEOUT_S} s\n{worker.tail()}")


def peer(stage: Stage, name: str, arguments: list[str], *, python: str = sys.executable) -> float:
    """Events per second that a contestant reports of itself.

    Tried again when it ends without a result: Faust stops when a changelog it has just made has no leader yet.
    """
    log = stage.folder / f"{name}.log"
    command = [python, str(ROOT / f"bench/peers/{name}.py"), *arguments]
    for _ in range(ATTEMPTS_MAX):
        contestant = watched(command, log, {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""})
        try:
            contestant.process.wait(TIMEOUT_S)
        finally:
            contestant.stop()
        _, found, rest = log.read_text().partition('{"events"')  # Faust puts its own words before a printed line
        if found:
            result: dict[str, Any] = json.loads(found + rest.partition("}")[0] + "}")
            return float(result["events"]) / float(result["seconds"])
    raise RuntimeError(f"{name} gave no result\n{contestant.tail()}")


def bench_python() -> Path:
    """A Python with Quix Streams, whose pinned clients do not fit beside ours: an environment of its own."""
    python = ROOT / ".venv-bench/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True, timeout=120)
        install = [str(python), "-m", "pip", "install", "-q", "--require-hashes", "--only-binary=:all:", "--no-deps"]
        subprocess.run([*install, "-r", str(ROOT / "requirements/bench.txt")], check=True, timeout=600)
    return python
