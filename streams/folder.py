"""Fetches into folds: what is ours and new is admitted in one step that does not wait, and folded later.

The order matters: whatever may wait (a snapshot that needs the fold to stand still, a frame that is late, a look at
the log) comes first, then the partition is looked up again, and from there to the new position nothing is awaited.
So a batch is admitted wholly or not at all.
"""

import asyncio
import bisect
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from faust.types import TP

from headrace import kafka
from headrace.errors import RetryableError
from headrace.log import get_logger
from headrace.settings import Settings
from streams.held import Held
from streams.intake import FetchedRecord
from streams.log_reader import LogReader
from streams.measures import Measures
from streams.position import Fit, SourceLog, check_begin, check_last_record
from streams.recovery import record_before
from streams.waiting import admit

FRAMES_UNSENT_MAX: Final = 2
"""Frames' worth of events (`frame_events_max`) folded while one is still on its way; past it reading waits."""
BEHIND_MAX: Final = 3
"""Fetches in a row that lie wholly behind us; then the log's end is asked, as the log may have been cut."""

log = get_logger(__name__)


class SourceConsumer(Protocol):
    """What is asked of the consumer behind Faust."""

    async def seek_to_position(self, tp: TP) -> None:
        """Fetch from our position on."""

    def end_offset(self, tp: TP) -> int | None:
        """End of the log as of the last fetch; None when unknown."""


class Folder:
    """Folds what Faust's agent hands over. One fetch at a time."""

    def __init__(self, settings: Settings, held: Callable[[int], Held | None], measures: Measures) -> None:
        self._settings = settings
        self._held = held
        self._measures = measures
        self._unframed_max = FRAMES_UNSENT_MAX * settings.frame_events_max
        self.consumer: SourceConsumer | None = None

    async def take(self, partition: int, records: Sequence[FetchedRecord]) -> None:
        """Admit a fetch, or as much of it as is ours and new. Raises FatalError when the log has lost records."""
        held = await self._standing(partition)
        if held is None:
            self._measures.on_stale(len(records))
            return
        fit = held.position.fit(records[0].offset, records[-1].offset)
        if fit is Fit.USABLE:
            held.ahead_at, held.behind = None, 0
            self._admit(held, records)
            return
        self._measures.on_stale(len(records))
        if fit is Fit.BEHIND:
            await self._on_behind(held)
        else:
            await self._on_ahead(held, records[0].offset)

    async def _standing(self, partition: int) -> Held | None:
        """The partition, when it may be folded into now."""
        started = time.perf_counter()
        held = self._held(partition)
        while held is not None:
            if not held.gate.is_set():
                await held.gate.wait()
            elif held.writer.busy and (held.events_unframed > self._unframed_max or held.writer.dead_full):
                await held.writer.idle()
            else:
                break
            held = self._held(partition)
        self._measures.add_stage("wait", time.perf_counter() - started)
        return held

    def _admit(self, held: Held, records: Sequence[FetchedRecord]) -> None:
        next_offset = held.position.next_offset
        if records[0].offset < next_offset:
            start = bisect.bisect_left(records, next_offset, key=lambda record: record.offset)
            self._measures.on_stale(start)
            records = records[start:]
        admit(held, records, self._measures)
        held.moved_s = time.monotonic()

    async def _on_behind(self, held: Held) -> None:
        """All of a fetch is folded already: it was under way while we sought, or the log was cut or replaced."""
        held.behind += 1
        if held.behind % BEHIND_MAX == 0:
            folded, last_crc = held.fold.position, held.fold.last_crc
            try:
                await asyncio.to_thread(self._check_log, held.log, folded, last_crc)
            except RetryableError as error:
                log.warning("log_end_unknown", partition=held.partition, reason=str(error))
            await self._seek(held)

    async def _on_ahead(self, held: Held, first_offset: int) -> None:
        """A fetch starts past us: seek back; when it comes back, ask the log whether nothing lies between."""
        next_offset = held.position.next_offset
        if held.ahead_at != first_offset:
            held.ahead_at = first_offset
            await self._seek(held)
            return
        try:
            missing = await asyncio.to_thread(self._find_record, held.log, next_offset, first_offset)
        except RetryableError as error:
            log.warning("hole_unclear", partition=held.partition, from_offset=next_offset, reason=str(error))
            missing = next_offset
        if self._held(held.partition) is not held or held.position.next_offset != next_offset:
            return
        if missing is None:
            log.info("hole_in_log", partition=held.partition, from_offset=next_offset, to_offset=first_offset)
            held.position.skip_hole(first_offset)
        held.ahead_at = None
        await self._seek(held)

    async def _seek(self, held: Held) -> None:
        if self.consumer is not None and self._held(held.partition) is held:
            await self.consumer.seek_to_position(TP(held.log.topic, held.partition))

    def _check_log(self, source: SourceLog, folded: int, last_crc: int) -> None:
        """Raise GapError unless the log still has, before offset `folded`, the record that was folded last."""
        begin, end = kafka.watermarks(self._settings, source.topic, [source.partition])[source.partition]
        if folded > begin:
            now = replace(source, begin_offset=begin, end_offset=end)
            last = record_before(LogReader(self._settings), now, folded)
            check_last_record(now, folded, last.value, last_crc)

    def _find_record(self, source: SourceLog, start: int, stop: int) -> int | None:
        """The first offset in [start, stop) that the log holds. Raises GapError when `start` was deleted."""
        begin, end = kafka.watermarks(self._settings, source.topic, [source.partition])[source.partition]
        check_begin(replace(source, begin_offset=begin, end_offset=end), start)
        record = LogReader(self._settings).first_from(source.topic, source.partition, start, stop)
        return record.offset if record is not None else None
