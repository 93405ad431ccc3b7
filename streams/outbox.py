"""Records that must be acknowledged: an idempotent producer whose acknowledgements can be awaited.

One outbox lives as long as one assignment. It guarantees that `send` returns only when every record is on all
in-sync replicas, in the order given. A record that Kafka refuses, or does not acknowledge in time, is the end: the
order of the log behind it would no longer be known, so the caller gets a FatalError and has to stop the process.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from headrace import kafka
from headrace.errors import FatalError
from headrace.settings import Settings

ACKNOWLEDGEMENT_TIMEOUT_S: Final = 60.0
"""How long Kafka may be away before a worker gives up a frame and stops; the next one starts from the log."""
POLL_S: Final = 0.1
FULL_QUEUE_WAIT_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """One record to send; `partition` None lets the key decide (murmur2, as everywhere)."""

    topic: str
    value: bytes | None
    partition: int | None = None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Sender(Protocol):
    """What frames, dead letters and snapshots need of an outbox."""

    async def send(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """Offsets of the records, once all are acknowledged. Raises FatalError when one is not."""


class Outbox:
    """A producer with its own thread for acknowledgements. Made and used on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.get_running_loop()
        self._producer = kafka.producer(
            settings,
            message_timeout_ms=round(ACKNOWLEDGEMENT_TIMEOUT_S * 1000),
            linger_ms=0,
            compression_type="none",  # frames' bodies are compressed already
        )
        self._waiting: set[asyncio.Future[int]] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="outbox", daemon=True)
        self._thread.start()

    async def send(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """See Sender. Waits while the producer's queue (256 MiB) is full."""
        return list(await asyncio.gather(*[await self._enqueue(record) for record in records]))

    def close(self) -> None:
        """Give up what is not acknowledged yet: who waits for it, or sends later, is cancelled (a snapshot that was
        under way at a revocation). The thread ends on its own."""
        self._closed.set()
        for acknowledged in list(self._waiting):
            acknowledged.cancel()

    async def _enqueue(self, record: OutgoingRecord) -> asyncio.Future[int]:
        acknowledged: asyncio.Future[int] = self._loop.create_future()
        self._waiting.add(acknowledged)
        acknowledged.add_done_callback(self._waiting.discard)
        if self._closed.is_set():
            acknowledged.cancel()
            return acknowledged

        def on_delivery(error: kafka.KafkaError | None, message: kafka.Message) -> None:
            self._loop.call_soon_threadsafe(_settle, acknowledged, record, error, message.offset())

        arguments: dict[str, object] = {"value": record.value, "key": record.key, "on_delivery": on_delivery}
        if record.partition is not None:
            arguments["partition"] = record.partition
        if record.headers:
            arguments["headers"] = list(record.headers)
        while True:
            try:
                self._producer.produce(record.topic, **arguments)
                return acknowledged
            except BufferError:
                if self._closed.is_set():  # nobody makes room any more
                    acknowledged.cancel()
                    return acknowledged
                await asyncio.sleep(FULL_QUEUE_WAIT_S)
            except kafka.KafkaException as error:
                raise FatalError(f"Kafka refused a record for {record.topic}: {error}") from error

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(POLL_S)


def _settle(
    acknowledged: asyncio.Future[int],
    record: OutgoingRecord,
    error: kafka.KafkaError | None,
    offset: int | None,
) -> None:
    if acknowledged.done():
        return
    if error is None and offset is not None:
        acknowledged.set_result(offset)
    else:
        where = f"{record.topic} partition {record.partition}"
        acknowledged.set_exception(FatalError(f"a record for {where} was not acknowledged: {error}"))
