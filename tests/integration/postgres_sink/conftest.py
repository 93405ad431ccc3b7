"""Settings of two shards, the logs that tests write, and sinks that end with their test."""

from collections.abc import Callable, Iterator

import pytest

from headrace import kafka
from headrace.migrations import migrate
from headrace.settings import Settings
from headrace.topics import create_topics
from schemas.topics import Topics
from tests.frame_log import PartitionLog
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.postgres_sink.world import CUSTOMERS, PARTITIONS, RunningSink


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases) -> Settings:
    made = make_settings(
        "kafka", "postgres", events_partitions=PARTITIONS, retry_backoff_s=0.05, retry_backoff_max_s=0.3
    )
    migrate(made, shards={f"shard-{n}": address for n, address in enumerate(postgres.shards, 1)})
    create_topics(made)
    return made


@pytest.fixture
def logs(settings: Settings) -> list[PartitionLog]:
    topic_id = kafka.topic_id(settings, Topics(settings.topic_prefix).events)
    return [PartitionLog(p, CUSTOMERS, size=2_000, seed=7, topic_id=topic_id) for p in range(PARTITIONS)]


@pytest.fixture
def run_sink() -> Iterator[Callable[..., RunningSink]]:
    running: list[RunningSink] = []

    def run(settings: Settings, partitions: tuple[int, ...] | None = None) -> RunningSink:
        running.append(RunningSink(settings, partitions))
        return running[-1]

    yield run
    for sink in running:
        sink.stop()
