"""The parts of an event's record in wire format: Avro as bytes, a value or a column at a time.

A record is its parts in the schema's order, so what is the same in many events is written once. The bytes are those
of `schemas.codec` and fastavro (tests/unit/test_gateway_encode.py). Raises OverflowError for numbers beyond 64 bits,
UnicodeEncodeError for unpaired surrogates.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from schemas.registry import EVENT_ID, prefix

NULL: Final = b"\x00"
"""The branch of a nullable field that has no value."""
SOME: Final = b"\x02"
"""The branch of one that has."""
PREFIX: Final = prefix(EVENT_ID)

SIZES_MAX: Final = 4096
"""Lengths below this are written once for all."""
FEW_MOMENTS: Final = 8
"""Below this one by one is faster."""
REMEMBERED_MAX: Final = 4096
"""Sets of dimensions, and customers, whose bytes are kept."""
MOMENT_MIN_US: Final = 2**48
MOMENT_MAX_US: Final = 2**55
"""Between these, from the year 1978 to 3111, a time has eight bytes."""

_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1
_SHIFTS = np.arange(0, 56, 7, dtype=np.int64)
_MORE = np.array([0x80] * 7 + [0], dtype=np.int64)


def long(number: int) -> bytes:
    """A long or an int."""
    if MOMENT_MIN_US <= number < MOMENT_MAX_US:
        return _moment(number)
    if not _LONG_MIN <= number <= _LONG_MAX:
        raise OverflowError(f"{number} is beyond 64 bits")
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _moment(us: int) -> bytes:
    """A time, in the eight bytes that it takes."""
    return bytes(
        (
            us << 1 & 0x7F | 0x80,
            us >> 6 & 0x7F | 0x80,
            us >> 13 & 0x7F | 0x80,
            us >> 20 & 0x7F | 0x80,
            us >> 27 & 0x7F | 0x80,
            us >> 34 & 0x7F | 0x80,
            us >> 41 & 0x7F | 0x80,
            us >> 48,
        )
    )


_SIZES: Final = tuple(long(number) for number in range(SIZES_MAX))
_SOME_SIZES: Final = tuple(SOME + size for size in _SIZES)


def size(length: int) -> bytes:
    """What stands in front of a text of so many bytes."""
    return _SIZES[length] if length < SIZES_MAX else long(length)


def text(value: str) -> bytes:
    """A text."""
    encoded = value.encode()
    return size(len(encoded)) + encoded


def optional_text(value: str | None) -> bytes:
    """A nullable text."""
    if value is None:
        return NULL
    encoded = value.encode()
    length = len(encoded)
    return (_SOME_SIZES[length] if length < SIZES_MAX else SOME + long(length)) + encoded


def optional_long(value: int | None) -> bytes:
    """A nullable long."""
    return NULL if value is None else SOME + long(value)


def sizes(encoded: Sequence[bytes]) -> list[bytes]:
    """What stands in front of each of these texts."""
    try:
        return [_SIZES[length] for length in map(len, encoded)]
    except IndexError:
        return [size(len(item)) for item in encoded]


def moments(us: Sequence[int]) -> list[bytes]:
    """Times as longs. Each must lie between MOMENT_MIN_US and MOMENT_MAX_US."""
    if len(us) < FEW_MOMENTS:
        return [long(item) for item in us]
    doubled = np.array(us, dtype=np.int64)[:, np.newaxis] << 1
    flat = (doubled >> _SHIFTS & 0x7F | _MORE).astype(np.uint8).tobytes()
    return [flat[at : at + 8] for at in range(0, len(flat), 8)]


def record(row: Sequence[Any]) -> bytes:
    """The record of one row: the values of an event in the order of the schema. Its dimensions must be bounded."""
    customer_id, message_id, type_, name, user_id, anonymous_id, group_id, previous_id, session_id = row[:9]
    counted_us, received_us, original_us, sent_us = row[9:13]
    value, currency, properties, context, protocol, library, attempt = row[22:]
    counted = long(counted_us)
    return b"".join(
        (
            _start(customer_id),
            text(message_id),
            text(type_),
            text(name),
            optional_text(user_id),
            optional_text(anonymous_id),
            optional_text(group_id),
            optional_text(previous_id),
            optional_text(session_id),
            counted,
            long(received_us),
            SOME + counted if original_us == counted_us else optional_long(original_us),
            optional_long(sent_us),
            dimensions(row[13:22]),
            optional_long(value),
            optional_text(currency),
            text(properties),
            text(context),
            end(protocol, library, attempt),
        )
    )


@lru_cache(REMEMBERED_MAX)
def dimensions(values: Sequence[str | None]) -> bytes:
    """A tuple of them as it stands in a record."""
    return b"".join(map(optional_text, values))


@lru_cache(REMEMBERED_MAX)
def _start(customer_id: int) -> bytes:
    return PREFIX + long(customer_id)


@lru_cache(REMEMBERED_MAX)
def end(protocol: str, library: str, attempt: int) -> bytes:
    """The last three fields of a record."""
    return text(protocol) + text(library) + long(attempt)
