"""What the stream worker sets aside, what it reads over, and where it refuses to go on."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ResourceType

from headrace import kafka
from headrace.clock import SystemClock
from headrace.errors import GapError, IncarnationError
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.event import record_key
from schemas.topics import FRAME_BYTES_MAX, Topics, definitions
from streams.assignment import Assignment
from streams.dead import HEADER_OFFSET, HEADER_PARTITION, HEADER_REASON, HEADER_TOPIC
from streams.flusher import TICK_S, Flusher
from streams.fold import PartitionFold
from streams.folder import BEHIND_MAX, Folder
from streams.frames import FrameContext, FrameWriter
from streams.held import Held
from streams.intake import Decoder
from streams.measures import Measures
from streams.outbox import OutgoingRecord
from streams.position import SourceLog, SourcePosition
from streams.snapshotter import Snapshotter
from streams.waiting import fold_waiting
from streams.watchdog import Watchdog
from streams.worker import rules_of
from tests.integration.conftest import MakeSettings
from tests.integration.streams_world import Judge, Sender, WorkerProcess, an_event, encode, read_span, some_events
from tests.unit.test_streams_intake import Fetched

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings("kafka", metrics_port=0)
    create_topics(made)
    return made


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[WorkerProcess] = []

    def start(own: Settings = settings) -> WorkerProcess:
        started.append(WorkerProcess(own, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield start
    for worker in started:
        worker.clean_up()


def test_poison_is_set_aside_with_its_place(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    good = encode([an_event(random.Random(1), "lost", 7, time.time_ns() // 1000)])[0]
    own = kafka.partition_for(b"7", settings.events_partitions)
    unfit = an_event(random.Random(2), "unfit", 7, time.time_ns() // 1000) | {"path": "/a\x00"}
    poison: dict[str, tuple[bytes | None, int]] = {
        "out_of_bounds": (encode([unfit])[0], own),
        "not_avro": (b"\x00\x00\x00\x00\x01\xff\xff\xff", own),
        "unknown_schema_id": (b"\x00\x00\x00\x27\x0f" + good[5:], own),
        "trailing_bytes": (good + b"\x00", own),
        "wrong_partition": (good, (own + 1) % settings.events_partitions),
    }
    sender.events(some_events(6, 500))
    for value, partition in poison.values():
        sender.raw(b"7", value, partition)
    sender.raw(b"7", None, own)
    sender.events(some_events(7, 500))
    worker = start_worker()
    judge.wait(workers=[worker])
    judge.assert_exact()
    assert sum(view.dead for view in judge.views.values()) == len(poison) + 1
    letters = dead_letters(settings)
    assert {(letter["reason"], letter["value"]) for letter in letters} == {
        *((reason, value) for reason, (value, _) in poison.items()),
        ("not_avro", None),
    }
    for letter in letters:
        assert letter["key"] == b"7"
        assert letter["topic"] == Topics(settings.topic_prefix).events
        source = next(
            read_span(settings, letter["topic"], letter["partition"], letter["offset"], letter["offset"] + 1)
        )
        assert source.value() == letter["value"]
    assert worker.stop() == 0


def test_a_partition_of_nothing_but_poison_moves_on(settings: Settings, start_worker: StartWorker) -> None:
    sender, judge = Sender(settings), Judge(settings)
    for _ in range(200):
        sender.raw(b"1", b"junk", 0)
    sender.flush()
    worker = start_worker()
    judge.wait(workers=[worker])
    judge.assert_exact()
    assert judge.views[0].dead == 200
    assert worker.stop() == 0


def test_offsets_that_kafka_skips_are_no_gap(settings: Settings, start_worker: StartWorker) -> None:
    """Transaction markers take offsets that no consumer ever sees."""
    topic = Topics(settings.topic_prefix).events
    judge = Judge(settings)
    worker = start_worker()
    worker.wait_log("partitions_assigned")
    producer = kafka.producer(settings, transactional_id=settings.topic_prefix + "holes")
    producer.init_transactions(20)
    for part in range(4):
        events = some_events(10 + part, 200)
        producer.begin_transaction()
        for event, value in zip(events, encode(events), strict=True):
            producer.produce(topic, value, record_key(event["customer_id"]))
        producer.commit_transaction(20)
        time.sleep(0.7)
    Sender(settings).events(some_events(20, 200))
    judge.wait(workers=[worker])
    judge.assert_exact()
    assert "hole_in_log" in worker.log
    assert worker.stop() == 0


def test_a_worker_goes_on_behind_an_aborted_transaction(settings: Settings, start_worker: StartWorker) -> None:
    """The log is what has offsets: what was folded is found again, whatever became of its transaction."""
    topic = Topics(settings.topic_prefix).events
    judge = Judge(settings)
    worker = start_worker()
    worker.wait_log("partitions_assigned")
    producer = kafka.producer(settings, transactional_id=settings.topic_prefix + "abort")
    producer.init_transactions(20)
    producer.begin_transaction()
    for event, value in zip(events := some_events(15, 300), encode(events), strict=True):
        producer.produce(topic, value, record_key(event["customer_id"]))
    assert producer.flush(20) == 0
    judge.wait(workers=[worker])
    producer.abort_transaction(20)
    assert worker.stop() == 0
    again = start_worker()
    again.wait_log("partitions_assigned")
    Sender(settings).events(some_events(16, 200))
    judge.wait(workers=[again])
    judge.assert_exact()
    assert again.stop() == 0


@pytest.mark.parametrize("believed", [2, 8])
def test_another_count_of_partitions_than_the_topics_is_refused(
    settings: Settings, start_worker: StartWorker, believed: int
) -> None:
    Sender(settings).events(some_events(17, 200))
    worker = start_worker(replace(settings, events_partitions=believed))
    assert worker.exit_code() == 70
    assert f"has 4 partitions, but events_partitions is {believed}" in worker.log
    judge = Judge(settings)
    judge.read()
    assert not any(view.frames for view in judge.views.values()), "a frame was written"


def test_frames_of_another_fold_version_are_refused(settings: Settings, start_worker: StartWorker) -> None:
    fold_and_stop(settings, start_worker)
    other = start_worker(replace(settings, grace_s=settings.grace_s + 60))
    assert other.exit_code() == 70
    assert "fold version" in other.log


def test_another_topic_under_the_same_name_is_refused(settings: Settings, start_worker: StartWorker) -> None:
    fold_and_stop(settings, start_worker)
    replace_topic(settings)
    Sender(settings).events(some_events(31, 2_000))
    worker = start_worker()
    assert worker.exit_code() == 70
    assert "were folded from topic id" in worker.log


@pytest.mark.parametrize(("topic_id", "refused"), [(None, False), ("of-the-log-before", True)])
def test_a_log_that_is_replaced_is_noticed_without_a_rebalance(
    settings: Settings, topic_id: str | None, refused: bool
) -> None:
    topic = Topics(settings.topic_prefix).events
    source = SourceLog(topic, topic_id or kafka.topic_id(settings, topic), 0, 0, 0)
    sender = Sender(settings)
    sender.raw(b"7", b"junk", 0)
    sender.flush()
    ended: list[BaseException] = []

    async def scenario() -> int:
        rules, measures, watchdog = rules_of(settings), Measures(), Watchdog(ended.append)
        assignment = Assignment(settings, rules, measures, watchdog)
        held = assignment.held[0] = held_from_nothing(settings, source)
        snapshotter = Snapshotter(settings, assignment, measures)

        def stop(error: BaseException) -> None:
            ended.append(error)

        flusher = Flusher(settings, assignment, snapshotter, measures, watchdog, SystemClock(), stop)  # type: ignore[arg-type]
        deadline = time.monotonic() + 20
        while not ended and not held.end_offset and time.monotonic() < deadline:
            flusher.tick()
            await asyncio.sleep(TICK_S)
        return held.end_offset

    end_offset = asyncio.run(scenario())
    assert [type(error) for error in ended] == ([IncarnationError] if refused else [])
    assert refused or end_offset == 1, "the end is learned beside the fetching"


class NothingSent:
    """The outbox of a writer that has nothing to write."""

    async def send(self, records: Sequence[OutgoingRecord]) -> list[int]:
        raise AssertionError(records)


def held_from_nothing(settings: Settings, source: SourceLog) -> Held:
    """A partition as just assigned and never folded."""
    rules = rules_of(settings)
    fold = PartitionFold(rules, source.partition)
    context = FrameContext(topics=Topics(), topic_id=source.topic_id, fold_version=rules.version)
    writer = FrameWriter(fold, source.partition, context, NothingSent(), 0, 0, 0, time.monotonic)
    decoder = Decoder(source.partition, settings.events_partitions)
    return Held(fold, source, SourcePosition(0), decoder, writer, (), float("inf"))


def test_fetches_from_another_log_are_noticed_by_its_last_record(settings: Settings) -> None:
    topic = Topics(settings.topic_prefix).events
    values = encode([an_event(random.Random(5), f"m{i}", 7, time.time_ns() // 1000) for i in range(6)])
    own = kafka.partition_for(b"7", settings.events_partitions)
    sender = Sender(settings)
    for value in values:
        sender.raw(b"7", value)
    sender.flush()
    source = SourceLog(topic, kafka.topic_id(settings, topic), own, 0, len(values))

    async def scenario(last: bytes) -> None:
        folder = Folder(settings, lambda _partition: held, Measures())
        records = [Fetched(i, value) for i, value in enumerate(values)]
        held = held_from_nothing(settings, source)
        await folder.take(own, [*records[:-1], Fetched(len(values) - 1, last)])
        fold_waiting(held, Measures())
        for _ in range(BEHIND_MAX):
            await folder.take(own, records[:1])

    asyncio.run(scenario(values[-1]))
    with pytest.raises(GapError, match="is not the one that was folded"):
        asyncio.run(scenario(values[0]))


def test_a_fetcher_that_stops_while_level_is_noticed(settings: Settings, tmp_path: Path) -> None:
    """What fetches say of the log's end stands still with them: the end must be asked beside."""
    judge, stopped = Judge(settings), tmp_path / "stopped"
    Sender(settings).events(some_events(36, 300))
    worker = WorkerProcess(
        replace(settings, watchdog_s=5.0), tmp_path / "worker.log", STOPPING_FETCHER % str(stopped)
    )
    try:
        judge.wait(workers=[worker])
        stopped.touch()
        time.sleep(1)
        Sender(settings).events(some_events(37, 300))
        assert worker.exit_code() == 70
        assert "waits to be folded" in worker.log
    finally:
        worker.clean_up()


