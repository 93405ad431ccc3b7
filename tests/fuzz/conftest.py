"""The engines of the integration tests, for the inputs that go to a gateway as it runs."""

from tests.integration.conftest import (
    engines_folder,
    kafka_address,
    kafka_engine,
    make_settings,
    postgres,
    postgres_engines,
    topic_prefix,
)

__all__ = [
    "engines_folder",
    "kafka_address",
    "kafka_engine",
    "make_settings",
    "postgres",
    "postgres_engines",
    "topic_prefix",
]
