"""From fetched records to columns: decode, receive times, dead letters.

Pure and deterministic per record: what is decided here depends on the record alone, never on its neighbours, so a
replay decides the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.kafka import partition_for
from schemas.codec import decode_events
from schemas.event import record_key
from streams.dead import WRONG_PARTITION, DeadLetter
from streams.fold import EventBatch
from streams.position import record_crc

LOG_APPEND_TIME: Final = 1
CUSTOMERS_CACHED_MAX: Final = 100_000
"""Customers whose partition is remembered; past it the memory starts afresh."""

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
        self._partitions = partitions
        self._ours: dict[int, bool] = {}

    def decode(self, records: Sequence[FetchedRecord]) -> Intake:
        """`records`: not empty, ascending offsets, all of this partition."""
        decoded = decode_events([record.value for record in records])
        events, index = decoded.events, decoded.index
        offsets = _offsets(records)
        dead = [(i, reason) for i, reason in decoded.poison]
        ours = self._belongs_here(events)
        if not ours.all():
            dead += [(int(i), WRONG_PARTITION) for i in index[~ours]]
            dead.sort()
            events, index = events.filter(pa.array(ours)), index[ours]
        last = records[-1]
        batch = EventBatch(
            events=events,
            offsets=offsets if len(index) == len(offsets) else offsets[index],
            receive_us=_receive_us(records, events, index),
            next_offset=last.offset + 1,
            last_crc=record_crc(last.value),
        )
        return Intake(batch, [_dead_letter(records[i], reason) for i, reason in dead])

    def _belongs_here(self, events: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """For each row, whether its customer's events go to this partition."""
        customers, inverse = np.unique(events.column(0).to_numpy(), return_inverse=True)
        known = self._ours
        if len(known) + len(customers) > CUSTOMERS_CACHED_MAX:
            known.clear()
        verdicts = np.empty(len(customers), dtype=np.bool_)
        for i, customer in enumerate(customers.tolist()):
            verdict = known.get(customer)
            if verdict is None:
                verdict = known[customer] = partition_for(record_key(customer), self._partitions) == self._partition
            verdicts[i] = verdict
        return verdicts[inverse] if not verdicts.all() else np.ones(events.num_rows, dtype=np.bool_)


def _offsets(records: Sequence[FetchedRecord]) -> Integers:
    first, last = records[0].offset, records[-1].offset
    if last - first + 1 == len(records):
        return np.arange(first, last + 1, dtype=np.int64)
    return np.fromiter((record.offset for record in records), np.int64, len(records))


def _receive_us(records: Sequence[FetchedRecord], events: pa.RecordBatch, index: Integers) -> Integers:
    """Receive times of the rows: the broker's stamp, or the gateway's where the broker does not stamp."""
    claimed: Integers = events.column(events.schema.get_field_index("received_at_us")).to_numpy()
    stamped = np.fromiter((r.timestamp_type == LOG_APPEND_TIME for r in records), np.bool_, len(records))[index]
    if not stamped.any():
        return claimed
    stamps = np.fromiter((record.timestamp for record in records), np.int64, len(records))[index] * 1000
    return stamps if stamped.all() else np.where(stamped, stamps, claimed)


def _dead_letter(record: FetchedRecord, reason: str) -> DeadLetter:
    return DeadLetter(record.offset, record.key, record.value, reason)
