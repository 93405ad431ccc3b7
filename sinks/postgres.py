"""The Postgres sink: one reader of `aggregates` for many shards, a lane for each.

The reader hands every record to every lane that is *attached*. A lane that cannot take more while others stand idle
is detached: it gets a catch-up reader of its own, which starts where the lane stopped and attaches it again once it
has drawn level. So a sick shard lags alone, and reading is not multiplied by the number of shards. When all lanes are
full alike, the reader itself pauses.

A lane that fails for good (its store was filled from another log, the log does not reach back to its cursors, its
rows are refused) is set aside alone too: it is opened anew now and then, and no position is committed meanwhile, so
that nothing it needs is trimmed. Only when every lane has failed does the sink stop.
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
from schemas.topics import SINK_POSTGRES_GROUP, Topics
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

CATCH_UP_GROUP: Final = f"{SINK_POSTGRES_GROUP}-catch-up"
"""librdkafka wants a group name; nothing is ever committed under it."""
LOAD_WAIT_S: Final = 3.0
"""How long the first start waits for a shard's cursors; a shard that takes longer starts detached."""
BEHIND_RECORDS_MAX: Final = 1_000
"""A lane further behind the foremost one than this starts detached, so that the others need not wait for it."""
HANDOVER_AFTER_S: Final = 0.5
"""How long a full lane may hold up idle ones before it is detached."""
TAKE_WAIT_S: Final = 0.02
FAILED_RETRY_S: Final = 30.0
"""How long a lane that failed for good stays closed before it is opened anew; its shard may have been repaired."""

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
        self._topic_id = events_topic_id(settings)
        self._clock = clock = clock or SystemClock()
        self._partitions = list(partitions)
        self.lanes = {shard_id: self._new_lane(shard_id) for shard_id in self._map.addresses}
        self.failed: dict[str, BaseException] = {}
        """Why a lane is set aside, by shard; until it is attached again."""
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
        """The hindmost lane's, by partition; nothing while a shard's cursors are unknown or its lane has failed."""
        if self.failed:
            return {}
        out: dict[Place, int] = {}
        for lane in list(self.lanes.values()):
            if not lane.wait_loaded(0):
                return {}
            for partition, offset in lane.resume_offsets().items():
                place = (self._topics.aggregates, partition)
                out[place] = min(out.get(place, offset), offset)
        return out

    def see_ends(self, ends: Mapping[Place, int]) -> None:
        """Measures each shard's lag and freshness."""
        for name, lane in list(self.lanes.items()):
            lane.show_freshness()
            resume = lane.resume_offsets()
            behind = [max(0, end - resume[place[1]]) for place, end in ends.items() if place[1] in resume]
            metrics.gauge("headrace_sink_lag_records", "postgres", name).set(sum(behind))

    def check(self) -> None:
        """Set aside lanes that failed. Raises one's reason once all have; ReopenError when shards or ranges moved."""
        latest = self._router.latest()
        if latest is not None and _places_changed(self._map, latest):
            raise ReopenError("the shard map has changed")
        for shard_id, lane in list(self.lanes.items()):
            if isinstance(lane.failure, ReopenError):
                raise lane.failure
            if lane.failure is not None:
                self._detach(shard_id)
        with self._lock:
            reasons = list(self.failed.values())
        if reasons and len(reasons) == len(self.lanes):
            raise reasons[0]

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
            self.failed.pop(shard_id, None)
        metrics.gauge("headrace_sink_lanes_detached", shard_id).set(0)
        log.info("lane_attached", shard=shard_id)
        return True

    def set_aside(self, shard_id: str, reason: BaseException) -> None:
        """Keep why a lane that is detached has failed."""
        with self._lock:
            self.failed[shard_id] = reason
        log.error("lane_set_aside", shard=shard_id, retry_s=FAILED_RETRY_S, error=str(reason))

    def renew(self, shard_id: str) -> Lane:
        """A new lane in the place of one that failed. For its catch-up reader, which `close` waits for."""
        failed = self.lanes[shard_id]
        failed.close()
        lane = self._new_lane(shard_id, failed.fresh_us)
        self.lanes[shard_id] = lane
        lane.start()
        return lane

    def _new_lane(self, shard_id: str, fresh_us: int | None = None) -> Lane:
        ranges = [item.range_id for item in self._map.ranges_of(shard_id)]
        store = ShardStore(self._settings, shard_id, self._map.addresses[shard_id], self._clock, ranges)
        return Lane(
            self._settings,
            store,
            self._partitions,
            self._topic_id,
            self._clock,
            self._applied,
            fresh_us=fresh_us,
        )

    def _open(self, partitions: Sequence[int]) -> None:
        for lane in self.lanes.values():
            lane.start()
        deadline = time.monotonic() + LOAD_WAIT_S
        loaded = {
            shard_id: lane.wanted()
            for shard_id, lane in self.lanes.items()
            if lane.wait_loaded(max(0.0, deadline - time.monotonic()))
        }
        bounds = kafka.watermarks(self._settings, self._topics.aggregates, list(partitions))
        begins = {partition: begin for partition, (begin, _) in bounds.items()}
        # the log no longer reaches back to these: they fail by themselves, in a reader of their own
        loaded = {shard_id: wanted for shard_id, wanted in loaded.items() if not cut_off(wanted, begins)}
        self._next = foremost(loaded, partitions)
        if not any(loaded.values()):
            self._next = {partition: end for partition, (_, end) in bounds.items()}
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

    def _detach(self, shard_id: str) -> None:
        """Take a lane that failed away from the shared reader, if it has it; its own reader does the rest."""
        with self._lock:
            if shard_id not in self._attached:
                return
            self._attached.discard(shard_id)
            records, names = self._waiting
            self._waiting = (records, names - {shard_id})
        self._start_catch_up(shard_id)

    def _start_catch_up(self, shard_id: str) -> None:
        metrics.gauge("headrace_sink_lanes_detached", shard_id).set(1)
        catch_up = CatchUp(self._settings, self, self.lanes[shard_id])
        with self._lock:
            self._catch_ups[shard_id] = catch_up
        catch_up.start()

    def _note_event_ends(self, ends: Mapping[int, int], at_us: int) -> None:
        for lane in list(self.lanes.values()):
            lane.note_event_ends(ends, at_us)

    def _applied(self, applied: Applied) -> None:
        self._notices.changed(applied.changed, applied.receive_us)


