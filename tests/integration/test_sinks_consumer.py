"""The consumer loop on real Kafka, with a reader that only remembers."""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pytest

from headrace import kafka
from headrace.errors import UnavailableError
from headrace.kafka import Message
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.topics import Topics
from sinks.consumer import PAUSE_AFTER_S, ConsumerLoop, OpenReader, Place, Reader, ReopenError, Subscription
from tests.integration.conftest import MakeSettings

WAIT_S = 30.0


class Remembering:
    """A reader that keeps what it is given and pauses and fails as it is told."""

    def __init__(self, starts: Mapping[Place, int]) -> None:
        self.starts = dict(starts)
        self.seen: list[tuple[int, int]] = []
        self.pausing: set[Place] = set()
        self.ends: dict[Place, int] = {}
        self.reopen = False
        self.closed = False
        self.take_s = 0.0

    def start_offsets(self) -> Mapping[Place, int]:
        return self.starts

    def paused(self) -> Collection[Place]:
        return self.pausing

    def take(self, messages: Sequence[Message]) -> None:
        assert not any((message.topic(), message.partition()) in self.pausing for message in messages)
        self.seen += [(message.partition(), message.offset()) for message in messages]
        time.sleep(self.take_s)

    def resume_offsets(self) -> Mapping[Place, int]:
        return {}

    def see_ends(self, ends: Mapping[Place, int]) -> None:
        self.ends = dict(ends)

    def check(self) -> None:
        if self.reopen:
            raise ReopenError("told to")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings("kafka", events_partitions=2, retry_backoff_s=0.05, retry_backoff_max_s=0.2)
    create_topics(made)
    return made


@pytest.fixture
def topic(settings: Settings) -> str:
    return Topics(settings.topic_prefix).aggregates


@pytest.fixture
def run_loop(settings: Settings, topic: str) -> Iterator[Callable[[OpenReader], ConsumerLoop]]:
    stopping = threading.Event()
    threads = []

    def run(open_reader: OpenReader) -> ConsumerLoop:
        loop = ConsumerLoop(settings, Subscription((topic,), "test", (0, 1)), open_reader, stopping)
        threads.append(threading.Thread(target=loop.run))
        threads[-1].start()
        return loop

    yield run
    stopping.set()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def produce(settings: Settings, topic: str, count: int) -> None:
    producer = kafka.producer(settings)
    for number in range(count):
        for partition in (0, 1):
            producer.produce(topic, b"%d" % number, partition=partition)
    assert producer.flush(20) == 0


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_each_partition_is_read_in_order_from_where_the_reader_says(
    settings: Settings, topic: str, run_loop: Callable[[OpenReader], ConsumerLoop]
) -> None:
    produce(settings, topic, 500)
    reader = Remembering({(topic, 0): 100, (topic, 1): 0})
    run_loop(lambda _partitions: reader)

    wait_until(lambda: len(reader.seen) == 900)
    assert [offset for partition, offset in reader.seen if partition == 0] == list(range(100, 500))
    assert [offset for partition, offset in reader.seen if partition == 1] == list(range(500))
    wait_until(lambda: reader.ends == {(topic, 0): 500, (topic, 1): 500})


def test_a_sink_reads_as_fast_as_its_reader_takes(
    settings: Settings, topic: str, run_loop: Callable[[OpenReader], ConsumerLoop]
) -> None:
    """The client stops fetching when its queue is full, and by default looks again after a second: with a queue of
    2 MiB, 64 MiB took 12 s."""
    producer = kafka.producer(settings)
    for number in range(1024):
        producer.produce(topic, os.urandom(64 * 1024), partition=number % 2)
    assert producer.flush(20) == 0
    reader = Remembering({(topic, 0): 0, (topic, 1): 0})
    reader.take_s = 0.05
    started = time.monotonic()
    run_loop(lambda _partitions: reader)
    wait_until(lambda: len(reader.seen) == 1024)
    assert time.monotonic() - started < 6.0


@pytest.mark.parametrize("pausing", [{0}, {0, 1}])
def test_a_paused_partition_brings_nothing_and_loses_nothing(
    settings: Settings, topic: str, run_loop: Callable[[OpenReader], ConsumerLoop], pausing: set[int]
) -> None:
    reader = Remembering({(topic, 0): 0, (topic, 1): 0})
    reader.pausing = {(topic, partition) for partition in pausing}
    produce(settings, topic, 300)
    run_loop(lambda _partitions: reader)
    time.sleep(PAUSE_AFTER_S * 2)
    assert {partition for partition, _ in reader.seen} == {0, 1} - pausing

    reader.pausing = set()
    wait_until(lambda: len(reader.seen) == 600)
    assert [offset for partition, offset in reader.seen if partition == 0] == list(range(300))


def test_what_is_away_at_the_start_is_waited_for(
    settings: Settings, topic: str, run_loop: Callable[[OpenReader], ConsumerLoop]
) -> None:
    reader = Remembering({(topic, 0): 0, (topic, 1): 0})
    tries: list[int] = []

    def open_reader(_partitions: Sequence[int]) -> Reader:
        tries.append(1)
        if len(tries) < 4:
            raise UnavailableError("the store is away")
        return reader

    loop = run_loop(open_reader)
    produce(settings, topic, 10)
    wait_until(lambda: len(reader.seen) == 20)
    assert loop.ready
    assert len(tries) == 4


def test_a_reader_that_asks_for_it_is_opened_anew(
    settings: Settings, topic: str, run_loop: Callable[[OpenReader], ConsumerLoop]
) -> None:
    produce(settings, topic, 10)
    readers: list[Remembering] = []

    def open_reader(partitions: Sequence[int]) -> Reader:
        readers.append(Remembering({(topic, partition): 0 for partition in partitions}))
        return readers[-1]

    run_loop(open_reader)
    wait_until(lambda: bool(readers) and len(readers[0].seen) == 20)
    readers[0].reopen = True
    wait_until(lambda: len(readers) == 2 and len(readers[1].seen) == 20)
    assert readers[0].closed
    assert not readers[1].closed
