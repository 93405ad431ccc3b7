"""What the tests of the stream workers share: seeded events, worker processes, and the reader that judges.

The judge reads `events` as Kafka holds it, folds it with the plain reference, record by record, and compares every
row, duplicate and count with what a reader of `aggregates` gets by the accept rule.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace import kafka
from headrace.errors import PoisonError, UnavailableError
from headrace.settings import Settings
from schemas.accept import AcceptRule, Outcome
from schemas.codec import decode_events, encode_events, event_arrow
from schemas.event import record_key
from schemas.frame import decode_chunk
from schemas.topics import Topics
from streams.worker import rules_of
from tests.reference_fold import Key, ReferenceFold, ReferenceRules, is_fit

PROGRAM = """
import sys
from headrace.settings import Settings
from streams.worker import run
sys.exit(run(Settings.load()))
"""
WAIT_S = 90.0
US = 1_000_000

Value = tuple[int, bytes, int, int, bytes, bool]


def some_events(seed: int, count: int, *, customers: int = 40, span_s: int = 7200) -> list[dict[str, Any]]:
    """Events of the last `span_s` seconds up to now, mostly in order: a tenth come twice, some late, some early."""
    rng = random.Random(seed)
    now_us = time.time_ns() // 1000
    out: list[dict[str, Any]] = []
    for i in range(count):
        if out and rng.random() < 0.1:
            out.append(rng.choice(out[-2000:]))
            continue
        age_us = (count - i) * span_s * US // count
        wobble = rng.choice([0, 0, 0, 30, 200, 4000, -400, 3 * 86_400]) if rng.random() < 0.3 else 0
        out.append(
            an_event(rng, f"m{seed}-{i}", 1 + int(rng.paretovariate(1.2)) % customers, now_us - age_us - wobble * US)
        )
    return out


def an_event(rng: random.Random, message_id: str, customer_id: int, timestamp_us: int) -> dict[str, Any]:
    user = rng.randrange(5000)
    return {
        "customer_id": customer_id,
        "message_id": message_id,
        "type": "track",
        "name": f"event {rng.randrange(12)}",
        "user_id": f"user-{user}" if user % 3 else None,
        "anonymous_id": f"anonymous-{user}" if user % 5 else None,
        "group_id": None,
        "previous_id": None,
        "session_id": None,
        "timestamp_us": timestamp_us,
        "received_at_us": timestamp_us + 1000,
        "original_timestamp_us": None,
        "sent_at_us": None,
        "path": f"/page/{rng.randrange(60)}" if user % 2 else None,
        "referrer_domain": rng.choice([None, "example.org", "example.com"]),
        "utm_source": rng.choice([None, "newsletter"]),
        "utm_medium": None,
        "utm_campaign": None,
        "country": rng.choice(["DE", "FR", "SE", None]),
        "browser": rng.choice(["Firefox", "Chrome"]),
        "os": "Linux",
        "device": rng.choice(["desktop", "phone"]),
        "value_e6": rng.randrange(-5, 100) * 1_000_000 if user % 4 == 0 else None,
        "currency": None,
        "properties": "{}",
        "context": "{}",
        "protocol": "test",
        "library": "test",
        "attempt": 0,
    }


def encode(events: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return encode_events(pa.RecordBatch.from_pylist(list(events), schema=event_arrow()))


class Sender:
    """Writes to `events` as a gateway does."""

    def __init__(self, settings: Settings) -> None:
        self.topic = Topics(settings.topic_prefix).events
        self._producer = kafka.producer(settings)

    def events(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event, value in zip(events, encode(events), strict=True):
            self.raw(record_key(event["customer_id"]), value)
        self.flush()

    def raw(self, key: bytes, value: bytes | None, partition: int | None = None) -> None:
        where = {} if partition is None else {"partition": partition}
        self._producer.produce(self.topic, value, key, on_delivery=_must_arrive, **where)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


def _must_arrive(error: object, _message: object) -> None:
    assert error is None, error


@dataclass
class WorkerProcess:
    """A worker of the test's own."""

    settings: Settings
    log_file: Path
    prelude: str = ""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        environment = {**os.environ, **self.settings.as_environment(), "POLARS_MAX_THREADS": "1"}
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.prelude + PROGRAM],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def exit_code(self, timeout_s: float = 60) -> int:
        return self.process.wait(timeout_s)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_log(self, text: str, timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log:
            assert self.process.poll() is None, (
                f"the worker ended with {self.process.returncode}:\n{self.log[-4000:]}"
            )
            assert time.monotonic() < deadline, f"no {text!r} in {timeout_s} s:\n{self.log[-4000:]}"
            time.sleep(0.1)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.thaw()
            self.kill()


@dataclass
class View:
    """What a reader of one partition's frames has."""

    rule: AcceptRule
    rows: dict[Key, Value] = field(default_factory=dict)
    duplicates: list[int] = field(default_factory=list)
    late: int = 0
    dead: int = 0
    frames: int = 0
    skipped: int = 0
    gaps: int = 0
    overlaps: int = 0
    writers: set[str] = field(default_factory=set)


class Judge:
    """Compares the aggregates with the reference."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topics = Topics(settings.topic_prefix)
        self.partitions = list(range(settings.events_partitions))
        self.views = {p: View(AcceptRule()) for p in self.partitions}

    def caught_up(self) -> bool:
        """Read on in the aggregates; True when they cover all events."""
        try:
            ends = {p: true_end(self.settings, self.topics.events, p) for p in self.partitions}
            self.read()
        except UnavailableError:  # leaders are being elected
            return False
        return all(self.views[p].rule.position >= ends[p] for p in self.partitions)

    def wait(self, timeout_s: float = WAIT_S, workers: Sequence[WorkerProcess] = ()) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.caught_up():
            logs = "\n".join(w.log[-3000:] for w in workers)
            ended = [w.process.poll() for w in workers if w.process.poll() is not None]
            assert not ended, f"workers ended with {ended}\n{logs}"
            assert time.monotonic() < deadline, f"not caught up: {self.positions()}\n{logs}"
            time.sleep(0.2)

    def positions(self) -> dict[int, int]:
        return {p: view.rule.position for p, view in self.views.items()}

    def read(self) -> None:
        """Take in what is new in the aggregates."""
        for partition, view in self.views.items():
            for message in read_span(self.settings, self.topics.aggregates, partition, view.rule.next_offset):
                _take(view, message)

    def assert_exact(self) -> None:
        """Every row, duplicate and late event of every partition is that of the reference."""
        for partition in self.partitions:
            view, reference = self.views[partition], self.reference(partition)
            assert view.gaps == 0, f"partition {partition}: {view.gaps} gaps"
            expected = reference.table()
            assert view.rows.keys() == expected.keys(), f"partition {partition}: other keys"
            wrong = {k: (view.rows[k], expected[k]) for k in expected if view.rows[k] != expected[k]}
            assert not wrong, (
                f"partition {partition}: {len(wrong)} of {len(expected)} rows differ: {list(wrong.items())[:2]}"
            )
            assert view.duplicates == reference.duplicates, f"partition {partition}: other duplicates"
            late = f"partition {partition}: {view.late} late, expected {reference.late}"
            assert view.late >= reference.late if view.overlaps else view.late == reference.late, late

    def reference(self, partition: int) -> ReferenceFold:
        """The reference's fold of this partition of the log, as Kafka holds it."""
        settings, rules = self.settings, rules_of(self.settings)
        fold = ReferenceFold(
            ReferenceRules(**{name: getattr(rules, name) for name in rules.__slots__ if name != "partitions"})
        )
        begin, _ = kafka.watermarks(settings, self.topics.events, [partition])[partition]
        end = true_end(settings, self.topics.events, partition)
        messages = list(read_span(settings, self.topics.events, partition, begin))
        decoded = decode_events([message.value() for message in messages])
        ours = [
            (row, messages[int(i)])
            for row, i in zip(decoded.events.to_pylist(), decoded.index, strict=True)
            if kafka.partition_for(record_key(row["customer_id"]), settings.events_partitions) == partition
            and is_fit(row)
        ]
        for row, message in ours:
            kind, stamp = message.timestamp()
            receive_us = stamp * 1000 if kind == kafka.TIMESTAMP_LOG_APPEND_TIME else row["received_at_us"]
            fold.record(row, message.offset(), receive_us)
        fold.advance(end)
        return fold


def true_end(settings: Settings, topic: str, partition: int) -> int:
    """The log's end as a fetch sees it: Tansu's answer to a direct question is short."""
    _, known = kafka.watermarks(settings, topic, [partition])[partition]
    consumer = kafka.consumer(settings, "judge", enable_partition_eof=True)
    try:
        consumer.assign([kafka.TopicPartition(topic, partition, known)])
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline, f"no end of {topic} {partition}"
            message = consumer.poll(0.5)
            if message is not None and message.error() is not None:
                assert message.error().code() == kafka.KafkaError._PARTITION_EOF, message.error()
                return int(message.offset())
    finally:
        consumer.close()


def read_span(
    settings: Settings, topic: str, partition: int, start: int, end: int = 2**62
) -> Iterator[kafka.Message]:
    """Records with offsets in [start, end), or to the log's end."""
    consumer = kafka.consumer(settings, "judge", enable_partition_eof=True)
    try:
        consumer.assign([kafka.TopicPartition(topic, partition, start)])
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, f"{topic} {partition} [{start}, {end}) could not be read in 60 s"
            for message in consumer.consume(10_000, 0.05):
                if message.error() is not None:
                    assert message.error().code() == kafka.KafkaError._PARTITION_EOF, message.error()
                    return
                if message.offset() >= end:
                    return
                yield message
                if message.offset() == end - 1:
                    return
    finally:
        consumer.close()


def _take(view: View, message: kafka.Message) -> None:
    try:
        chunk = decode_chunk(message.value())
    except PoisonError:
        view.rule.next_offset = message.offset() + 1
        return
    view.writers.add(chunk.header.writer)
    position = view.rule.position
    outcome, frame = view.rule.feed(message.offset(), chunk)
    view.skipped += outcome is Outcome.STALE
    view.gaps += outcome is Outcome.GAP
    if frame is None:
        return
    view.frames += 1
    for row in frame.rows().to_pylist():
        key = Key(*(row[name] for name in Key._fields))
        view.rows[key] = (
            row["events"],
            row["users"],
            row["value_e6"],
            row["values"],
            row["value_hist"],
            row["open"],
        )
    view.late += frame.header.late
    view.dead += frame.header.dead
    view.overlaps += frame.header.from_offset < position
    view.duplicates += [int(offset) for offset in frame.duplicates if offset >= position]
