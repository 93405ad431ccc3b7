"""Whoever opens the logs compares `events_partitions` with what the topic has; the worker's part is in refusals."""

import threading
from dataclasses import replace

import pytest

from api import serve as api
from headrace.errors import ConfigurationError
from headrace.kafka import topic_id
from headrace.settings import Settings
from headrace.topics import create_topics, events_topic_id
from schemas.topics import Topics
from sinks.clickhouse import ClickHouseReader
from sinks.live import LiveNotices
from tests.integration.conftest import MakeSettings

REFUSAL = "has 4 partitions, but events_partitions is 8"


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings("kafka")
    create_topics(made)
    return made


def test_the_real_count_is_what_counts(settings: Settings) -> None:
    assert events_topic_id(settings) == topic_id(settings, Topics(settings.topic_prefix).events)
    with pytest.raises(ConfigurationError, match=REFUSAL):
        events_topic_id(replace(settings, events_partitions=8))


def test_the_clickhouse_sink_refuses_another_count(settings: Settings) -> None:
    wrong = replace(settings, events_partitions=8, clickhouse="http://u:p@127.0.0.1:1/db")
    with pytest.raises(ConfigurationError, match=REFUSAL):
        ClickHouseReader(wrong, [0], LiveNotices(wrong), threading.Event())


def test_the_api_refuses_another_count(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=REFUSAL):
        api.run(replace(settings, events_partitions=8))
