"""Makes the topics that schemas/topics.py defines, and tells which there are.

Guarantees: repeatable; a topic that exists is never altered. Refuses an existing topic with another number of
partitions than the settings say: the partition is part of every row's key, so another count is another incarnation.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace.errors import ConfigurationError, UnavailableError
from headrace.kafka import (
    ADMIN_TIMEOUT_S,
    AdminClient,
    KafkaError,
    KafkaException,
    NewTopic,
    OffsetSpec,
    TopicIdentity,
    TopicPartition,
    admin,
    topic_identity,
)
from headrace.settings import Settings
from schemas.topics import TopicDefinition, Topics, definitions

LEADERS_WAIT_S: Final = 10.0
LEADERS_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as defined and as it is: `partitions` is None when it does not exist."""

    definition: TopicDefinition
    partitions: int | None


def topic_states(settings: Settings) -> list[TopicState]:
    """All defined topics. Raises UnavailableError."""
    try:
        known = admin(settings).list_topics(timeout=ADMIN_TIMEOUT_S).topics
    except KafkaException as error:
        raise _unavailable(settings, error) from error
    return [
        TopicState(item, len(known[item.name].partitions) if item.name in known else None)
        for item in definitions(settings)
    ]


def events_topic_id(settings: Settings, *, timeout_s: float = ADMIN_TIMEOUT_S) -> str:
    """The broker's id of `events`, once its partitions are as many as `events_partitions`.

    Raises ConfigurationError when the counts differ or the topic does not exist, UnavailableError.
    """
    name = Topics(settings.topic_prefix).events
    identity = topic_identity(settings, name, timeout_s=timeout_s)
    check_partitions(settings, name, identity)
    return identity.topic_id


def check_partitions(settings: Settings, name: str, identity: TopicIdentity) -> None:
    """Raise ConfigurationError unless `events`, named `name`, has as many partitions as the settings say.

    A customer's partition is its key's hash by that count: with another one, most events would be taken for strays.
    """
    if identity.partitions != settings.events_partitions:
        raise ConfigurationError(
            f"topic {name!r} at {settings.kafka} has {identity.partitions} partitions, but events_partitions is "
            f"{settings.events_partitions}",
            remedy="set HEADRACE_EVENTS_PARTITIONS to what the topic had when it was first written to; partitions "
            "that were added later cannot be used",
        )


def create_topics(settings: Settings, *, dry_run: bool = False) -> list[TopicDefinition]:
    """Create what is missing; returns it. Raises UnavailableError, ConfigurationError."""
    states = topic_states(settings)
    for state in states:
        if state.partitions not in (None, state.definition.partitions):
            raise ConfigurationError(
                f"topic {state.definition.name!r} has {state.partitions} partitions instead of "
                f"{state.definition.partitions}",
                remedy=f"set HEADRACE_EVENTS_PARTITIONS to what the topic has; at {settings.kafka} it is fixed",
            )
    missing = [state.definition for state in states if state.partitions is None]
    if dry_run or not missing:
        return missing
    wanted = [
        NewTopic(item.name, item.partitions, replication_factor=settings.replication_factor, config=dict(item.config))
        for item in missing
    ]
    client = admin(settings)  # kept: a client that is collected takes its requests along
    for name, future in client.create_topics(wanted, request_timeout=ADMIN_TIMEOUT_S).items():
        try:
            future.result(ADMIN_TIMEOUT_S + 1)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # someone else was faster
                raise UnavailableError(f"topic {name!r} could not be created: {error.args[0].str()}") from error
        except TimeoutError as error:
            raise _unavailable(settings, error) from error
    _wait_for_leaders(settings, client, missing)
    return missing


def _wait_for_leaders(settings: Settings, client: AdminClient, made: Sequence[TopicDefinition]) -> None:
    """A new topic is known before its partitions have leaders; whoever comes next shall not stumble over that."""
    wanted = [TopicPartition(item.name, partition) for item in made for partition in range(item.partitions)]
    deadline = time.monotonic() + LEADERS_WAIT_S
    while True:
        futures = client.list_offsets(
            {place: OffsetSpec.latest() for place in wanted}, request_timeout=ADMIN_TIMEOUT_S
        )
        try:
            for future in futures.values():
                future.result(ADMIN_TIMEOUT_S + 1)
            return
        except (KafkaException, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise _unavailable(settings, error) from error
            time.sleep(LEADERS_POLL_S)


def _unavailable(settings: Settings, error: Exception) -> UnavailableError:
    return UnavailableError(f"Kafka at {settings.kafka} does not answer: {error}", remedy="is the broker running?")
