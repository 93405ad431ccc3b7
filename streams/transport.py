"""Faust's transport, taught to hand over one fetch of a partition as one message.

Faust pays 80-300 µs for every message that passes its conductor and streams. Here a message carries the whole list
of records that one fetch returned for one partition, so that this is paid once for thousands of records.

What it guarantees: only offsets that `Progress` calls durable are committed, and only for lag monitoring; a seek
goes to our own positions, never to committed ones; nothing that Faust remembers about read or acknowledged offsets
decides anything. It refuses to interpret records: that is the agent's part.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

import faust
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP

from headrace.log import get_logger

FETCH_MAX_WAIT_MS: Final = 100
FETCH_MIN_BYTES: Final = 1024 * 1024
"""A fetch is answered when it has so much, or after so long: a few records at a time would cost as much as hundreds.
Faust hard-codes a wait of 1,500 ms; aiokafka keeps one fetch in flight per broker, so a long poll on drained
partitions would hold up the busy ones: 110 k instead of 200 k events/s when it was measured."""

SCHEME: Final = "kafka"

log = get_logger(__name__)


class Progress(Protocol):
    """Where the worker's partitions stand; asked from the main event loop only. Nothing here may block."""

    def durable_offset(self, tp: TP) -> int | None:
        """Next offset whose effects are all acknowledged in the frames' log; None when the partition is not ours."""

    def next_offset(self, tp: TP) -> int | None:
        """Next offset to fold; None when the partition is not ours (yet)."""

    def on_stale(self, _tp: TP, records: int) -> None:
        """A fetch came for a partition that is no longer ours."""


class RecordBatch:
    """All records of one fetch and partition, in the shape of a single record as Faust expects it."""

    __slots__ = (
        "checksum",
        "headers",
        "key",
        "offset",
        "partition",
        "serialized_key_size",
        "serialized_value_size",
        "timestamp",
        "timestamp_type",
        "topic",
        "value",
    )

    def __init__(self, tp: TP, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        last = records[-1]
        self.topic, self.partition = tp.topic, tp.partition
        self.offset = last.offset
        self.timestamp, self.timestamp_type = last.timestamp, last.timestamp_type
        self.value = records
        self.key = self.checksum = None
        self.headers: tuple[()] = ()
        self.serialized_key_size = self.serialized_value_size = 0


class BatchScheduler(DefaultSchedulingStrategy):  # type: ignore[misc]  # faust is untyped where mypy looks
    """Yields each partition's fetch whole; partitions take turns from fetch to fetch."""

    def iterate(self, records: Mapping[Any, list[Any]]) -> Iterator[tuple[TP, Any]]:
        for tp, fetched in records.items():
            if fetched:
                own = TP(tp.topic, tp.partition)
                yield own, RecordBatch(own, fetched)


class BatchSchema(faust.Schema):  # type: ignore[misc]  # as above
    """Hands a batch through: its records are decoded in columns, later."""

    def loads_key(self, _app: Any, message: Any, **_: Any) -> Any:
        return message.key

    def loads_value(self, _app: Any, message: Any, **_: Any) -> Any:
        return message.value


class _NothingRead(dict[Any, Any]):
    """Faust's memory of read offsets, switched off.

    Faust drops a message below the last offset it read, and notes a jump as acknowledged. A fetch that was under
    way while we sought back would set that memory past our position, and what we sought for would be dropped.
    """

    def __getitem__(self, key: Any) -> None:
        return None

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # as above
    """The thread that owns aiokafka's consumer."""

    logger = driver.logger

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms, consumer._fetch_min_bytes = FETCH_MAX_WAIT_MS, FETCH_MIN_BYTES
        return consumer

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit for the sake of lag monitoring: a failure is logged and forgotten, our truth is the frames' log."""
        consumer = self._ensure_consumer()
        assigned = self.assignment()
        wanted = {driver.ensure_aiokafka_TP(tp): offset for tp, offset in offsets.items() if tp in assigned}
        if not wanted:
            return False
        try:
            await consumer.commit(wanted)
        except KafkaError as error:
            log.info("offsets_not_committed", reason=str(error) or type(error).__name__)
            return False
        return True

    def seek(self, partition: TP, offset: int) -> None:
        """Fetch `partition` from `offset` on; told from any thread, done in ours before any fetch asked for later.

        Faust seeks in the caller's thread: aiokafka then forgets what it fetched while this thread may be handing
        just that out, and the fetch dies of a KeyError. Once this thread has ended there is nothing to seek.
        """
        try:
            self.thread_loop.call_soon_threadsafe(self._seek_here, driver.ensure_aiokafka_TP(partition), offset)
        except RuntimeError:
            log.info("seek_after_end", partition=partition.partition, offset=offset)

    def _seek_here(self, partition: Any, offset: int) -> None:
        consumer = self._ensure_consumer()
        if partition in consumer.assignment():
            consumer.seek(partition, offset)

    def highwater(self, tp: TP) -> int | None:
        """For Faust's monitor; its own would fail for a partition that was just taken away."""
        return self.end_offset(tp)

    def end_offset(self, tp: TP) -> int | None:
        """Next offset that the broker will hand out, as of the last fetch; None when unknown or not ours."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        state = assignment.state_value(driver.ensure_aiokafka_TP(tp)) if assignment is not None else None
        end: int | None = state.highwater if state is not None else None
        return end

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's guesses at stalls go by acknowledgements that we do not use; the worker has its own watchdog."""


class Consumer(driver.Consumer):  # type: ignore[misc]  # as above
    """Faust's consumer with our positions. `progress` is set on the class made by `register`."""

    progress: ClassVar[Progress]
    logger = driver.logger

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NothingRead()
        self._deliver: Any = kwargs.get("callback") or args[1]
        self.callback = self._deliver_if_ours

    async def _deliver_if_ours(self, message: Any) -> None:
        """Pass a fetch on, unless its partition was taken away while it waited (Faust would crash on it)."""
        if message.tp in self.app.topics._tp_to_callback:
            await self._deliver(message)
        else:
            self.progress.on_stale(message.tp, len(message.value))

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Faust counts gaps as acknowledged; we do not go by its count."""

    def _filter_committable_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        committable = {}
        for tp in tps:
            durable = self.progress.durable_offset(tp)
            if durable and self._should_commit(tp, durable):
                committable[tp] = durable
            self._acked[tp].clear()
            self._acked_index[tp].clear()
        return committable

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: the full queue itself holds up reading. Faust would stop fetching, and then sleep a second."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See on_buffer_full."""

    async def perform_seek(self) -> None:
        """Seek every assigned partition to our position.

        Faust calls this after a rebalance and from every fetch while the flow is stopped, so it must be cheap and
        may be repeated; a partition that is not restored yet is left alone.
        """
        for tp in self.assignment():
            await self.seek_to_position(tp)

    async def seek_to_position(self, tp: TP) -> None:
        """Fetch `tp` from our position on."""
        position = self.progress.next_offset(tp)
        if position is not None and tp in self.assignment():
            self._thread.seek(tp, position)
            self._committed_offset[tp] = self.progress.durable_offset(tp) or None

    def end_offset(self, tp: TP) -> int | None:
        """See ConsumerThread.end_offset."""
        end: int | None = self._thread.end_offset(tp)
        return end


class Transport(driver.Transport):  # type: ignore[misc]  # as above
    """What Faust's registry of transports finds under `kafka`."""

    Consumer: ClassVar[type[Any]] = Consumer


def register(progress: Progress) -> None:
    """Make Faust use this transport for `kafka://` in this process, with the positions of `progress`."""
    Consumer.progress = progress
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"
