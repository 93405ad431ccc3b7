"""From fetched records to what is folded and what is set aside; schemas/intake.py decides which is which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from schemas.intake import NO_STAMP, EventIntake
from streams.dead import DeadLetter
from streams.fold import EventBatch
from streams.position import record_crc

LOG_APPEND_TIME: Final = 1

Integers = npt.NDArray[np.int64]


class FetchedRecord(Protocol):
    """What is used of a fetched record; timestamps in milliseconds."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def timestamp_type(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Intake:
    """A fetch, decoded: what to fold, and what to set aside."""

    batch: EventBatch
    dead: list[DeadLetter]


class Decoder:
    """Decodes fetches of one partition of a topic with `partitions` partitions."""

    def __init__(self, partition: int, partitions: int) -> None:
        self._partition = partition
        self._intake = EventIntake(partitions)

    def decode(self, records: Sequence[FetchedRecord]) -> Intake:
        """`records`: not empty, ascending offsets, all of this partition."""
        taken = self._intake.take([record.value for record in records], _stamps_us(records), self._partition)
        offsets, last = _offsets(records), records[-1]
        batch = EventBatch(
            events=taken.events,
            offsets=offsets if len(taken.index) == len(offsets) else offsets[taken.index],
            receive_us=taken.receive_us,
            next_offset=last.offset + 1,
            last_crc=record_crc(last.value),
        )
        return Intake(batch, [_dead_letter(records[i], reason) for i, reason in taken.dead])


def _offsets(records: Sequence[FetchedRecord]) -> Integers:
    first, last = records[0].offset, records[-1].offset
    if last - first + 1 == len(records):
        return np.arange(first, last + 1, dtype=np.int64)
    return np.fromiter((record.offset for record in records), np.int64, len(records))


def _stamps_us(records: Sequence[FetchedRecord]) -> Integers:
    """The broker's times; NO_STAMP where it does not stamp."""
    kinds = {record.timestamp_type for record in records}
    if LOG_APPEND_TIME not in kinds:
        return np.full(len(records), NO_STAMP, dtype=np.int64)
    stamps = np.fromiter([record.timestamp for record in records], np.int64, len(records)) * 1000
    if len(kinds) > 1:
        stamped = [record.timestamp_type == LOG_APPEND_TIME for record in records]
        stamps = np.where(stamped, stamps, NO_STAMP)
    return stamps


def _dead_letter(record: FetchedRecord, reason: str) -> DeadLetter:
    return DeadLetter(record.offset, record.key, record.value, reason)
