"""Which records of `events` count, and at what time: one answer for the fold and for the raw store.

Pure and deterministic per record: what is decided here depends on the record alone, never on its neighbours, so a
replay decides the same and rollups agree with raw events to the unit. Refuses what no store could hold as it is: see
`Taken.dead`. Whoever changes what is refused raises the fold's CODE_VERSION.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.kafka import partition_for
from schemas.codec import decode_events
from schemas.event import DIMENSION_BYTES_MAX, TIMESTAMP_US_MAX, TIMESTAMP_US_MIN, VALUE_E6_MAX, record_key
from schemas.rollups import DIMENSIONS

WRONG_PARTITION: Final = "wrong_partition"
"""The customer's events belong in another partition: two partitions could then write one row."""
OUT_OF_BOUNDS: Final = "out_of_bounds"
"""A dimension, a time or a value that the door would not have let in: a store would refuse the whole batch for it."""
NO_STAMP: Final = -1
"""Stands for the broker's time of a record where the broker does not stamp."""
CUSTOMERS_CACHED_MAX: Final = 100_000
"""Customers whose partition is remembered; past it the memory starts afresh."""
SECOND_US: Final = 1_000_000

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Taken:
    """What counts of a list of records.

    `events`: one row a record that counts, in order. `index`: for each row, which input it was (ascending).
    `receive_us`: when each was received: the broker's stamp, or the gateway's where the broker does not stamp.
    `dead`: (input, reason) of all others, ascending; reasons are those of `decode_events`, `wrong_partition` and
    `out_of_bounds`.
    """

    events: pa.RecordBatch
    index: Integers
    receive_us: Integers
    dead: list[tuple[int, str]]


class EventIntake:
    """Reads records of a topic with `partitions` partitions. Not thread-safe: it remembers customers' partitions."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._homes: dict[int, int] = {}

    def take(self, values: Sequence[bytes | None], stamps_us: Integers, partition: int) -> Taken:
        """What counts of consecutive records of `partition`; `stamps_us`: their broker's times, or NO_STAMP."""
        decoded = decode_events(values)
        events, index, dead = decoded.events, decoded.index, list(decoded.poison)
        at_home = self._home(events.column("customer_id").to_numpy()) == partition
        fit = within_bounds(events)
        keep = at_home & fit
        if not keep.all():
            dead += [(int(i), WRONG_PARTITION) for i in index[~at_home]]
            dead += [(int(i), OUT_OF_BOUNDS) for i in index[at_home & ~fit]]
            dead.sort()
            events, index = events.filter(pa.array(keep)), index[keep]
        stamps = stamps_us if len(index) == len(stamps_us) else stamps_us[index]
        unstamped = stamps == NO_STAMP
        if unstamped.any():
            stamps = np.where(unstamped, events.column("received_at_us").to_numpy(), stamps)
        return Taken(events, index, stamps, dead)

    def _home(self, customers: Integers) -> Integers:
        """The partition of each customer's events."""
        distinct, inverse = np.unique(customers, return_inverse=True)
        known = self._homes
        if len(known) + len(distinct) > CUSTOMERS_CACHED_MAX:
            known.clear()
        homes = np.empty(len(distinct), dtype=np.int64)
        for i, customer in enumerate(distinct.tolist()):
            home = known.get(customer)
            if home is None:
                home = known[customer] = partition_for(record_key(customer), self._partitions)
            homes[i] = home
        return homes[inverse]


def clamped(timestamp_us: Integers, receive_us: Integers, skew_s: int) -> Integers:
    """Event times, at most `skew_s` after the record's own receive time."""
    return np.minimum(timestamp_us, receive_us + skew_s * SECOND_US)


def within_bounds(events: pa.RecordBatch) -> Bools:
    """For each event, whether its dimensions, its times and its value are what schemas/event.py allows."""
    fit = np.ones(events.num_rows, dtype=np.bool_)
    for name in ("timestamp_us", "received_at_us"):
        times = events.column(name).to_numpy()
        if len(times) and not TIMESTAMP_US_MIN <= int(times.min()) <= int(times.max()) < TIMESTAMP_US_MAX:
            fit &= (times >= TIMESTAMP_US_MIN) & (times < TIMESTAMP_US_MAX)
    values = events.column("value_e6")
    if values.null_count < len(values):
        plain = values.fill_null(0).to_numpy(zero_copy_only=False)
        fit &= (plain >= -VALUE_E6_MAX) & (plain <= VALUE_E6_MAX)
    for name in DIMENSIONS:
        texts = events.column(name)
        if _may_be_unfit(texts):
            fit &= _fit_texts(texts)
    return fit


def _may_be_unfit(texts: Any) -> bool:
    """A quick look at all bytes at once: a search for two of them, and the greatest length."""
    if texts.null_count == len(texts):
        return False
    _, offset_buffer, data = texts.buffers()
    if data is None:
        return False
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if int((offsets[1:] - offsets[:-1]).max()) > DIMENSION_BYTES_MAX:
        return True
    whole = data.slice(int(offsets[0]), int(offsets[-1] - offsets[0])).to_pybytes()
    return b"\x00" in whole or b"\x1f" in whole


def _fit_texts(texts: Any) -> Bools:
    filled = texts.fill_null("")
    short = pc.less_equal(pc.binary_length(filled), DIMENSION_BYTES_MAX)
    unclean = pc.or_(pc.match_substring(filled, "\x00"), pc.match_substring(filled, "\x1f"))
    fit: Bools = pc.and_not(short, unclean).to_numpy(zero_copy_only=False)
    return fit
