"""Expected beside found, line by line."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

CENT = Decimal("0.01")
HLL_STANDARD_ERROR = 0.01625  # 1.04 / sqrt(2 ** 12)
SIGMAS = 3
EXAMPLES_MAX = 3


class Count(NamedTuple):
    """How many events, and what they are worth together."""

    events: int
    revenue: Decimal


@dataclass(frozen=True, slots=True)
class Line:
    """One thing compared. `note` tells what about it: how many values, which differ, by how much."""

    name: str
    expected: str
    found: str
    equal: bool
    note: str = ""


@dataclass(slots=True)
class Comparison:
    """All lines of one check."""

    lines: list[Line] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether there is something compared and all of it holds."""
        return bool(self.lines) and all(line.equal for line in self.lines)

    def failed(self, name: str, error: object) -> None:
        """Something that could not be compared at all."""
        self.lines.append(Line(name, "", "", equal=False, note=str(error)))

    def count(self, name: str, expected: int, found: int, note: str = "") -> None:
        """Two counts that must be the same."""
        note = note if expected == found else f"off by {found - expected:+,}"
        self.lines.append(Line(name, f"{expected:,}", f"{found:,}", expected == found, note))

    def money(self, name: str, expected: Decimal, found: Decimal) -> None:
        """Two amounts that must be the same to the cent."""
        mine, other = cents(expected), cents(found)
        note = "to the cent" if mine == other else f"off by {other - mine:+,}"
        self.lines.append(Line(name, f"{mine:,}", f"{other:,}", mine == other, note))

    def estimate(self, name: str, expected: int, found: int) -> None:
        """A count of users from a sketch: within three standard errors."""
        off = abs(found - expected) / max(expected, 1)
        within = off <= SIGMAS * HLL_STANDARD_ERROR
        bound = f"{off:.2%} off, {SIGMAS * HLL_STANDARD_ERROR:.2%} allowed"
        self.lines.append(Line(name, f"{expected:,}", f"{found:,}", within, bound))

    def table(self, name: str, expected: Mapping[str, Count], found: Mapping[str, Count]) -> None:
        """Events and revenue by key: the same keys, the same counts, the same amounts to the cent."""
        wrong = list(_differences(expected, found))
        note = f"{len(expected):,} rows of events and revenue"
        if wrong:
            note = f"{len(wrong):,} of {len(expected):,} rows differ: {'; '.join(wrong[:EXAMPLES_MAX])}"
        self.lines.append(Line(name, _sum(expected.values()), _sum(found.values()), not wrong, note))


def cents(amount: Decimal) -> Decimal:
    """An amount rounded to cents."""
    return amount.quantize(CENT, ROUND_HALF_EVEN)


def _differences(expected: Mapping[str, Count], found: Mapping[str, Count]) -> Iterator[str]:
    for key in sorted(expected.keys() | found.keys()):
        mine, other = expected.get(key), found.get(key)
        if mine is None or other is None:
            yield f"{key} is {'unexpected' if mine is None else 'missing'}"
        elif mine.events != other.events or cents(mine.revenue) != cents(other.revenue):
            yield f"{key}: expected {_shown(mine)}, found {_shown(other)}"


def _sum(values: Iterable[Count]) -> str:
    counts = list(values)
    return _shown(Count(sum(c.events for c in counts), sum((c.revenue for c in counts), Decimal(0))))


def _shown(count: Count) -> str:
    return f"{count.events:,} / {cents(count.revenue):,}"
