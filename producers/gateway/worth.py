"""The value and currency of events as they stand in records, remembered: prices repeat."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from producers.gateway import wire
from producers.gateway.value import VALUE_KEYS, OutOfBoundsError, currency, value_e6

WORTHS_MAX: Final = 8192
REMEMBERED_BYTES_MAX: Final = 64
"""Longer ones are worked out each time."""

_KEYS = frozenset(VALUE_KEYS)
_NONE: Final = wire.NULL + wire.NULL
_ABSENT: Final = b"null"
_DECODE = msgspec.json.Decoder().decode


class Worths:
    """Parts of records, told by an event's properties: parsed ones, or a mapping of their JSON (msgspec.Raw)."""

    none_in = staticmethod(_KEYS.isdisjoint)

    def part(self, properties: Mapping[str, Any]) -> bytes | None:
        """The value and the currency; None for a value that is out of bounds."""
        for key in VALUE_KEYS:
            found = properties.get(key)
            if found is None:
                continue
            if isinstance(found, msgspec.Raw):
                part = _of_json(bytes(found), bytes(properties.get("currency", _ABSENT)))
            else:
                part = _of_values({key: found, "currency": properties.get("currency")})
            if part != _NONE:
                return part
        return _NONE


def _of_json(value: bytes, told: bytes) -> bytes | None:
    if len(value) + len(told) > REMEMBERED_BYTES_MAX:
        return _parsed(value, told)
    return _remembered(value, told)


def _parsed(value: bytes, told: bytes) -> bytes | None:
    return _of_values({VALUE_KEYS[0]: _DECODE(value), "currency": _DECODE(told)})


_remembered = lru_cache(WORTHS_MAX)(_parsed)


def _of_values(properties: Mapping[str, Any]) -> bytes | None:
    try:
        value = value_e6(properties)
    except OutOfBoundsError:
        return None
    if value is None:
        return _NONE
    return wire.SOME + wire.long(value) + wire.optional_text(currency(properties))
