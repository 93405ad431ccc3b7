"""The topics, their keys and how long they keep what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.settings import Settings

FRAME_BYTES_MAX = 4 * 1024 * 1024
RECORD_BYTES_MAX = 1024 * 1024
SNAPSHOT_SEGMENT_BYTES = 64 * 1024 * 1024
SINK_POSTGRES_GROUP = "sink-postgres"
SINK_CLICKHOUSE_GROUP = "sink-clickhouse"
"""The consumer groups (after the prefix) under which sinks commit where they resume; trimming waits for them."""


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
    """All topics as `headrace topics create` makes them. An acknowledgement rests on all replicas but one."""
    names = Topics(settings.topic_prefix)
    durable = {"min.insync.replicas": str(max(1, settings.replication_factor - 1))}
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
                **durable,
            },
        ),
        TopicDefinition(
            names.aggregates,
            settings.events_partitions,
            {
                **durable,
                "retention.ms": "-1",
                "retention.bytes": "-1",
                "max.message.bytes": str(FRAME_BYTES_MAX),
                "unclean.leader.election.enable": "false",
            },
        ),
        TopicDefinition(
            names.snapshots,
            settings.events_partitions,
            {
                "cleanup.policy": "compact",
                "max.message.bytes": str(FRAME_BYTES_MAX),
                # The active segment is never cleaned: with the defaults (1 GiB, 7 days) dead snapshots fill a disk.
                "segment.bytes": str(SNAPSHOT_SEGMENT_BYTES),
                "segment.ms": "600000",
                "min.cleanable.dirty.ratio": "0.1",
                "delete.retention.ms": "3600000",
                **durable,
            },
        ),
        TopicDefinition(names.rejected, small, {"retention.ms": hours, "max.message.bytes": str(RECORD_BYTES_MAX)}),
        TopicDefinition(
            names.dead, small, {"retention.ms": hours, "max.message.bytes": str(2 * RECORD_BYTES_MAX), **durable}
        ),
    ]
