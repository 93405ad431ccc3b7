"""What a fold's result depends on besides the log: its rules, and their version."""

import hashlib
from dataclasses import astuple, dataclass
from typing import Final

from headrace.errors import ConfigurationError
from schemas.registry import EVENT_ID, FRAME_ID
from schemas.rollups import GRAIN_S, OTHER_DIMS, ROLLUPS
from streams.fold.dedupe import WINDOW_H_MAX

CODE_VERSION: Final = 2
"""Raise it whenever the same log and rules would give other rows: frames of another version are refused."""
CLOSE_EVERY: Final = 4096
"""Closing happens at source offsets that are multiples of this, never by frame or clock."""
MINUTE_S: Final = 60
LIMITS: Final = {
    "grace_s": (0, 86_400),
    "skew_s": (0, 86_400),
    "bound_s": (0, 86_400),
    "dedupe_window_h": (1, WINDOW_H_MAX),
    "cardinality_max": (1, 100_000),
    "minute_retention_h": (1, 24 * 366),
    "hour_retention_d": (1, 36_600),
    "partitions": (1, 1_000_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRules:
    """`bound_s` is taken off the watermark, `grace_s` is how long a window waits past its end, `skew_s` how far an
    event may be ahead of its receipt; the number of `partitions` of `events` decides which events count where.
    Raises ConfigurationError for values out of range."""

    grace_s: int = 300
    skew_s: int = 300
    bound_s: int = 0
    dedupe_window_h: int = 24
    cardinality_max: int = 1000
    minute_retention_h: int = 48
    hour_retention_d: int = 400
    partitions: int = 24

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigurationError(f"{name} is {value}", remedy=f"set it to {least} … {most}")
        if self.grace_s % MINUTE_S:
            raise ConfigurationError(f"grace_s is {self.grace_s}", remedy="set it to whole minutes")

    @property
    def version(self) -> str:
        """16 hex digits of all that decides what a log folds to. Equal versions give equal rows."""
        parts = (CODE_VERSION, CLOSE_EVERY, astuple(self), GRAIN_S, OTHER_DIMS, EVENT_ID, FRAME_ID)
        rollups = tuple((r.code, r.name, r.dimensions) for r in ROLLUPS)
        return hashlib.sha256(repr((parts, rollups)).encode()).hexdigest()[:16]
