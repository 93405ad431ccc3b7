"""Rollups, as data: what every event is counted by, and over which windows.

Adding a rollup is adding a line here; a replay fills it. Codes are stored in rows and never reused. Changing
anything here changes the fold's version.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

DIMS_SEPARATOR: Final = "\x1f"
"""Joins the values of a dimension tuple; the door replaces it inside values."""
OTHER_DIMS: Final = "(other)"
"""The tuple that newcomers fold into once a window holds `cardinality_max` tuples."""


class Grain(IntEnum):
    """Length of a row's window. Minutes are folded from events, hours and days from the finer rows."""

    MINUTE = 0
    HOUR = 1
    DAY = 2

    @property
    def seconds(self) -> int:
        return GRAIN_S[self]


GRAIN_S: Final = (60, 3600, 86_400)
"""Seconds of a window, by grain code; each divides the next."""
assert GRAIN_S[1] % GRAIN_S[0] == 0
assert GRAIN_S[2] % GRAIN_S[1] == 0


@dataclass(frozen=True, slots=True)
class Rollup:
    """A breakdown: `dimensions` name columns of the event; none means one row per customer and window."""

    code: int
    name: str
    dimensions: tuple[str, ...]


ROLLUPS: Final = (
    Rollup(0, "totals", ()),
    Rollup(1, "events", ("name",)),
    Rollup(2, "pages", ("path",)),
    Rollup(3, "sources", ("referrer_domain", "utm_source")),
    Rollup(4, "places", ("country",)),
    Rollup(5, "devices", ("device", "browser", "os")),
)
assert [r.code for r in ROLLUPS] == list(range(len(ROLLUPS)))

DIMENSIONS: Final = tuple(sorted({d for r in ROLLUPS for d in r.dimensions}))
"""Every event column that some rollup groups by."""
