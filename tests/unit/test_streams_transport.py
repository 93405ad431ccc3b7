"""What Faust is told: batches instead of records, no memory of read offsets, the broker's credentials."""

import asyncio
import inspect
import threading

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types import TP

from headrace.settings import Settings
from streams.app import _credentials
from streams.transport import BatchScheduler, ConsumerThread, _NothingRead


def record(partition: int, offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("events", partition, offset, 1000 + offset, 1, b"k", b"v", None, 1, 1, ())


def test_a_fetch_is_one_message_a_partition() -> None:
    fetched = {
        TopicPartition("events", 1): [record(1, 10), record(1, 11)],
        TopicPartition("events", 0): [record(0, 5)],
        TopicPartition("events", 2): [],
    }
    messages = list(BatchScheduler().iterate(fetched))
    assert [(tp.partition, len(batch.value), batch.offset) for tp, batch in messages] == [(1, 2, 11), (0, 1, 5)]


def test_faust_forgets_what_it_read() -> None:
    memory = _NothingRead()
    memory["partition"] = 5
    memory.update({"partition": 6})
    assert memory["partition"] is None
    assert memory.pop("partition", None) is None


@pytest.mark.parametrize(
    ("protocol", "mechanism", "encrypted"),
    [
        ("PLAINTEXT", "", False),
        ("SSL", "", True),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512", False),
        ("SASL_SSL", "PLAIN", True),
    ],
)
def test_credentials_reach_the_consumer(protocol: str, mechanism: str, encrypted: bool) -> None:
    flags = {"kafka_security_protocol": protocol, "kafka_sasl_mechanism": mechanism}
    settings = Settings.load(flags=flags | {"kafka_sasl_username": "u", "kafka_sasl_password": "p"}, environ={})
    arguments = credentials_to_aiokafka_auth(_credentials(settings), None)
    assert arguments["security_protocol"] == protocol
    assert (arguments.get("ssl_context") is not None) == encrypted
    if mechanism:
        assert arguments["sasl_mechanism"] == mechanism
        assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == ("u", "p")


def test_the_bounds_of_a_fetch_are_those_that_the_consumer_reads() -> None:
    """They are set on private fields: a release of aiokafka that renames them would fetch a few records at a time."""
    source = inspect.getsource(AIOKafkaConsumer.start)
    for field in ("_fetch_min_bytes", "_fetch_max_wait_ms"):
        assert f"=self.{field}," in source
        assert field in inspect.getsource(ConsumerThread._create_worker_consumer)


class Seeks:
    """A consumer that notes who seeks."""

    def __init__(self, *assigned: TopicPartition) -> None:
        self.assigned = set(assigned)
        self.seen: list[tuple[TopicPartition, int, int]] = []

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.seen.append((partition, offset, threading.get_ident()))


def test_a_seek_is_done_by_the_thread_that_hands_out_fetches() -> None:
    """In the caller's it takes away what that thread is reading: KeyError in aiokafka, and the worker ends."""
    loop = asyncio.new_event_loop()
    owner = threading.Thread(target=loop.run_forever)
    ours, taken = TP("events", 1), TP("events", 2)
    thread, seeks = ConsumerThread.__new__(ConsumerThread), Seeks(TopicPartition("events", 1))
    thread.thread_loop, thread._consumer = loop, seeks
    owner.start()
    ident = owner.ident
    try:
        thread.seek(ours, 5)
        thread.seek(taken, 6)
        thread.seek(ours, 7)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        owner.join(10)
        loop.close()
    assert seeks.seen == [(TopicPartition("events", 1), 5, ident), (TopicPartition("events", 1), 7, ident)]
    thread.seek(ours, 8)
    assert len(seeks.seen) == 2
