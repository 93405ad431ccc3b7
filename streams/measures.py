"""The worker's metrics: children are made once and kept, as a label look-up costs more than a count."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from headrace import metrics
from streams.dead import DeadLetter
from streams.frames import SentFrame

Stage = Literal["wait", "decode", "fold", "encode", "acknowledge"]
STAGES: Final[tuple[Stage, ...]] = ("wait", "decode", "fold", "encode", "acknowledge")


class Measures:
    """What a worker counts. Sums by stage also serve its log lines; `events_read` tells how busy it is."""

    def __init__(self) -> None:
        self.events_read = 0
        self.stage_seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._stages = {name: metrics.counter("headrace_stage_seconds_total", name) for name in STAGES}
        self._read = metrics.counter("headrace_events_read_total")
        self._folded = metrics.counter("headrace_events_folded_total")
        self._deduplicated = metrics.counter("headrace_events_deduplicated_total")
        self._late = metrics.counter("headrace_events_late_total")
        self._frames = metrics.counter("headrace_frames_total")
        self._frame_rows = metrics.histogram("headrace_frame_rows")
        self._frame_bytes = metrics.counter("headrace_frame_bytes_total")
        self._stale = metrics.counter("headrace_records_stale_total")
        self._recovery = metrics.histogram("headrace_recovery_seconds")

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time of the block goes to the stage `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add_stage(name, time.perf_counter() - started)

    def add_stage(self, name: Stage, seconds: float) -> None:
        """Add to a stage's time."""
        self.stage_seconds[name] += seconds
        self._stages[name].inc(seconds)

    def on_events(self, count: int) -> None:
        """Events taken in (duplicates included, dead letters not)."""
        self.events_read += count
        self._read.inc(count)

    def on_frame(self, sent: SentFrame, events: int) -> None:
        """A frame is acknowledged; `events`: records in its span, dead letters included."""
        duplicates = len(sent.content.duplicates)
        self.add_stage("fold", sent.cut_s)
        self.add_stage("encode", sent.encode_s)
        self.add_stage("acknowledge", sent.acknowledge_s)
        self._folded.inc(max(0, events - sent.dead - duplicates))
        self._deduplicated.inc(duplicates)
        self._late.inc(sent.content.late)
        self._frames.inc()
        self._frame_rows.observe(sent.content.rows.num_rows)
        self._frame_bytes.inc(sent.bytes)

    def on_dead(self, letters: list[DeadLetter]) -> None:
        """Records set aside."""
        for reason, count in Counter(letter.reason for letter in letters).items():
            metrics.counter("headrace_events_dead_total", reason).inc(count)

    def on_stale(self, records: int) -> None:
        """Fetched records that were not ours to fold (any more, or again)."""
        self._stale.inc(records)

    def on_recovered(self, seconds: float) -> None:
        """A partition is restored."""
        self._recovery.observe(seconds)

    def on_lag(self, partition: int, records: int, seconds: float) -> None:
        """How far a partition is behind its log."""
        metrics.gauge("headrace_consumer_lag_records", str(partition)).set(records)
        metrics.gauge("headrace_consumer_lag_seconds", str(partition)).set(seconds)

    def on_state(self, partition: int, open_rows: int, dedupe_ids: int) -> None:
        """What a partition's fold holds in memory."""
        metrics.gauge("headrace_open_rows", str(partition)).set(open_rows)
        metrics.gauge("headrace_dedupe_ids", str(partition)).set(dedupe_ids)
