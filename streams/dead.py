"""Dead letters: records of `events` that can never be folded.

Each goes to `events.dead` as it is, with the reason and its place in Kafka Connect's own headers, acknowledged
before the frame that covers it: at least once, so a reader deduplicates by (topic, partition, offset).
"""

from dataclasses import dataclass
from typing import Final

from streams.outbox import OutgoingRecord

HEADER_TOPIC: Final = "__connect.errors.topic"
HEADER_PARTITION: Final = "__connect.errors.partition"
HEADER_OFFSET: Final = "__connect.errors.offset"
HEADER_REASON: Final = "__connect.errors.exception.message"
HEADER_STAGE: Final = "__connect.errors.stage"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record set aside, and why."""

    offset: int
    key: bytes | None
    value: bytes | None
    reason: str

    def record(self, dead_topic: str, topic: str, partition: int) -> OutgoingRecord:
        """As it is sent to `dead_topic`, having come from `partition` of `topic`."""
        headers = (
            (HEADER_TOPIC, topic.encode()),
            (HEADER_PARTITION, b"%d" % partition),
            (HEADER_OFFSET, b"%d" % self.offset),
            (HEADER_REASON, self.reason.encode()),
            (HEADER_STAGE, b"streams"),
        )
        return OutgoingRecord(dead_topic, self.value, key=self.key, headers=headers)
