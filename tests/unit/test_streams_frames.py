"""Frames are written one at a time, dead letters first, and how often."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from headrace.errors import FatalError
from headrace.settings import Settings
from schemas.accept import AcceptRule, Outcome
from schemas.codec import decode_events
from schemas.frame import decode_chunk
from schemas.topics import Topics
from streams.dead import HEADER_OFFSET, DeadLetter
from streams.fold import EventBatch, FoldRules, PartitionFold
from streams.folder import Folder
from streams.frames import FrameContext, FrameWriter, frame_interval_s
from streams.held import Held
from streams.intake import Decoder
from streams.measures import Measures
from streams.outbox import OutgoingRecord
from streams.position import SourceLog, SourcePosition
from streams.waiting import WAITING_BYTES_MAX, WAITING_RECORDS_MAX, write_frame
from tests.integration.streams_world import an_event, encode
from tests.unit.test_streams_intake import Fetched

NOW_US = 1_750_000_000_000_000


@dataclass
class HeldBackSender:
    """Keeps what is sent, and acknowledges when it is told to."""

    may_acknowledge: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[OutgoingRecord] = field(default_factory=list)
    offset: int = 0
    fails: bool = False

    async def send(self, records: Sequence[OutgoingRecord]) -> list[int]:
        self.sent += records
        await self.may_acknowledge.wait()
        if self.fails:
            raise FatalError("not acknowledged")
        first, self.offset = self.offset, self.offset + len(records)
        return list(range(first, self.offset))


def a_batch(start: int, count: int) -> EventBatch:
    rng = random.Random(start)
    values = encode([an_event(rng, f"m{i}", 1, NOW_US + i) for i in range(start, start + count)])
    return EventBatch(
        events=decode_events(values).events,
        offsets=np.arange(start, start + count, dtype=np.int64),
        receive_us=np.full(count, NOW_US, dtype=np.int64),
        next_offset=start + count,
        last_crc=start + count,
    )


def a_writer(sender: HeldBackSender, *, log_offset: int = 0) -> FrameWriter:
    rules = FoldRules()
    return FrameWriter(
        fold=PartitionFold(rules, 0),
        partition=0,
        context=FrameContext(topics=Topics(), topic_id="id", fold_version=rules.version),
        outbox=sender,
        durable_offset=0,
        log_offset=log_offset,
        last_crc=0,
        clock=time.monotonic,
    )


def test_the_next_frame_is_cut_only_after_the_last_is_acknowledged() -> None:
    async def scenario() -> None:
        sender = HeldBackSender()
        writer = a_writer(sender)
        writer.fold.apply(a_batch(0, 100))
        first = asyncio.create_task(writer.flush())
        await asyncio.sleep(0)
        writer.fold.apply(a_batch(100, 100))
        second = asyncio.create_task(writer.flush())
        await asyncio.sleep(0.01)
        assert writer.busy
        assert len(sender.sent) == 1
        assert writer.durable_offset == 0
        sender.may_acknowledge.set()
        sent = [await first, await second]
        assert [(s.content.from_offset, s.content.to_offset) for s in sent if s] == [(0, 100), (100, 200)]
        assert writer.durable_offset == 200
        assert not writer.pending
        assert await writer.flush() is None
        rule = AcceptRule()
        outcomes = [rule.feed(i, decode_chunk(record.value))[0] for i, record in enumerate(sender.sent)]
        assert outcomes == [Outcome.ACCEPTED, Outcome.ACCEPTED]
        assert rule.position == 200

    asyncio.run(scenario())


def test_dead_letters_are_acknowledged_before_the_frame_that_covers_them() -> None:
    async def scenario() -> None:
        sender = HeldBackSender()
        writer = a_writer(sender)
        writer.fold.apply(a_batch(0, 10))
        writer.add_dead([DeadLetter(10, b"1", b"junk", "not_avro")])
        task = asyncio.create_task(writer.flush())
        await asyncio.sleep(0.01)
        assert [r.topic for r in sender.sent] == [Topics().dead]
        assert dict(sender.sent[0].headers)[HEADER_OFFSET] == b"10"
        sender.may_acknowledge.set()
        sent = await task
        assert sent is not None
        assert sent.dead == 1
        assert [r.topic for r in sender.sent] == [Topics().dead, Topics().aggregates]
        assert decode_chunk(sender.sent[1].value).header.dead == 1

    asyncio.run(scenario())


def test_dead_letters_that_pile_up_are_full_until_a_frame_takes_them() -> None:
    async def scenario() -> None:
        sender = HeldBackSender()
        sender.may_acknowledge.set()
        writer = a_writer(sender)
        writer.fold.apply(a_batch(0, 10))
        letter = DeadLetter(10, b"1", bytes(1024 * 1024), "not_avro")
        writer.add_dead([letter] * 31)
        full = [writer.dead_full]
        writer.add_dead([letter])
        full.append(writer.dead_full)
        await writer.flush()
        assert [*full, writer.dead_full] == [False, True, False]

    asyncio.run(scenario())


def test_records_wait_for_their_frame_or_until_they_are_many_or_large() -> None:
    async def folded(*fetches: Sequence[Fetched], frame: bool = False) -> int:
        sender = HeldBackSender()
        sender.may_acknowledge.set()
        writer, measures = a_writer(sender), Measures()
        source = SourceLog("events", "id", 0, 0, 100)
        held = Held(writer.fold, source, SourcePosition(0), Decoder(0, 1), writer, (), 0.0)
        folder = Folder(Settings(), lambda _partition: held, measures)
        for fetch in fetches:
            await folder.take(0, fetch)
        if frame:
            await write_frame(held, measures)
            assert writer.durable_offset == held.position.next_offset
        return writer.fold.position

    def junk(start: int, stop: int) -> list[Fetched]:
        return [Fetched(i, b"junk") for i in range(start, stop)]

    async def scenario() -> None:
        assert await folded(junk(0, 3), junk(3, 9)) == 0
        assert await folded(junk(0, 3), junk(3, 9), frame=True) == 9
        assert await folded(junk(0, 3), junk(3, WAITING_RECORDS_MAX)) == WAITING_RECORDS_MAX
        assert await folded(junk(0, 3), [Fetched(3, bytes(WAITING_BYTES_MAX))]) == 4

    asyncio.run(scenario())


def test_poison_is_bounded_as_events_are() -> None:
    """While a frame waits for Kafka, reading waits too: for records that are no events as for those that are."""

    async def scenario() -> None:
        sender = HeldBackSender()
        writer = a_writer(sender)
        settings = Settings(frame_events_max=5)
        source = SourceLog("events", "id", 0, 0, 100)
        held = Held(writer.fold, source, SourcePosition(0), Decoder(0, 1), writer, (), 0.0)
        measures = Measures()
        folder = Folder(settings, lambda _partition: held, measures)
        await folder.take(0, [Fetched(i, b"junk") for i in range(11)])
        assert held.events_unframed == 11
        frame = asyncio.create_task(write_frame(held, measures))
        await asyncio.sleep(0)
        await folder.take(0, [Fetched(i, b"junk") for i in range(11, 22)])
        more = asyncio.create_task(folder.take(0, [Fetched(22, b"junk")]))
        await asyncio.sleep(0.05)
        assert not more.done(), "read on although a frame's worth of dead letters waits"
        sender.may_acknowledge.set()
        await asyncio.gather(frame, more)
        assert held.position.next_offset == 23

    asyncio.run(scenario())


def test_a_frame_that_is_not_acknowledged_is_fatal_and_moves_nothing() -> None:
    async def scenario() -> None:
        sender = HeldBackSender(fails=True)
        sender.may_acknowledge.set()
        writer = a_writer(sender)
        writer.fold.apply(a_batch(0, 10))
        with pytest.raises(FatalError):
            await writer.flush()
        assert writer.durable_offset == 0

    asyncio.run(scenario())


def test_a_closed_writer_leaves_the_fold_to_the_next() -> None:
    async def scenario() -> None:
        sender = HeldBackSender()
        sender.may_acknowledge.set()
        writer = a_writer(sender)
        writer.fold.apply(a_batch(0, 10))
        writer.close()
        assert await writer.flush() is None
        assert sender.sent == []

    asyncio.run(scenario())


def test_the_log_offset_stays_where_others_wrote_between() -> None:
    async def scenario() -> None:
        sender = HeldBackSender(offset=7)
        sender.may_acknowledge.set()
        writer = a_writer(sender, log_offset=7)
        writer.fold.apply(a_batch(0, 10))
        await writer.flush()
        assert writer.log_offset == writer.log_end_offset == 8
        sender.offset += 2
        writer.fold.apply(a_batch(10, 10))
        await writer.flush()
        assert (writer.log_offset, writer.log_end_offset) == (8, 11)
        writer.seen_to(11)
        assert writer.log_offset == writer.log_end_offset

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("caught_up", "events_per_s", "age_s", "interval_s"),
    [
        (True, 0.0, 1000.0, 0.3),
        (False, 0.0, 0.0, 0.3),
        (False, 0.0, 6.0, 2.0),
        (False, 0.0, 3600.0, 10.0),
        (True, 7_999.0, 0.0, 0.3),
        (True, 8_000.0, 0.0, 0.9),
        (False, 8_000.0, 0.0, 0.9),
        (False, 50_000.0, 6.0, 2.0),
        (False, 50_000.0, 3600.0, 10.0),
    ],
)
def test_frames_grow_with_load_and_lag(caught_up: bool, events_per_s: float, age_s: float, interval_s: float) -> None:
    got = frame_interval_s(
        caught_up=caught_up, events_per_s=events_per_s, age_s=age_s, interval_s=0.3, interval_max_s=10.0
    )
    assert got == pytest.approx(interval_s)


def test_a_busy_worker_never_waits_longer_than_the_longest_time() -> None:
    got = frame_interval_s(caught_up=True, events_per_s=1e6, age_s=0.0, interval_s=7.0, interval_max_s=10.0)
    assert got == 10.0
