"""The topics, their keys and how long they keep what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.settings import Settings

FRAME_BYTES_MAX = 4 * 1024 * 1024
RECORD_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics' names under a prefix."""

    prefix: str = ""

    @property
    def events(self) -> str:
        """One Avro event a record; key: the customer id in ASCII."""
        return self.prefix + "events"

    @property
    def aggregates(self) -> str:
        """Frames; partition p holds what partition p of `events` became."""
        return self.prefix + "aggregates"

    @property
    def snapshots(self) -> str:
        """State of the fold; compacted; key: partition, snapshot id, chunk."""
        return self.prefix + "aggregates.snapshots"

    @property
    def rejected(self) -> str:
        """Events refused at the door, as received, with the reason in headers."""
        return self.prefix + "events.rejected"

    @property
    def dead(self) -> str:
        """Records of `events` that cannot be processed, as they are, with reason and position in headers."""
        return self.prefix + "events.dead"


@dataclass(frozen=True, slots=True)
class TopicDefinition:
    """What a topic is created with."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


def definitions(settings: Settings) -> list[TopicDefinition]:
    """All topics as `headrace topics create` makes them."""
    names = Topics(settings.topic_prefix)
    hours = str(settings.events_retention_h * 3600 * 1000)
    small = max(1, min(4, settings.events_partitions))
    return [
        TopicDefinition(
            names.events,
            settings.events_partitions,
            {
                "retention.ms": hours,
                "message.timestamp.type": "LogAppendTime",
                "max.message.bytes": str(RECORD_BYTES_MAX),
                "unclean.leader.election.enable": "false",
            },
        ),
        TopicDefinition(
            names.aggregates,
            settings.events_partitions,
            {
                "retention.ms": "-1",
                "retention.bytes": "-1",
                "max.message.bytes": str(FRAME_BYTES_MAX),
                "unclean.leader.election.enable": "false",
            },
        ),
        TopicDefinition(
            names.snapshots,
            settings.events_partitions,
            {"cleanup.policy": "compact", "max.message.bytes": str(FRAME_BYTES_MAX)},
        ),
        TopicDefinition(names.rejected, small, {"retention.ms": hours, "max.message.bytes": str(RECORD_BYTES_MAX)}),
        TopicDefinition(names.dead, small, {"retention.ms": hours, "max.message.bytes": str(2 * RECORD_BYTES_MAX)}),
    ]
