"""Which source answers a question, and from which rows. Pure.

Rollup rows answer when a rollup has all dimensions that the question looks at, its metrics are kept there, and
the range falls into whole windows that are still kept; then as few and as coarse rows as possible. Everything
else goes to the raw events. `exact: true` forbids the sketches, not the sums.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from api.query import filters
from api.query.question import Question
from api.query.ranges import HOUR_S, MINUTE_S, SECOND_US
from api.query.terms import VALUE
from schemas.rollups import ROLLUPS, Grain, Rollup

RETENTION_MARGIN_S: Final = HOUR_S
"""Rows this near the end of their retention are not relied on: the cut goes by the watermark, not our clock."""

ROLLUP_NAME: Final = {"event": "name"}
"""API's name of a dimension → the rollup's, where they differ."""
SKETCHED: Final = frozenset({"users", "events_per_user", "p50", "p95", "p99"})
KEPT: Final = frozenset({"events", "users", "events_per_user", "sum", "avg", "count", "p50", "p95", "p99"})
ROLLUP_OPERATORS: Final = frozenset({"is", "is_not", "contains", "not_contains", "set", "not_set"})
"""`matches` is raw only: the two stores' regular expressions differ."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long rows of a grain are kept; days are kept for ever."""

    minute_s: int
    hour_s: int

    def reaches(self, grain: Grain, from_s: int, now_s: int) -> bool:
        """Whether every row of `grain` from `from_s` on is surely there, and every event of then opened one."""
        if grain == Grain.DAY:
            return True
        kept_s = self.minute_s if grain == Grain.MINUTE else self.hour_s
        return from_s >= now_s - kept_s + RETENTION_MARGIN_S


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole windows of one grain: `[from_s, to_s)`, epoch seconds."""

    grain: Grain
    from_s: int
    to_s: int


@dataclass(frozen=True, slots=True)
class RollupPlan:
    """Answer from rollup rows. `places` maps a dimension's API name to its place in the rows' tuple."""

    rollup: Rollup
    pieces: tuple[Piece, ...]
    places: dict[str, int]


@dataclass(frozen=True, slots=True)
class RawPlan:
    """Answer from raw events; `reason` says why no rollup can."""

    reason: str


Plan = RollupPlan | RawPlan


def plan(question: Question, retention: Retention, now_us: int) -> Plan:
    """The source for `question` at `now_us`."""
    reason = _raw_reason(question)
    if reason:
        return RawPlan(reason)
    wanted = _wanted(question)
    rollup = _narrowest(wanted)
    if rollup is None:
        return RawPlan(f"no rollup has {', '.join(sorted(wanted))} together")
    pieces = _pieces(question)
    if pieces is None:
        return RawPlan("the range or its intervals do not fall on whole minutes")
    now_s = now_us // SECOND_US
    for piece in pieces:
        if not retention.reaches(piece.grain, piece.from_s, now_s):
            return RawPlan(f"rows of {piece.grain.name.lower()}s are not kept as far back as the range needs them")
    places = {name: rollup.dimensions.index(ROLLUP_NAME.get(name, name)) for name in wanted}
    return RollupPlan(rollup, tuple(pieces), places)


def cover(from_s: int, to_s: int, coarsest: Grain = Grain.DAY) -> list[Piece]:
    """`[from_s, to_s)` as whole windows, as coarse as possible: at most five pieces. Whole minutes only."""
    assert from_s % MINUTE_S == 0 and to_s % MINUTE_S == 0
    if from_s >= to_s:
        return []
    length_s = coarsest.seconds
    first, last = -(-from_s // length_s) * length_s, to_s // length_s * length_s
    if first >= last:
        return cover(from_s, to_s, Grain(coarsest - 1))
    middle = [Piece(coarsest, first, last)]
    if coarsest == Grain.MINUTE:
        return middle
    return [*cover(from_s, first, Grain(coarsest - 1)), *middle, *cover(last, to_s, Grain(coarsest - 1))]


def _raw_reason(question: Question) -> str | None:
    if question.kind == "events":
        return "events are kept raw only"
    for metric in question.metrics:
        if metric.function not in KEPT or metric.field not in (None, VALUE):
            return f"{metric.name} is not kept in rollups"
        if question.exact and metric.function in SKETCHED:
            return f"exact {metric.name} needs the raw events"
    for leaf in filters.leaves(question.filters):
        if leaf.operator not in ROLLUP_OPERATORS:
            return f"{leaf.operator} needs the raw events"
    return None


def _wanted(question: Question) -> frozenset[str]:
    names = {dimension.name for dimension in question.dimensions}
    return frozenset(names | {leaf.dimension.name for leaf in filters.leaves(question.filters)})


def _narrowest(wanted: Iterable[str]) -> Rollup | None:
    needed = {ROLLUP_NAME.get(name, name) for name in wanted}
    fitting = [rollup for rollup in ROLLUPS if needed <= set(rollup.dimensions)]
    return min(fitting, key=lambda rollup: (len(rollup.dimensions), rollup.code), default=None)


def _pieces(question: Question) -> list[Piece] | None:
    """Whole windows that make up the range, each within one bucket; None where minutes do not fit."""
    if not question.buckets:
        edges = [question.asked.from_us, question.asked.to_us]
    else:
        edges = [bucket.from_us for bucket in question.buckets] + [question.buckets[-1].to_us]
    if any(edge % (MINUTE_S * SECOND_US) for edge in edges):
        return None
    seconds = [edge // SECOND_US for edge in edges]
    if not question.buckets:
        return cover(seconds[0], seconds[1])
    # One grain for all inner buckets: mixing grains by bucket would make hundreds of pieces for one scan's worth
    # of rows. Only the first and the last bucket may be cut, and are covered by themselves.
    grain = _common_grain(seconds[1:-1])
    if len(seconds) <= 3:
        return _joined(piece for a, b in pairwise(seconds) for piece in cover(a, b, grain))
    return _joined(
        [
            *cover(seconds[0], seconds[1], grain),
            *cover(seconds[1], seconds[-2], grain),
            *cover(seconds[-2], seconds[-1], grain),
        ]
    )


def _common_grain(edges: Sequence[int]) -> Grain:
    for grain in (Grain.DAY, Grain.HOUR):
        if all(edge % grain.seconds == 0 for edge in edges):
            return grain
    return Grain.MINUTE


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    out: list[Piece] = []
    for piece in pieces:
        if out and out[-1].grain == piece.grain and out[-1].to_s == piece.from_s:
            out[-1] = Piece(piece.grain, out[-1].from_s, piece.to_s)
        else:
            out.append(piece)
    return out
