"""The Postgres sink: one reader of `aggregates` for many shards, a lane for each.

The reader hands every record to every lane that is *attached*. A lane that cannot take more while others stand idle
is detached: it gets a catch-up reader of its own, which starts where the lane stopped and attaches it again once it
has drawn level. So a sick shard lags alone, and reading is not multiplied by the number of shards. When all lanes are
full alike, the reader itself pauses.
"""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from headrace import kafka, metrics
from headrace.clock import Clock, SystemClock
from headrace.kafka import Message, TopicPartition
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.map import ShardMap
from headrace.shards.router import Router
from headrace.topics import events_topic_id
from schemas.topics import Topics
from sinks.consumer import (
    FRAMES_FETCHED_MAX,
    POLL_S,
    QUEUED_KBYTES_MAX,
    ConsumerLoop,
    FrameDecoder,
    FrameRecord,
    Place,
    ReopenError,
    Subscription,
    judge,
)
from sinks.cursors import Applied
from sinks.event_ends import EventEnds
from sinks.lane import Lane
from sinks.live import LiveNotices
from sinks.shard_store import ShardStore

GROUP: Final = "sink-postgres"
CATCH_UP_GROUP: Final = "sink-postgres-catch-up"
"""librdkafka wants a group name; nothing is ever committed under it."""
LOAD_WAIT_S: Final = 3.0
"""How long the first start waits for a shard's cursors; a shard that takes longer starts detached."""
BEHIND_RECORDS_MAX: Final = 1_000
"""A lane further behind the foremost one than this starts detached, so that the others need not wait for it."""
HANDOVER_AFTER_S: Final = 0.5
"""How long a full lane may hold up idle ones before it is detached."""
TAKE_WAIT_S: Final = 0.02

log = get_logger(__name__)


