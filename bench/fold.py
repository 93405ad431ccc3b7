"""How fast one thread folds: apply, cut, acknowledge, on events that are decoded already. Processor time counts: the
clock also measures whoever else runs.

    python -m bench.fold                       one partition, frames of 40,000 and 100,000 events
    python -m bench.fold --partitions 24 --frame 2000

Workload: 200 customers, 50 names, 500 paths, 30 countries, 20 referrers × 5 sources, 60 device tuples, all Zipf 1.1;
100,000 users; one event in four has a value; 10 % second arrivals, 2 % late (up to an hour). `--rate` is events per
second of event time and partition: it decides how many events share a minute's rows. Encoding frames for Kafka and
decoding events are not in it.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.fold import EventBatch, FoldRules, PartitionFold

START_US = 1_700_000_000_000_000
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


def run(partitions: int, frame: int, batch: int, events: int, rate: float) -> None:
    """Fold `events` in all and print where the time went."""
    loads = [Workload(seed, rate) for seed in range(partitions)]
    folds = [PartitionFold(FoldRules(), p) for p in range(partitions)]
    rows, pauses = 0, []
    total = processor = 0.0
    for _ in range(max(1, events // (frame * partitions))):
        for load, fold in zip(loads, folds, strict=True):
            batches = list(_batches(load, frame, batch))
            began, began_cpu = time.perf_counter(), time.thread_time()
            for one in batches:
                fold.apply(one)
            content = fold.cut()
            fold.acknowledge()
            pauses.append(time.perf_counter() - began)
            total += pauses[-1]
            processor += time.thread_time() - began_cpu
            rows += content.rows.num_rows if content else 0
    folded = sum(f.stats.events for f in folds)
    print(
        f"{partitions} partition(s), frames of {frame}, {rate:.0f} events/s of event time: "
        f"{folded / processor / 1e3:.0f} k events/s of processor time, {folded / total / 1e3:.0f} k/s by the clock, "
        f"{rows / folded:.2f} rows/event, "
        f"longest frame {max(pauses) * 1e3:.0f} ms (median {np.median(pauses) * 1e3:.0f})"
    )
    stages: dict[str, float] = {}
    for fold in folds:
        for stage, seconds in fold.stats.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    print("  µs/event:", "  ".join(f"{stage} {seconds / folded * 1e6:.2f}" for stage, seconds in stages.items()))
    stats = [f.stats for f in folds]
    print(
        f"  held: {sum(s.open_rows for s in stats)} open rows, {sum(s.dedupe_ids for s in stats)} ids,"
        f" {sum(s.bytes for s in stats) / 1e6:.0f} MB"
    )


def _batches(load: Workload, frame: int, batch: int) -> Iterator[EventBatch]:
    for start in range(0, frame, batch):
        yield load.batch(min(batch, frame - start))


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the fold, one thread")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--frame", type=int, nargs="+", default=[40_000, 100_000])
    parser.add_argument("--batch", type=int, default=20_000, help="events a batch (a fetch)")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=1000.0)
    args = parser.parse_args()
    for frame in args.frame:
        run(args.partitions, frame, min(args.batch, frame), args.events, args.rate)


if __name__ == "__main__":
    main()