class CatchUp(threading.Thread):
    """A reader for one detached lane; ends when the lane is attached again. Opens the lane anew when it failed."""

    def __init__(self, settings: Settings, reader: ShardReader, lane: Lane) -> None:
        super().__init__(name=f"catch-up-{lane.name}", daemon=True)
        self._settings = settings
        self._reader = reader
        self._lane = lane
        self.stopping = threading.Event()

    def run(self) -> None:
        """Wait for the lane's cursors, then read for it until it has drawn level with the shared reader."""
        while not self.stopping.is_set():
            try:
                self._catch_up()
                return
            except ReopenError:
                return  # the shared reader sees it at the lane, and opens all of them anew
            except Exception as error:  # the thread's edge: the reason is kept, the lane tried again slowly
                self._reader.set_aside(self._lane.name, error)
            if not self.stopping.wait(FAILED_RETRY_S):
                self._lane = self._reader.renew(self._lane.name)

    def _catch_up(self) -> None:
        while not self._lane.wait_loaded(POLL_S):
            self._raise_failure()
            if self.stopping.is_set():
                return
        topic = Topics(self._settings.topic_prefix).aggregates
        consumer = kafka.consumer(self._settings, CATCH_UP_GROUP, queued_max_messages_kbytes=QUEUED_KBYTES_MAX)
        try:
            wanted = self._lane.wanted()
            consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in wanted.items()])
            self._read(consumer)
        finally:
            consumer.close()

    def _read(self, consumer: kafka.Consumer) -> None:
        decoder = FrameDecoder("postgres")
        while not self.stopping.is_set():
            self._raise_failure()
            if self._reader.attach(self._lane.name):
                return
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
                self._raise_failure()
                self.stopping.wait(TAKE_WAIT_S)

    def _raise_failure(self) -> None:
        if self._lane.failure is not None:
            raise self._lane.failure


def cut_off(wanted: Mapping[int, int], begins: Mapping[int, int]) -> bool:
    """Whether a lane wants a record that the log no longer holds. Pure."""
    return any(offset < begins[partition] for partition, offset in wanted.items())


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
        Subscription((topics.aggregates,), SINK_POSTGRES_GROUP, partitions),
        lambda assigned: ShardReader(settings, router, assigned, notices),
        stopping,
    )


def _places_changed(before: ShardMap, now: ShardMap) -> bool:
    return before.epoch != now.epoch or before.addresses != now.addresses
