"""The Postgres sink in a thread of the test, over real Kafka and two real shards, and what the shards must hold."""

import threading
import time
from collections.abc import Callable, Sequence

from headrace import kafka, metrics
from headrace.settings import Settings
from headrace.shards.router import Router
from schemas.topics import SINK_POSTGRES_GROUP, Topics
from sinks import postgres as postgres_sink
from sinks.consumer import ConsumerLoop
from sinks.live import LiveNotices
from tests.frame_log import PartitionLog, Row, applied_to

PARTITIONS = 2
# By the first deal of two shards: 1 and 200,001 lie on the first, 100,001 and 300,005 on the second.
CUSTOMERS = (1, 2, 100_001, 200_001, 300_005)
FIRST_SHARD = {1, 2, 200_001}
WAIT_S = 30.0
NOT_COMMITTED = -1001
"""What the broker's client says of a partition without a committed offset."""


class RunningSink:
    """The sink's loop in a thread of this process."""

    def __init__(self, settings: Settings, partitions: tuple[int, ...] | None = None) -> None:
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._router = Router(settings)
        self.loop: ConsumerLoop = postgres_sink.consumer_loop(
            settings, self._router, LiveNotices(settings), self.stopping, partitions
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._router.close()


def expected(logs: Sequence[PartitionLog], shard: int) -> list[Row]:
    rows = [row for log in logs for row in log.rows(0, log.size)]
    return sorted(row for row in rows if (row[0] in FIRST_SHARD) == (shard == 0))


def wait_until(what: Callable[[], bool], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def caught_up(dsn: str, logs: Sequence[PartitionLog]) -> bool:
    return applied_to(dsn) == {log.partition: {log.size} for log in logs}


def counted(series: str) -> float:
    lines = metrics.exposition()[0].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


def committed(settings: Settings, within_s: float = 10) -> dict[int, int]:
    """What the sink's group says is no longer needed, once it says so of everything or the time is over."""
    topic = Topics(settings.topic_prefix).aggregates
    asking = kafka.consumer(settings, SINK_POSTGRES_GROUP)
    try:
        deadline = time.monotonic() + within_s
        while True:
            found = asking.committed([kafka.TopicPartition(topic, p) for p in range(PARTITIONS)], 10)
            offsets = {item.partition: item.offset for item in found}
            if offsets == ends(settings) or time.monotonic() > deadline:
                return offsets
            time.sleep(0.2)
    finally:
        asking.close()


def ends(settings: Settings) -> dict[int, int]:
    topic = Topics(settings.topic_prefix).aggregates
    return {p: end for p, (_, end) in kafka.watermarks(settings, topic, list(range(PARTITIONS))).items()}
