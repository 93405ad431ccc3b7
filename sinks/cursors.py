"""Cursors: how far a store is, and what one write to it did."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one range's rows go in one partition. `start`, `end`: its customer ids, half-open.

    `fresh_us`: all that was received before this time is in; 0 while that is unknown.
    """

    partition: int
    range_id: int
    start: int
    end: int
    topic_id: str
    applied_to: int
    resume_at: int
    fold_version: str
    hold: bool
    fresh_us: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """What one transaction did. `behind`: a range needs frames that were read before it could take them."""

    rows: int
    frames_skipped: int
    changed: Mapping[int, int]
    receive_us: int
    behind: bool
