"""Reading spans of our own logs: recovery, snapshots and checks ask for exact offsets, outside any group.

Blocking; used from threads. It refuses to jump: an offset outside the log raises GapError.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from headrace import kafka
from headrace.errors import GapError, UnavailableError
from headrace.settings import Settings

GROUP: Final = "reader"
"""librdkafka wants a group name; nothing is ever committed under it."""
STALL_S: Final = 60.0
"""Longest wait without a record before a read counts as failed."""
BATCH_RECORDS: Final = 500
POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of a log."""

    offset: int
    key: bytes | None
    value: bytes | None


class LogReader:
    """A consumer that reads one span after another. Not for several threads at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer = kafka.consumer(settings, GROUP, enable_partition_eof=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._consumer.close()

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        """Records with offsets in [start, end), in order. Offsets may be missing (compaction).

        Raises GapError when `start` is not in the log, UnavailableError when no record comes for STALL_S.
        """
        if start >= end:
            return
        where = f"{topic} partition {partition}"
        self._consumer.assign([kafka.TopicPartition(topic, partition, start)])
        last_seen = time.monotonic()
        while True:
            for message in self._consumer.consume(BATCH_RECORDS, POLL_S):
                error = message.error()
                if error is None:
                    last_seen = time.monotonic()
                    if message.offset() >= end:
                        return
                    yield LogRecord(message.offset(), message.key(), message.value())
                    if message.offset() == end - 1:
                        return
                elif error.code() == kafka.KafkaError._PARTITION_EOF:
                    return
                elif error.code() in (
                    kafka.KafkaError._AUTO_OFFSET_RESET,
                    kafka.KafkaError.OFFSET_OUT_OF_RANGE,
                ):
                    raise GapError(f"{where} does not hold offset {start}", remedy="see `headrace doctor`")
            if time.monotonic() - last_seen > STALL_S:
                raise UnavailableError(
                    f"{where} at {self._settings.kafka} gave nothing for {STALL_S:.0f} s below offset {end}"
                )

    def first_from(self, topic: str, partition: int, start: int, end: int) -> LogRecord | None:
        """The first record at or after `start`, if there is one below `end`."""
        return next(self.read(topic, partition, start, end), None)
