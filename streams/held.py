"""One assignment of one partition: what the worker holds between assignment and revocation."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from streams.fold import PartitionFold
from streams.frames import FrameWriter
from streams.intake import Decoder, FetchedRecord
from streams.position import SourceLog, SourcePosition
from streams.snapshots import SnapshotManifest

StopProcess = Callable[[BaseException], NoReturn]
"""Logs the error and ends the process at once. Nothing may go on after an error that could lose or double data."""


@dataclass(slots=True)
class Held:
    """The state of one assigned partition. Used on the main event loop only.

    `position` is ahead of the fold's by the records that are `waiting` to be decoded, of `waiting_bytes`. `gate` is
    closed while a snapshot needs the fold to stand still. `end_offset`: the log's end as last asked beside the
    fetching. Times are of the monotonic clock.
    """

    fold: PartitionFold
    log: SourceLog
    position: SourcePosition
    decoder: Decoder
    writer: FrameWriter
    manifests: tuple[SnapshotManifest, ...]
    snapshot_due_s: float
    receive_us: int = 0
    end_offset: int = 0
    snapshots_written: int = 0
    waiting: list[FetchedRecord] = field(default_factory=list)
    waiting_bytes: int = 0
    events_unframed: int = 0
    ahead_at: int | None = None
    behind: int = 0
    awaited_offset: int | None = None
    moved_s: float = field(default_factory=time.monotonic)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def partition(self) -> int:
        """Its number, in `events` and in `aggregates`."""
        return self.log.partition
