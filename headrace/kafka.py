"""Kafka as this project uses it: the only module that imports confluent_kafka.

Producers are idempotent with acks=all and keep each partition's order; consumers never commit by themselves and
never choose a position by themselves. The partition of a key is murmur2 as in the Java client (librdkafka's
`murmur2_random`), so that every client agrees on where a customer's events are.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from headrace.errors import ConfigurationError, UnavailableError
from headrace.log import get_logger
from headrace.settings import Settings

__all__ = [
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "TIMESTAMP_LOG_APPEND_TIME",
    "AdminClient",
    "ConfigResource",
    "Consumer",
    "KafkaError",
    "KafkaException",
    "Message",
    "NewTopic",
    "OffsetSpec",
    "Producer",
    "TopicIdentity",
    "TopicPartition",
    "admin",
    "connection",
    "consumer",
    "murmur2",
    "partition_for",
    "producer",
    "topic_id",
    "topic_identity",
    "watermarks",
]

ADMIN_TIMEOUT_S = 10.0
SETTLING_POLL_S = 0.1
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
QUEUE_FULL_WAIT_MS = 10
"""How soon a consumer whose queue was full looks again for room. librdkafka's default of a second makes a queue of
2 MiB a reader of 2 MiB a second."""

log = get_logger(__name__)


def connection(settings: Settings) -> dict[str, Any]:
    """librdkafka's connection properties: addresses, TLS, SASL. Other clients translate them."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka,
        "security.protocol": settings.kafka_security_protocol,
        "socket.nagle.disable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "log_level": 0,  # unstructured lines on stderr; `_log_error` says the same in our own logs
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username
        config["sasl.password"] = settings.kafka_sasl_password
    if settings.kafka_ssl_ca_location:
        config["ssl.ca.location"] = settings.kafka_ssl_ca_location
    return config


def producer(settings: Settings, **overrides: Any) -> Producer:
    """A producer whose records land in order, once, on all in-sync replicas.

    `overrides` are librdkafka properties with `_` for `.` (`linger_ms=5`). Without idempotence (Tansu) one request
    is in flight, so that order holds; a repeated record is harmless to every reader.
    """
    config = connection(settings) | {
        "acks": "all",
        "partitioner": "murmur2_random",
        "message.max.bytes": MESSAGE_BYTES_MAX,
        "linger.ms": 5,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 256 * 1024,
        "error_cb": _log_error,
    }
    if settings.kafka_idempotence:
        config["enable.idempotence"] = True
    else:
        config["max.in.flight.requests.per.connection"] = 1
    return Producer(config | _dotted(overrides))


def consumer(settings: Settings, group: str, **overrides: Any) -> Consumer:
    """A consumer that neither commits nor resets by itself: positions come from our own stores.

    A position outside the log raises (`auto.offset.reset=error`) instead of jumping silently. All records are read,
    those of aborted transactions too, as by Faust: every reader must see the same log, and the log is what has
    offsets.
    """
    config = connection(settings) | {
        "group.id": settings.topic_prefix + group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_uncommitted",
        "fetch.message.max.bytes": MESSAGE_BYTES_MAX,
        "fetch.wait.max.ms": 50,
        "queued.max.messages.kbytes": 64 * 1024,
        "fetch.queue.backoff.ms": QUEUE_FULL_WAIT_MS,
        "error_cb": _log_error,
    }
    return Consumer(config | _dotted(overrides))


def admin(settings: Settings) -> AdminClient:
    """A client for topics, offsets and deletions."""
    return AdminClient(connection(settings) | {"error_cb": _log_error})


@dataclass(frozen=True, slots=True)
class TopicIdentity:
    """What makes a topic the one it is: another id means another log under the same name, another count of partitions
    other homes for its keys. A broker that hands out no ids (all zero) gives the empty string."""

    topic_id: str
    partitions: int


def topic_id(settings: Settings, topic: str) -> str:
    """The broker's id of `topic`. Raises as `topic_identity`."""
    return topic_identity(settings, topic).topic_id


def topic_identity(
    settings: Settings, topic: str, *, timeout_s: float = ADMIN_TIMEOUT_S, client: AdminClient | None = None
) -> TopicIdentity:
    """Id and partition count of `topic`, as the broker has them; asked through `client` by who asks often.

    Raises UnavailableError when Kafka does not answer, ConfigurationError when the topic does not exist.
    """
    client = client or admin(settings)  # kept: a client that is collected takes its requests with it
    future = client.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)[topic]
    try:
        described = future.result(timeout_s + 1)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise ConfigurationError(
                f"topic {topic!r} does not exist at {settings.kafka}", remedy="run `headrace topics create`"
            ) from error
        raise _unavailable(settings, error) from error
    except TimeoutError as error:
        raise _unavailable(settings, error) from error
    uuid = described.topic_id
    unknown = uuid is None or (uuid.get_most_significant_bits() == 0 and uuid.get_least_significant_bits() == 0)
    return TopicIdentity("" if unknown else str(uuid), len(described.partitions))


def watermarks(settings: Settings, topic: str, partitions: list[int]) -> dict[int, tuple[int, int]]:
    """First and next offset of each partition. Raises UnavailableError.

    A partition whose leader is not known yet, as just after its creation, is asked again for a while. (Tansu
    understates the end; readers there go by the fetch response instead.)
    """
    client = admin(settings)
    wanted = [TopicPartition(topic, partition) for partition in partitions]
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        try:
            low = client.list_offsets({tp: OffsetSpec.earliest() for tp in wanted}, request_timeout=ADMIN_TIMEOUT_S)
            high = client.list_offsets({tp: OffsetSpec.latest() for tp in wanted}, request_timeout=ADMIN_TIMEOUT_S)
            return {
                tp.partition: (low[tp].result(ADMIN_TIMEOUT_S).offset, high[tp].result(ADMIN_TIMEOUT_S).offset)
                for tp in wanted
            }
        except (KafkaException, TimeoutError) as error:
            if not _is_settling(error) or time.monotonic() > deadline:
                raise _unavailable(settings, error) from error
            time.sleep(SETTLING_POLL_S)


def _is_settling(error: Exception) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    )


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of `key`, as every Kafka client with the default Java partitioner computes it."""
    assert partitions > 0
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 (seed 0x9747b28c), unsigned. Source: org.apache.kafka.common.utils.Utils.murmur2."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    h = 0x9747B28C ^ length
    for i in range(0, length & ~3, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    tail = data[length & ~3 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def _dotted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in overrides.items()}


def _log_error(error: KafkaError) -> None:
    log.warning("kafka_client", error=str(error), fatal=error.fatal())


def _unavailable(settings: Settings, error: Exception) -> UnavailableError:
    return UnavailableError(f"Kafka at {settings.kafka} does not answer: {error}", remedy="is the broker running?")


OnDelivery = Callable[[KafkaError | None, Message], None]