class ShardReader:
    """A `consumer.Reader` over the lanes of all shards, for one assignment of partitions."""

    def __init__(
        self,
        settings: Settings,
        router: Router,
        partitions: Sequence[int],
        notices: LiveNotices,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._router = router
        self._topics = Topics(settings.topic_prefix)
        self._notices = notices
        self._map = router.map()
        self._decoder = FrameDecoder("postgres")
        topic_id = events_topic_id(settings)
        clock = clock or SystemClock()
        self.lanes = {
            shard_id: Lane(
                settings,
                ShardStore(settings, shard_id, address, clock),
                partitions,
                topic_id,
                clock,
                self._applied,
            )
            for shard_id, address in self._map.addresses.items()
        }
        self._lock = threading.Lock()  # attached lanes and the reader's place change together
        self._attached: set[str] = set()
        self._next: dict[int, int] = {}
        self._catch_ups: dict[str, CatchUp] = {}
        self._waiting: tuple[Sequence[FrameRecord], set[str]] = ((), set())
        self._held_up_since: float | None = None
        self._event_ends = EventEnds(settings, self._topics.events, partitions, clock, self._note_event_ends)
        try:
            self._open(partitions)
        except BaseException:
            self.close()  # the lanes run already
            raise
        self._event_ends.start()

    def start_offsets(self) -> Mapping[Place, int]:
        """Where the foremost lanes want to read on."""
        with self._lock:
            return {(self._topics.aggregates, partition): offset for partition, offset in self._next.items()}

    def paused(self) -> Collection[Place]:
        """All partitions while a fetch still waits for a lane, or while no lane is attached."""
        self._hand_over()
        with self._lock:
            blocked = bool(self._waiting[1]) or not self._attached
            return [(self._topics.aggregates, partition) for partition in self._next] if blocked else ()

    def take(self, messages: Sequence[Message]) -> None:
        """Give one fetch to the attached lanes; those that are full get it by and by."""
        records = self._decoder.decode(messages)
        with self._lock:
            assert not self._waiting[1]
            for record in records:
                self._next[record.partition] = record.offset + 1
            self._waiting = (records, set(self._attached))
        self._hand_over()

    def resume_offsets(self) -> Mapping[Place, int]:
        """The hindmost lane's, by partition; nothing while a shard's cursors are unknown."""
        out: dict[Place, int] = {}
        for lane in self.lanes.values():
            if not lane.wait_loaded(0):
                return {}
            for partition, offset in lane.resume_offsets().items():
                place = (self._topics.aggregates, partition)
                out[place] = min(out.get(place, offset), offset)
        return out

    def see_ends(self, ends: Mapping[Place, int]) -> None:
        """Measures each shard's lag."""
        for name, lane in self.lanes.items():
            resume = lane.resume_offsets()
            behind = [max(0, end - resume[place[1]]) for place, end in ends.items() if place[1] in resume]
            metrics.gauge("headrace_sink_lag_records", "postgres", name).set(sum(behind))

    def check(self) -> None:
        """Raise what stopped a lane or a catch-up reader; ReopenError when the shard map has changed."""
        for lane in self.lanes.values():
            if lane.failure is not None:
                raise lane.failure
        with self._lock:
            catch_ups = list(self._catch_ups.values())
        for catch_up in catch_ups:
            if catch_up.failure is not None:
                raise catch_up.failure
        latest = self._router.latest()
        if latest is not None and _places_changed(self._map, latest):
            raise ReopenError("the shard map has changed")

    def close(self) -> None:
        """Stop catch-up readers and lanes."""
        self._event_ends.stop()
        with self._lock:
            catch_ups = list(self._catch_ups.values())
            self._catch_ups.clear()
            self._attached.clear()
        for catch_up in catch_ups:
            catch_up.stopping.set()
        for catch_up in catch_ups:
            catch_up.join()
        closers = [threading.Thread(target=lane.close, name=f"close-{lane.name}") for lane in self.lanes.values()]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()

    def attach(self, shard_id: str) -> bool:
        """Attach a lane that has been given all that the reader has read; whether it had."""
        wanted = self.lanes[shard_id].wanted()
        with self._lock:
            if any(wanted[partition] < offset for partition, offset in self._next.items() if partition in wanted):
                return False
            self._attached.add(shard_id)
            self._catch_ups.pop(shard_id, None)
        metrics.gauge("headrace_sink_lanes_detached", shard_id).set(0)
        log.info("lane_attached", shard=shard_id)
        return True

    def _open(self, partitions: Sequence[int]) -> None:
        for lane in self.lanes.values():
            lane.start()
        deadline = time.monotonic() + LOAD_WAIT_S
        loaded = {
            shard_id: lane.wanted()
            for shard_id, lane in self.lanes.items()
            if lane.wait_loaded(max(0.0, deadline - time.monotonic()))
        }
        self._next = foremost(loaded, partitions)
        if not any(loaded.values()):
            ends = kafka.watermarks(self._settings, self._topics.aggregates, list(partitions))
            self._next = {partition: end for partition, (_, end) in ends.items()}
        behind = too_far_behind(loaded, self._next, BEHIND_RECORDS_MAX)
        for shard_id in self.lanes:
            if shard_id in loaded and shard_id not in behind:
                self._attached.add(shard_id)
                for partition, offset in loaded[shard_id].items():
                    self._next[partition] = min(self._next[partition], offset)
            else:
                self._start_catch_up(shard_id)

    def _hand_over(self) -> None:
        """Offer the fetch at hand to the lanes that have not taken it; detach one that holds up idle ones."""
        with self._lock:
            records, names = self._waiting
            names = {name for name in names if name in self._attached and not self.lanes[name].take(records)}
            self._waiting = (records, names)
            if not names:
                self._held_up_since = None
                return
            others = self._attached - names
            if not others or not all(self.lanes[name].idle for name in others):
                self._held_up_since = None  # all are full alike, or the others still have work: plain back-pressure
                return
            now = time.monotonic()
            self._held_up_since = self._held_up_since or now
            if now - self._held_up_since < HANDOVER_AFTER_S:
                return
            self._waiting = ((), set())
            self._held_up_since = None
            self._attached -= names
        for name in names:
            log.warning("lane_detached", shard=name)
            self._start_catch_up(name)

    def _start_catch_up(self, shard_id: str) -> None:
        metrics.gauge("headrace_sink_lanes_detached", shard_id).set(1)
        catch_up = CatchUp(self._settings, self, self.lanes[shard_id])
        with self._lock:
            self._catch_ups[shard_id] = catch_up
        catch_up.start()

    def _note_event_ends(self, ends: Mapping[int, int], at_us: int) -> None:
        for lane in self.lanes.values():
            lane.note_event_ends(ends, at_us)

    def _applied(self, applied: Applied) -> None:
        self._notices.changed(applied.changed, applied.receive_us)


class CatchUp(threading.Thread):
    """A reader for one detached lane; ends when the lane is attached again."""

    def __init__(self, settings: Settings, reader: ShardReader, lane: Lane) -> None:
        super().__init__(name=f"catch-up-{lane.name}", daemon=True)
        self._settings = settings
        self._reader = reader
        self._lane = lane
        self.stopping = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Wait for the lane's cursors, then read for it until it has drawn level with the shared reader."""
        try:
            while not self._lane.wait_loaded(POLL_S):
                if self.stopping.is_set():
                    return
            self._read()
        except Exception as error:  # the thread's edge: the shared reader raises it in its own
            log.error("catch_up_failed", shard=self._lane.name, error=str(error))
            self.failure = error

    def _read(self) -> None:
        topic = Topics(self._settings.topic_prefix).aggregates
        decoder = FrameDecoder("postgres")
        consumer = kafka.consumer(self._settings, CATCH_UP_GROUP, queued_max_messages_kbytes=QUEUED_KBYTES_MAX)
        try:
            wanted = self._lane.wanted()
            consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in wanted.items()])
            while not self.stopping.is_set() and not self._reader.attach(self._lane.name):
                first = consumer.poll(POLL_S)
                if first is None:
                    continue
                good = []
                for message in [first, *consumer.consume(FRAMES_FETCHED_MAX - 1, 0)]:
                    error = message.error()
                    if error is not None:
                        judge(error, message)
                    else:
                        good.append(message)
                records = decoder.decode(good)
                while not self._lane.take(records) and not self.stopping.is_set():
                    self.stopping.wait(TAKE_WAIT_S)
        finally:
            consumer.close()


