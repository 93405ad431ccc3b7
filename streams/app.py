"""The Faust app: an agent over batches, a timer, and the hooks of a rebalance. All work is done elsewhere."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import faust

from headrace.settings import Settings
from schemas.topics import Topics
from streams.assignment import Assignment
from streams.flusher import TICK_S, Flusher
from streams.folder import Folder
from streams.transport import BatchScheduler, BatchSchema, register

GROUP: Final = "streams"
POLL_RECORDS_MAX: Final = 20_000
"""Records of one fetch that are handed over together: larger batches are the lever at every later stage."""
FETCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes that a fetch takes of one partition."""
BATCHES_QUEUED_MAX: Final = 2
"""Batches between Faust's fetcher and the agent; then fetching waits. Faust's default is thousands of messages."""
SESSION_TIMEOUT_S: Final = 6.0
HEARTBEAT_INTERVAL_S: Final = 0.5
METADATA_AGE_MAX_S: Final = 5.0
"""A broker that has only just started may not know its topics yet; a group that was formed then has no partitions
until it looks again. The default is five minutes."""
COMMIT_INTERVAL_S: Final = 1.0


class StreamsApp(faust.App):  # type: ignore[misc]  # faust is untyped where mypy looks
    """Faust's app without the folders that its tables would want: our state is rebuilt from the log."""

    logger = faust.App.logger

    def _create_directories(self) -> None:
        """Make none."""


def build_app(
    settings: Settings,
    assignment: Assignment,
    folder: Folder,
    flusher: Flusher,
    stop_process: Callable[[BaseException], NoReturn],
) -> Any:
    """The app, wired and not started. Call it on the event loop it shall run on."""
    register(assignment)
    topics = Topics(settings.topic_prefix)
    app = StreamsApp(
        settings.topic_prefix + GROUP,
        broker=["kafka://" + address.strip() for address in settings.kafka.split(",")],
        broker_credentials=_credentials(settings),
        datadir=Path(settings.data_dir or "."),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=settings.events_partitions,
        ConsumerScheduler=BatchScheduler,
        stream_buffer_maxsize=BATCHES_QUEUED_MAX,
        broker_max_poll_records=POLL_RECORDS_MAX,
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_INTERVAL_S,
        broker_commit_interval=COMMIT_INTERVAL_S,
        consumer_max_fetch_size=FETCH_BYTES_MAX,
        consumer_metadata_max_age_ms=round(METADATA_AGE_MAX_S * 1000),
    )
    events = app.topic(topics.events, schema=BatchSchema(), partitions=settings.events_partitions)

    @app.agent(events, name="fold")  # type: ignore[untyped-decorator]
    async def fold(batches: Any) -> None:
        async for records in batches:
            try:
                await folder.take(records[0].partition, records)
            except Exception as error:  # an exception that passed would acknowledge the batch
                stop_process(error)

    @app.timer(TICK_S)  # type: ignore[untyped-decorator]
    async def tick() -> None:
        try:
            flusher.tick()
        except Exception as error:  # as above: a worker without its clockwork would fold and never write
            stop_process(error)

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def revoked(_sender: Any, _revoked: Any, **_: Any) -> None:
        try:
            await assignment.on_revoked()
        except Exception as error:  # Faust would log it and go on
            stop_process(error)

    @app.on_rebalance_complete.connect  # type: ignore[untyped-decorator]
    async def assigned(_sender: Any, **_: Any) -> None:
        consumer = folder.consumer = flusher.consumer = app.consumer
        try:
            await assignment.on_assigned({tp.partition for tp in consumer.assignment() if tp.topic == topics.events})
        except Exception as error:  # Faust would restart the recovery and leave the partitions unread
            stop_process(error)

    return app


def _credentials(settings: Settings) -> Any:
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_location or None) if "SSL" in protocol else None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_password,
        mechanism=settings.kafka_sasl_mechanism,
        ssl_context=context,
    )
