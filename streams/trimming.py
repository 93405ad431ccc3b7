"""Which frames nobody needs any more.

Frames below all of these may go: the second-newest snapshot's resume offset (the newest might turn out damaged),
every sink's committed resume offset, and a minimum age, so that a standby or a restored backup can go on. Nothing is
deleted while a sink that has to be there has committed nothing.
"""

from typing import Final

from headrace import kafka
from headrace.clock import SystemClock
from headrace.errors import ConfigurationError, UnavailableError
from headrace.log import get_logger
from headrace.settings import Settings
from schemas.topics import SINK_CLICKHOUSE_GROUP, SINK_POSTGRES_GROUP

GROUPS: Final = {"postgres": SINK_POSTGRES_GROUP, "clickhouse": SINK_CLICKHOUSE_GROUP}
COMMITTED_TIMEOUT_S: Final = 10.0

log = get_logger(__name__)


def sink_groups(settings: Settings) -> list[str]:
    """Groups whose committed offsets on `aggregates` hold frames back. Raises ConfigurationError on an unknown name.

    A worker needs no ClickHouse of its own, so `trim_waits_for` can name that sink where `clickhouse` is not set.
    """
    names = [name.strip() for name in settings.trim_waits_for.split(",") if name.strip()]
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise ConfigurationError(
            f"trim_waits_for names {unknown[0]!r}, which is no sink", remedy=f"known are {', '.join(GROUPS)}"
        )
    return [GROUPS[name] for name in names or ["postgres", *(["clickhouse"] if settings.clickhouse else [])]]


def trim(settings: Settings, topic: str, partition: int, snapshot_offset: int) -> int | None:
    """Delete frames of `partition` below what is safe; gives the new first offset, None when nothing was deleted.

    `snapshot_offset`: resume offset of the second-newest snapshot. Blocking. Raises UnavailableError.
    """
    begin, _ = kafka.watermarks(settings, topic, [partition])[partition]
    limits = [snapshot_offset]
    for group in sink_groups(settings):
        committed = _committed(settings, group, topic, partition)
        if committed is None:
            log.warning("aggregates_held", partition=partition, by=group)
            return None
        limits.append(committed)
    limits.append(_first_younger(settings, topic, partition))
    offset = min(limits)
    if offset <= begin:
        return None
    _delete_below(settings, topic, partition, offset)
    log.info("aggregates_trimmed", partition=partition, from_offset=begin, to_offset=offset)
    return offset


def _committed(settings: Settings, group: str, topic: str, partition: int) -> int | None:
    client = kafka.consumer(settings, group)
    try:
        found = client.committed([kafka.TopicPartition(topic, partition)], COMMITTED_TIMEOUT_S)[0]
    except kafka.KafkaException as error:
        raise UnavailableError(f"the offsets of group {group} cannot be read: {error}") from error
    finally:
        client.close()
    return found.offset if found.offset >= 0 else None


def _first_younger(settings: Settings, topic: str, partition: int) -> int:
    """The first frame that is younger than the minimum age, or the log's end."""
    since_ms = SystemClock().now_us() // 1000 - round(settings.aggregates_age_min_s * 1000)
    wanted = kafka.TopicPartition(topic, partition)
    client = kafka.admin(settings)
    try:
        futures = client.list_offsets({wanted: kafka.OffsetSpec.for_timestamp(max(0, since_ms))})
        offset: int = futures[wanted].result(COMMITTED_TIMEOUT_S).offset
    except (kafka.KafkaException, TimeoutError) as error:
        raise UnavailableError(f"{topic} partition {partition} cannot be searched by time: {error}") from error
    return offset if offset >= 0 else kafka.watermarks(settings, topic, [partition])[partition][1]


def _delete_below(settings: Settings, topic: str, partition: int, offset: int) -> None:
    wanted = kafka.TopicPartition(topic, partition, offset)
    client = kafka.admin(settings)  # must outlive its futures
    futures = client.delete_records([wanted], request_timeout=COMMITTED_TIMEOUT_S)
    try:
        futures[wanted].result(COMMITTED_TIMEOUT_S + 1)
    except (kafka.KafkaException, TimeoutError) as error:
        raise UnavailableError(f"{topic} partition {partition} was not trimmed: {error}") from error
