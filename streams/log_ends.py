"""Where `events` ends, and that it still is the log it was, asked beside the fetching.

What a fetch says of the log's end stands still when fetching does: a worker that is level with it would count as
level for ever. And a topic that is deleted and made again under a running worker is fetched by its name, as if
nothing had happened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace import kafka
from headrace.errors import ConfigurationError, UnavailableError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.topics import check_partitions

TIMEOUT_S: Final = 5.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LogLook:
    """What the broker said. `ends`: next offset by partition (Tansu's may be too small); `topic_id`: None when the
    topic is not there just now."""

    topic_id: str | None
    ends: Mapping[int, int]


class LogEnds:
    """Asks about one topic, with a client of its own that it keeps. Blocking; one thread at a time."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._client = kafka.admin(settings)

    def look(self, partitions: Sequence[int]) -> LogLook:
        """Raises UnavailableError when Kafka does not answer, ConfigurationError when the count of partitions is
        another now."""
        try:
            identity = kafka.topic_identity(self._settings, self._topic, timeout_s=TIMEOUT_S, client=self._client)
        except ConfigurationError as error:
            log.warning("events_missing", reason=error.message)
            return LogLook(None, {})
        check_partitions(self._settings, self._topic, identity)
        wanted = {kafka.TopicPartition(self._topic, partition): kafka.OffsetSpec.latest() for partition in partitions}
        try:
            futures = self._client.list_offsets(wanted, request_timeout=TIMEOUT_S)
            ends = {place.partition: future.result(TIMEOUT_S + 1).offset for place, future in futures.items()}
        except (kafka.KafkaException, TimeoutError) as error:
            raise UnavailableError(
                f"the ends of {self._topic} at {self._settings.kafka} are unknown: {error}"
            ) from error
        return LogLook(identity.topic_id, ends)