STOPPING_FETCHER = """
import asyncio, os
from aiokafka.consumer.fetcher import Fetcher
fetch = Fetcher._proc_fetch_request
async def stopping(self, *arguments, **named):
    while os.path.exists(%r):
        await asyncio.sleep(0.1)
    return await fetch(self, *arguments, **named)
Fetcher._proc_fetch_request = stopping
"""


def test_records_deleted_before_they_were_folded_are_a_gap(settings: Settings, start_worker: StartWorker) -> None:
    fold_and_stop(settings, start_worker)
    Sender(settings).events(some_events(32, 2_000))
    topic = Topics(settings.topic_prefix).events
    partitions = list(range(settings.events_partitions))
    ends = kafka.watermarks(settings, topic, partitions)
    admin = kafka.admin(settings)
    for future in admin.delete_records([kafka.TopicPartition(topic, p, ends[p][1]) for p in partitions]).values():
        future.result(20)
    worker = start_worker()
    assert worker.exit_code() == 70
    assert "were deleted before they were counted" in worker.log


def fold_and_stop(settings: Settings, start_worker: StartWorker) -> None:
    judge = Judge(settings)
    Sender(settings).events(some_events(30, 1_000))
    worker = start_worker()
    judge.wait(workers=[worker])
    assert worker.stop() == 0


