"""The value of an event in millionths: an exact integer, so that sums never depend on their order."""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final

from schemas.event import VALUE_E6_MAX

VALUE_KEYS: Final = ("revenue", "value", "total")
"""Properties that may hold it; the first one that is a number wins."""
NUMBER_CHARS_MAX: Final = 40
CURRENCY_CHARS_MAX: Final = 16

_MILLION = Decimal(1_000_000)
_UNIT = Decimal(1)
_BOUND = Decimal(VALUE_E6_MAX) / _MILLION


class OutOfBoundsError(Exception):
    """A value that a sum of many could not hold. The event stays, its value does not."""


def value_e6(properties: Mapping[str, Any]) -> int | None:
    """The event's value in millionths of its currency, rounded half to even; None if it has none.

    Numbers and numeric texts count; a float means what it prints as. Raises OutOfBoundsError past VALUE_E6_MAX.
    """
    for key in VALUE_KEYS:
        found = properties.get(key)
        if found is None:
            continue
        number = _number(found)
        if number is not None:
            if number > _BOUND or number < -_BOUND:  # compared before any arithmetic, which could overflow
                raise OutOfBoundsError(str(found)[:NUMBER_CHARS_MAX])
            return int((number * _MILLION).quantize(_UNIT, ROUND_HALF_EVEN))
    return None


def currency(properties: Mapping[str, Any]) -> str | None:
    """The event's currency as sent, in capitals."""
    found = properties.get("currency")
    if isinstance(found, str) and 0 < len(found) <= CURRENCY_CHARS_MAX:
        return found.upper()
    return None


def _number(found: Any) -> Decimal | None:
    if isinstance(found, bool):
        return None
    if isinstance(found, int):
        return Decimal(found)
    if isinstance(found, float):
        return Decimal(repr(found))
    if isinstance(found, str) and len(found) <= NUMBER_CHARS_MAX:
        try:
            number = Decimal(found.strip())
        except InvalidOperation:
            return None
        return number if number.is_finite() else None
    return None
