"""Watches where `events` ends, for a sink that does not read it.

A sink that is level with the end of `events` may say that nothing is missing up to the time of the look, although the
newest record may be hours old.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from headrace import kafka
from headrace.clock import Clock
from headrace.kafka import TopicPartition
from headrace.log import get_logger
from headrace.settings import Settings

LOOK_EVERY_S: Final = 1.0
TIMEOUT_S: Final = 5.0

log = get_logger(__name__)


class EventEnds(threading.Thread):
    """Calls `told` with (next offset by partition, time of the look in microseconds) about every second."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        partitions: Sequence[int],
        clock: Clock,
        told: Callable[[Mapping[int, int], int], None],
    ) -> None:
        super().__init__(name="event-ends", daemon=True)
        self._client = kafka.admin(settings)
        self._wanted = [TopicPartition(topic, partition) for partition in partitions]
        self._clock = clock
        self._told = told
        self._stopping = threading.Event()

    def run(self) -> None:
        """Look until told to stop. Kafka being away only means that nothing is told."""
        while not self._stopping.wait(LOOK_EVERY_S):
            looked_at_us = self._clock.now_us()
            try:
                futures = self._client.list_offsets(
                    {place: kafka.OffsetSpec.latest() for place in self._wanted}, request_timeout=TIMEOUT_S
                )
                ends = {place.partition: future.result(TIMEOUT_S + 1).offset for place, future in futures.items()}
            except (kafka.KafkaException, TimeoutError) as error:
                log.warning("event_ends_unknown", error=str(error))
            else:
                self._told(ends, looked_at_us)

    def stop(self) -> None:
        """End within one look."""
        self._stopping.set()
        if self.ident is not None:
            self.join(TIMEOUT_S + 2)
