"""The engines of the integration tests, for SDKs to be driven against."""

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
