"""Reading spans of our own logs: recovery, snapshots and checks ask for exact offsets, outside any group.

Blocking; used from threads. It refuses to jump: an offset outside the log raises GapError. The end of a log is where
a fetch says it is: Tansu's answer to "what is the end offset?" is short by most of the last batch.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from headrace import kafka
from headrace.errors import GapError, UnavailableError
from headrace.settings import Settings

GROUP: Final = "reader"
"""librdkafka wants a group name; nothing is ever committed under it."""
STALL_S: Final = 60.0
"""Longest wait without a record before a read counts as failed."""
POLL_S: Final = 0.5
ONE_FETCH_BYTES: Final = 64 * 1024
"""Asked for where one record is wanted; a batch that is larger comes whole all the same. By itself the client fetches
and unpacks megabytes ahead: 24 ms of CPU for each partition restored, instead of 2."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of a log."""

    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class LogReader:
    """Reads spans. Each read has a consumer of its own: one that is assigned anew sits still for a second."""

    settings: Settings

    def read(self, topic: str, partition: int, start: int, end: int | None = None) -> Iterator[LogRecord]:
        """Records with offsets in [start, end), in order; without `end`, to the log's end as of when it is reached.

        Offsets may be missing (compaction, holes). Raises GapError when `start` is not in the log (at its end is in
        it), UnavailableError when no record comes for STALL_S.
        """
        if end is not None and start >= end:
            return
        yield from self._read(topic, partition, start, end)

    def first_from(self, topic: str, partition: int, start: int, end: int | None = None) -> LogRecord | None:
        """The first record at or after `start`, if there is one below `end`, or at all."""
        if end is not None and start >= end:
            return None
        ahead = {"fetch_message_max_bytes": ONE_FETCH_BYTES, "queued_min_messages": 1}
        return next(self._read(topic, partition, start, end, **ahead), None)

    def _read(self, topic: str, partition: int, start: int, end: int | None, **overrides: Any) -> Iterator[LogRecord]:
        consumer = kafka.consumer(self.settings, GROUP, enable_partition_eof=True, **overrides)
        try:
            consumer.assign([kafka.TopicPartition(topic, partition, start)])
            yield from self._records(consumer, f"{topic} partition {partition}", start, end)
        finally:
            consumer.close()

    def _records(self, consumer: Any, where: str, start: int, end: int | None) -> Iterator[LogRecord]:
        last_seen = time.monotonic()
        while True:
            message = consumer.poll(POLL_S)
            error = message.error() if message is not None else None
            if message is not None and error is None:
                last_seen = time.monotonic()
                if end is None or message.offset() < end:
                    yield LogRecord(message.offset(), message.key(), message.value())
                if end is not None and message.offset() >= end - 1:
                    return
            elif error is not None and error.code() == kafka.KafkaError._PARTITION_EOF:
                return
            elif error is not None and error.code() in _OUTSIDE:
                raise GapError(f"{where} does not hold offset {start}", remedy="see `headrace doctor`")
            elif time.monotonic() - last_seen > STALL_S:
                raise UnavailableError(
                    f"{where} at {self.settings.kafka} gave nothing for {STALL_S:.0f} s, read from {start}"
                )


_OUTSIDE: Final = (kafka.KafkaError._AUTO_OFFSET_RESET, kafka.KafkaError.OFFSET_OUT_OF_RANGE)