def replace_topic(settings: Settings) -> None:
    """Another log under the name of `events`."""
    topic = Topics(settings.topic_prefix).events
    admin = kafka.admin(settings)
    admin.delete_topics([topic])[topic].result(20)
    config = next(d.config for d in definitions(settings) if d.name == topic)
    again = kafka.NewTopic(topic, settings.events_partitions, 1, config=dict(config))
    retry(lambda: admin.create_topics([again])[topic].result(20))


def retry(call: Callable[[], object]) -> None:
    """Kafka deletes a topic's name a moment after it said so."""
    deadline = time.monotonic() + 20
    while True:
        try:
            call()
            return
        except kafka.KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def dead_letters(settings: Settings) -> list[dict[str, Any]]:
    topic = Topics(settings.topic_prefix).dead
    partitions = list(range(len(kafka.admin(settings).list_topics(topic, timeout=10).topics[topic].partitions)))
    out: list[dict[str, Any]] = []
    for partition, (begin, end) in kafka.watermarks(settings, topic, partitions).items():
        for message in read_span(settings, topic, partition, begin, end):
            headers = dict(message.headers())
            out.append(
                {
                    "key": message.key(),
                    "value": message.value(),
                    "reason": headers[HEADER_REASON].decode(),
                    "topic": headers[HEADER_TOPIC].decode(),
                    "partition": int(headers[HEADER_PARTITION]),
                    "offset": int(headers[HEADER_OFFSET]),
                }
            )
    return out


def test_a_frame_that_kafka_refuses_ends_the_worker_and_the_next_is_exact(
    settings: Settings, start_worker: StartWorker
) -> None:
    judge = Judge(settings)
    worker = start_worker()
    worker.wait_log("partitions_assigned")
    set_message_bytes_max(settings, judge.topics.aggregates, "100")
    Sender(settings).events(some_events(33, 1_000))
    assert worker.exit_code() == 70
    assert "was not acknowledged" in worker.log
    set_message_bytes_max(settings, judge.topics.aggregates, str(FRAME_BYTES_MAX))
    again = start_worker()
    judge.wait(workers=[again])
    judge.assert_exact()
    assert again.stop() == 0


def set_message_bytes_max(settings: Settings, topic: str, value: str) -> None:
    entry = ConfigEntry("max.message.bytes", value, incremental_operation=AlterConfigOpType.SET)
    resource = kafka.ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = kafka.admin(settings)
    admin.incremental_alter_configs([resource])[resource].result(20)
