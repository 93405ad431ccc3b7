"""A worker's memory under a steady load with open rows constant: minute 10 against minute 3, and per million.

Goal: at most 1.1 times.
"""

import statistics
import time

from bench.report import Report
from bench.stage import fill, kafka_stage, metrics, service, total
from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from producers.generator.workload import WorkloadRules

MINUTES = (3.0, 10.0)
QUICK_MINUTES = (0.2, 0.5)
RATE_PER_S = 2_500
MEDIAN_S = 60.0
CUSTOMER_IDS = range(1, 13)
RULES = WorkloadRules(names=10, paths=20, countries=5, referrers=4, sources=2, devices=6, late_share=0.0, users=100)
"""Few tuples and few users: all hour and day rows are there within two minutes and their sketches are full, so that
what the worker has to remember stays the same, but for the ids."""


def run(*, quick: bool) -> Report:
    """Write a second's events every second; look at the resident memory twice."""
    report = Report("memory")
    early_min, late_min = QUICK_MINUTES if quick else MINUTES
    with kafka_stage() as stage:
        settings = stage.with_prefix("m.", grace_s=60)
        (port,) = free_ports(1)
        worker = service("streams", Settings.load({"metrics_port": port}, settings.as_environment()), stage.folder)
        try:
            resident: list[tuple[float, int]] = []
            levels: dict[float, tuple[float, float]] = {}
            started, second = time.monotonic(), 0
            while len(levels) < 2:
                # a fresh seed each second: new message ids, the same shape
                fill(
                    settings,
                    RATE_PER_S,
                    seed=1000 + second,
                    rate_per_s=float(RATE_PER_S),
                    customer_ids=CUSTOMER_IDS,
                    rules=RULES,
                )
                second += 1
                time.sleep(max(0.0, started + second - time.monotonic()))
                resident.append((time.monotonic() - started, worker.rss_bytes))
                for minute in (early_min, late_min):
                    if minute not in levels and time.monotonic() - started >= minute * 60:
                        series = metrics(port)
                        levels[minute] = total(series, "headrace_open_rows"), total(series, "headrace_dedupe_ids")
        finally:
            worker.stop()
    early, late = (typical(resident, minute * 60) for minute in (early_min, late_min))
    (early_rows, early_ids), (late_rows, late_ids) = levels[early_min], levels[late_min]
    report.details["resident"] = resident
    report.add(
        f"resident at minute {early_min:g}", early / 1e6, "MB", f"{early_rows:,.0f} rows, {early_ids:,.0f} ids"
    )
    report.add(f"resident at minute {late_min:g}", late / 1e6, "MB", f"{late_rows:,.0f} rows, {late_ids:,.0f} ids")
    report.add("ratio", late / early, "×", "goal: at most 1.1")
    # 8 bytes and an hour's byte an id, and the table that finds it (streams/fold/dedupe.py)
    report.add("ratio without the ids' 10 bytes each", (late - 10 * (late_ids - early_ids)) / early, "×")
    return report


def typical(resident: list[tuple[float, int]], until_s: float) -> float:
    """The median of the last MEDIAN_S seconds up to then: a snapshot or a merge under way holds more for a moment."""
    return statistics.median(rss for at, rss in resident if until_s - MEDIAN_S <= at <= until_s)