def foremost(wanted: Mapping[str, Mapping[int, int]], partitions: Sequence[int]) -> dict[int, int]:
    """The greatest wanted offset of each partition, 0 where nobody wants any. Pure."""
    return {
        partition: max((lane[partition] for lane in wanted.values() if partition in lane), default=0)
        for partition in partitions
    }


def too_far_behind(wanted: Mapping[str, Mapping[int, int]], ahead: Mapping[int, int], records_max: int) -> set[str]:
    """The lanes that want a record further back than `records_max` before `ahead` in some partition. Pure."""
    return {
        shard_id
        for shard_id, lane in wanted.items()
        if any(ahead[partition] - offset > records_max for partition, offset in lane.items())
    }


def consumer_loop(
    settings: Settings,
    router: Router,
    notices: LiveNotices,
    stopping: threading.Event,
    partitions: tuple[int, ...] | None = None,
) -> ConsumerLoop:
    """The Postgres sink, ready to run. With `partitions` it reads exactly these and joins no group."""
    topics = Topics(settings.topic_prefix)
    return ConsumerLoop(
        settings,
        Subscription((topics.aggregates,), GROUP, partitions),
        lambda assigned: ShardReader(settings, router, assigned, notices),
        stopping,
    )


def _places_changed(before: ShardMap, now: ShardMap) -> bool:
    return before.epoch != now.epoch or before.addresses != now.addresses
