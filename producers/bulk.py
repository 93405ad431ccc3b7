"""Batches of encoded events into Kafka, for whatever produces columns and not requests.

A batch is settled when every record of it is acknowledged by all in-sync replicas; only then may its sender move
its own position. A record that Kafka refuses makes `settle` raise: nothing is dropped here.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from headrace import kafka
from headrace.errors import FatalError, UnavailableError
from headrace.settings import Settings
from schemas.topics import Topics

SETTLE_TIMEOUT_S = 60.0  # longer than a broker's restart; past it the sender stops and resumes from its position
QUEUED_RECORDS_MAX = 200_000  # of the client's own queue of a million: past it `send` waits
POLL_S = 0.05

Records = Sequence[tuple[bytes, bytes, list[tuple[str, bytes]]]]


class BulkPublisher:
    """One idempotent producer. Not thread-safe; `send` and `settle` block within the stated time."""

    def __init__(self, settings: Settings, *, settle_timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        self._topics = Topics(settings.topic_prefix)
        self._address = settings.kafka
        self._settle_timeout_s = settle_timeout_s
        self._failures: list[str] = []
        self._failed = 0
        # Only failures call back: 150,000 callbacks a second into Python would cost more than all the rest.
        self._producer = kafka.producer(
            settings,
            linger_ms=20,
            batch_size=1024 * 1024,
            batch_num_messages=20_000,
            delivery_report_only_error=True,
        )

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Queue one event for each value, `keys[i]` being its record's key. Waits while the queue is full."""
        messages: list[dict[str, Any]] = [
            {"key": key, "value": value} for key, value in zip(keys, values, strict=True)
        ]
        deadline = time.monotonic() + self._settle_timeout_s
        while messages:
            self._await_room(deadline)
            queued = self._producer.produce_batch(self._topics.events, messages, on_delivery=self._on_delivery)
            self._producer.poll(0)
            messages = (
                [] if queued == len(messages) else [_again(message) for message in messages if "_error" in message]
            )

    def reject(self, records: Records) -> None:
        """Queue refused inputs for `events.rejected`, each as (key, bytes as received, headers)."""
        deadline = time.monotonic() + self._settle_timeout_s
        for key, value, headers in records:
            self._await_room(deadline)
            self._producer.produce(self._topics.rejected, value, key, headers=headers, on_delivery=self._on_delivery)

    def settle(self) -> None:
        """Return when all that was queued is acknowledged.

        Raises UnavailableError when Kafka does not acknowledge in time, FatalError when it refused a record.
        """
        left = self._producer.flush(self._settle_timeout_s)
        if self._failed:
            shown = "; ".join(self._failures)
            raise FatalError(
                f"Kafka did not take {self._failed} records: {shown}", remedy="nothing after them counts"
            )
        if left:
            raise self._unavailable(left)

    def close(self) -> None:
        """Drop what is not acknowledged, at once; after `settle` that is nothing."""
        self._producer.purge()
        self._producer.flush(1)

    def _await_room(self, deadline: float) -> None:
        while len(self._producer) >= QUEUED_RECORDS_MAX:
            self._producer.poll(POLL_S)
            if time.monotonic() > deadline:
                raise self._unavailable(len(self._producer))

    def _on_delivery(self, error: kafka.KafkaError | None, message: kafka.Message) -> None:
        if error is not None:
            self._failed += 1
            if len(self._failures) < 3:
                self._failures.append(f"{message.topic()}: {error.str()}")

    def _unavailable(self, left: int) -> UnavailableError:
        return UnavailableError(
            f"Kafka at {self._address} left {left} records unacknowledged for {self._settle_timeout_s:g} s",
            remedy="is the broker running? Run the same command again: it goes on where it stopped",
        )


def _again(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message that the queue had no room for, to be queued again. Raises FatalError for any other refusal."""
    error = message["_error"]
    code = error.code() if isinstance(error, kafka.KafkaError) else None
    if code != kafka.KafkaError._QUEUE_FULL:
        raise FatalError(f"Kafka's client refused a record of {len(message['value'])} bytes: {error}")
    return {"key": message["key"], "value": message["value"]}
