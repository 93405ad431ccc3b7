"""The words of a query: metrics and dimensions, parsed and checked.

A metric is `events`, `users`, `sessions`, `events_per_user` or `FUNCTION(FIELD)`; a field is `value` or
`props.NAME`. A dimension is one of DIMENSIONS or `props.NAME`. Names only ever reach a store as bound parameters
or as constants of this module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from api.problems import did_you_mean

PROPERTY_PREFIX: Final = "props."
PROPERTY_CHARS_MAX: Final = 200
SIMPLE_METRICS: Final = ("events", "users", "sessions", "events_per_user")
FUNCTIONS: Final = ("sum", "avg", "min", "max", "count", "p50", "p95", "p99")
QUANTILES: Final[Mapping[str, float]] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
VALUE: Final = "value"

DIMENSIONS: Final = (
    "event",
    "type",
    "path",
    "referrer_domain",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "country",
    "device",
    "browser",
    "os",
    "user_id",
    "anonymous_id",
    "group_id",
    "session_id",
    "currency",
    "protocol",
    "library",
)

_CALL = re.compile(r"([a-z0-9_]+)\((.+)\)", re.DOTALL)


class TermError(ValueError):
    """A word of a query is not known; the message says which, and what is near."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured. `field` is None for the simple ones, else `value` or `props.NAME`."""

    function: str
    field: str | None = None

    @classmethod
    def parse(cls, text: object) -> "Metric":
        """Raises TermError."""
        if not isinstance(text, str):
            raise TermError('a metric is a string such as "events" or "sum(value)"')
        if text in SIMPLE_METRICS:
            return cls(text)
        call = _CALL.fullmatch(text)
        if call is None:
            known = [*SIMPLE_METRICS, *(f"{name}(value)" for name in FUNCTIONS)]
            raise TermError(f"unknown metric {_shown(text)}{did_you_mean(text, known)}")
        function, field = call.groups()
        if function not in FUNCTIONS:
            raise TermError(f"unknown function {_shown(function)}{did_you_mean(function, FUNCTIONS)}")
        if field != VALUE:
            if not field.startswith(PROPERTY_PREFIX):
                raise TermError(f"a function takes value or props.NAME, not {_shown(field)}")
            _check_property(field)
        return cls(function, field)

    @property
    def name(self) -> str:
        """As it is written in a query and in the answer's columns."""
        return self.function if self.field is None else f"{self.function}({self.field})"

    @property
    def property_name(self) -> str | None:
        """NAME when the metric is over `props.NAME`."""
        if self.field is None or self.field == VALUE:
            return None
        return self.field.removeprefix(PROPERTY_PREFIX)

    @property
    def is_count(self) -> bool:
        """True when nothing at all measures 0; the others are null then."""
        return self.function in ("events", "users", "sessions", "sum", "count")

    @property
    def is_additive(self) -> bool:
        """True when the rest of a breakdown is the whole minus its parts."""
        return self.function in ("events", "sum", "count")


@dataclass(frozen=True, slots=True)
class Dimension:
    """What an answer is cut by, or a filter looks at."""

    name: str

    @classmethod
    def parse(cls, text: object, *, extra: tuple[str, ...] = ()) -> "Dimension":
        """Raises TermError. `extra`: further names allowed here."""
        if not isinstance(text, str):
            raise TermError('a dimension is a string such as "event" or "props.plan"')
        if text in DIMENSIONS or text in extra:
            return cls(text)
        if text.startswith(PROPERTY_PREFIX):
            _check_property(text)
            return cls(text)
        raise TermError(f"unknown dimension {_shown(text)}{did_you_mean(text, (*DIMENSIONS, *extra))}")

    @property
    def property_name(self) -> str | None:
        """NAME when this is `props.NAME`."""
        return self.name.removeprefix(PROPERTY_PREFIX) if self.name.startswith(PROPERTY_PREFIX) else None


def _check_property(text: str) -> None:
    name = text.removeprefix(PROPERTY_PREFIX)
    if not name or len(name) > PROPERTY_CHARS_MAX:
        raise TermError(f"a property's name has 1 to {PROPERTY_CHARS_MAX} characters: {_shown(text)}")
    if "\x00" in name:
        raise TermError("a property's name holds no U+0000")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
