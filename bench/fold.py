"""How fast one thread folds: apply, cut, acknowledge, on events that are decoded already. Processor time counts: the
clock also measures whoever else runs.

    python -m bench fold                                    all cases
    python -m bench.fold --partitions 24 --frame 2000       one of your own

Workload: 200 customers, 50 names, 500 paths, 30 countries, 20 referrers × 5 sources, 60 device tuples, all Zipf 1.1;
100,000 users; one event in four has a value; 10 % second arrivals, 2 % late (up to an hour). `--rate` is events per
second of event time and partition: it decides how many events share a minute's rows. Encoding frames for Kafka and
decoding events are not in it.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.report import Report
from streams.fold import EventBatch, FoldRules, FrameContent, PartitionFold

START_US: Final = 1_700_000_000_000_000
BATCH_EVENTS: Final = 20_000
"""A fetch."""
RATE: Final = 1_000.0
GOAL_EVENTS_S: Final = 250_000
Strings = npt.NDArray[np.str_]


class Workload:
    """Batches of one partition's log."""

    def __init__(self, seed: int, rate: float) -> None:
        self._rng = np.random.default_rng(seed)
        self._rate = rate
        self._offset = 0
        self._clock_us = float(START_US)
        self._recent: Strings = np.array(["first"])

    def batch(self, events: int) -> EventBatch:
        rng = self._rng
        self._clock_us += 1e6 * events / self._rate
        receive_us = np.sort(self._clock_us - rng.random(events) * 1e6 * events / self._rate).astype(np.int64)
        age_us = np.where(rng.random(events) < 0.02, rng.random(events) * 3.6e9, rng.exponential(1e6, events))
        device = self._zipf(60, events)
        columns = {
            "customer_id": pa.array(1000 + self._zipf(200, events)),
            "message_id": pa.array(self._message_ids(events)),
            "user_id": self._texts("user-{:06d}", rng.integers(0, 100_000, events)),
            "anonymous_id": pa.nulls(events, pa.string()),
            "timestamp_us": pa.array(receive_us - age_us.astype(np.int64)),
            "value_e6": pa.array(rng.integers(0, 10**8, events), mask=rng.random(events) > 0.25),
            "name": self._texts("Event {}", self._zipf(50, events)),
            "path": self._texts("/section/{}/page", self._zipf(500, events)),
            "referrer_domain": self._texts("www.site-{}.example", self._zipf(20, events)),
            "utm_source": self._texts("source-{}", self._zipf(5, events)),
            "country": self._texts("C{}", self._zipf(30, events)),
            "device": self._texts("device-{}", device % 3),
            "browser": self._texts("browser-{}", device // 3 % 5),
            "os": self._texts("os-{}", device // 15),
        }
        offsets = np.arange(self._offset, self._offset + events)
        self._offset += events
        batch = pa.RecordBatch.from_pydict(columns)
        return EventBatch(batch, offsets, receive_us, self._offset, 0)

    def _message_ids(self, events: int) -> Strings:
        """36 characters, as most SDKs send; one in ten repeats one of the last 100,000."""
        words = self._rng.integers(0, 2**63, events).astype(np.uint64)
        fresh = np.array([f"{w:016x}-1234-4abc-8def-{w & 0xFFF:03x}"[:36].ljust(36, "0") for w in words.tolist()])
        again = self._rng.random(events) < 0.1
        fresh[again] = self._rng.choice(self._recent, int(again.sum()))
        self._recent = np.concatenate([self._recent, fresh])[-100_000:]
        return fresh

    def _zipf(self, size: int, events: int) -> npt.NDArray[np.int64]:
        weights = 1 / np.arange(1, size + 1) ** 1.1
        return self._rng.choice(size, events, p=weights / weights.sum())

    @staticmethod
    def _texts(pattern: str, codes: npt.NDArray[np.int64]) -> pa.Array:
        texts = pa.array([pattern.format(i) for i in range(int(codes.max()) + 1)])
        return texts.take(pa.array(codes))


@dataclass(frozen=True, slots=True)
class Case:
    """So many events over so many partitions, in frames of `frame` events; `rate` as above."""

    partitions: int
    frame: int
    events: int
    rate: float = RATE

    @property
    def name(self) -> str:
        return f"{self.partitions} × frames of {self.frame:,}"


CASES: Final = (
    Case(1, 40_000, 1_000_000),
    Case(1, 100_000, 1_000_000),
    Case(24, 2_000, 480_000),
    Case(24, 300, 216_000),
)


def run(*, quick: bool) -> Report:
    """All cases, then taking over a partition from its frames and from a snapshot."""
    report = Report("fold")
    for case in CASES:
        _measure(report, Case(case.partitions, case.frame, case.events // 10 if quick else case.events))
    _recover(report, 200_000 if quick else 1_000_000)
    return report


def _measure(report: Report, case: Case) -> None:
    loads = [Workload(seed, case.rate) for seed in range(case.partitions)]
    folds = [PartitionFold(FoldRules(), p) for p in range(case.partitions)]
    rows, pauses, processor = 0, [], 0.0
    for _ in range(max(1, case.events // (case.frame * case.partitions))):
        for load, fold in zip(loads, folds, strict=True):
            batches = list(_batches(load, case.frame))
            began, began_cpu = time.perf_counter(), time.thread_time()
            for batch in batches:
                fold.apply(batch)
            content = fold.cut()
            fold.acknowledge()
            pauses.append(time.perf_counter() - began)
            processor += time.thread_time() - began_cpu
            rows += content.rows.num_rows if content else 0
    events = sum(f.stats.events for f in folds)
    goal = f"goal {GOAL_EVENTS_S:,}" if case.partitions == 1 else ""
    report.add(case.name, events / processor, "events/s of processor", goal)
    report.add("", events / sum(pauses), "events/s by the clock", f"longest frame {max(pauses) * 1e3:.0f} ms")
    report.add("", rows / events, "changed rows/event", _held(folds))
    stages: dict[str, float] = {}
    for fold in folds:
        for stage, seconds in fold.stats.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    for stage, seconds in stages.items():
        report.add(f"  {stage}", seconds / events * 1e6, "µs/event")


def _held(folds: list[PartitionFold]) -> str:
    stats = [f.stats for f in folds]
    rows, ids = sum(s.open_rows for s in stats), sum(s.dedupe_ids for s in stats)
    return f"held {rows:,} open rows, {ids:,} ids, {sum(s.bytes for s in stats) / 1e6:.0f} MB"


def _recover(report: Report, events: int) -> None:
    load, fold = Workload(0, RATE), PartitionFold(FoldRules(), 0)
    frames: list[FrameContent] = []
    while fold.position < events:
        for batch in _batches(load, 40_000):
            fold.apply(batch)
        content = fold.cut()
        assert content is not None
        frames.append(content)
        fold.acknowledge()
    began = time.thread_time()
    successor = PartitionFold(FoldRules(), 0)
    for frame in frames:
        successor.merge(frame)
    rows, seconds = sum(f.rows.num_rows for f in frames), time.thread_time() - began
    assert successor.stats.open_rows == fold.stats.open_rows
    report.add("merge frames", rows / seconds, "rows/s", f"{len(frames)} frames of 40,000 events")
    began = time.thread_time()
    snapshot = fold.snapshot()
    taken = time.thread_time()
    sections = snapshot.sections()
    encoded = time.thread_time()
    PartitionFold.restore(fold.rules, 0, sections)
    size = sum(map(len, sections)) / 1e6
    report.add("take a snapshot", taken - began, "s", f"{fold.stats.open_rows:,} rows; the fold stands still")
    report.add("encode it", encoded - taken, "s", f"{size:.0f} MB; beside the fold")
    report.add("restore it", time.thread_time() - encoded, "s")


def _batches(load: Workload, frame: int) -> Iterator[EventBatch]:
    for start in range(0, frame, BATCH_EVENTS):
        yield load.batch(min(BATCH_EVENTS, frame - start))


def main() -> None:
    """One case of one's own."""
    parser = argparse.ArgumentParser(description="Speed of the fold, one thread")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--frame", type=int, default=40_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=RATE)
    args = parser.parse_args()
    report = Report("fold_case")
    _measure(report, Case(args.partitions, args.frame, args.events, args.rate))
    report.publish()


if __name__ == "__main__":
    main()
