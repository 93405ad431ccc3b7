"""Events into Kafka: a request is settled when each of its records is acknowledged by all in-sync replicas.

One idempotent producer, one event loop, no threads of ours: delivery reports are polled on the loop while something
is unsettled. Bounded: records by
RECORDS_MAX, time by `ingest_publish_timeout_s`, bytes by what the requests hold until their last report is in, also
when nobody waits for the answer any more. A record may land although its request was answered 503; the sender's
retry is then a duplicate, which its message id takes out.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from headrace import kafka, metrics
from headrace.clock import Clock
from headrace.errors import HeadraceError, OverloadedError, PoisonError, UnavailableError
from headrace.log import get_logger
from headrace.settings import Settings
from producers.gateway.answers import RETRY_AFTER_S
from producers.gateway.encode import Records, encoded
from producers.gateway.normalise import Row
from schemas.event import record_key
from schemas.topics import Topics

RECORDS_MAX: Final = 400_000
"""Unsettled records; the client's own queue holds more, so that it never refuses one of a request's records."""
POLL_S: Final = 0.001
LINGER_MS: Final = 5
"""How long Kafka's client collects records. 15 ms spared Kafka a tenth, single events lost a sixth."""
REJECTED_BYTES_MAX: Final = 512 * 1024
"""Of a rejected event this much is kept, from its start; the record's header says if there was more."""
REJECTED_STAGE: Final = b"ingest"
PROBE_TIMEOUT_S: Final = 2.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    """An event set aside: whose it is, the stable name of the reason, a sentence, the bytes as received."""

    customer_id: int
    reason: str
    message: str
    raw: bytes


class _Delivery:
    """The records of one request on their way. Reports come on the event loop, from `poll`."""

    __slots__ = ("_done", "_on_error", "_on_settled", "failure", "left")

    def __init__(
        self,
        left: int,
        done: "asyncio.Future[None]",
        on_settled: Callable[[], None],
        on_error: Callable[[kafka.KafkaError], None],
    ) -> None:
        self.left = left
        self.failure: HeadraceError | None = None
        self._done = done
        self._on_settled = on_settled
        self._on_error = on_error

    def report(self, error: kafka.KafkaError | None, _: kafka.Message | None) -> None:
        """One record's outcome."""
        if error is not None:
            self._on_error(error)
            self.failure = self.failure or _failure(error)
        elif self.left > 1:  # nearly all calls end here
            self.left -= 1
            return
        self._less(1)

    def fail(self, failure: HeadraceError, records: int) -> None:
        """`records` of them will have no report."""
        self.failure = self.failure or failure
        self._less(records)

    def _less(self, records: int) -> None:
        if self.left <= 0:  # failed as a whole before, and now reported all the same
            return
        self.left -= records
        if self.left > 0:
            return
        self._on_settled()
        if self._done.done():  # the request's time was up
            return
        if self.failure is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(self.failure)


class Publisher:
    """The gateway's producer. Use it on one event loop only."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._topics = Topics(settings.topic_prefix)
        self._timeout_s = settings.ingest_publish_timeout_s
        self._producer = self._new_producer()
        self._fatal: kafka.KafkaError | None = None
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._polling = False
        self._unsettled = 0
        self._seconds = metrics.histogram("headrace_publish_seconds")

    async def publish(
        self, events: Sequence[Row] | Records, rejected: Sequence[RejectedEvent], on_settled: Callable[[], None]
    ) -> None:
        """Return when all records are acknowledged. `events` are one customer's. `on_settled` is called exactly once,
        when Kafka's client holds none of them any more, which may be after this raised.

        Raises UnavailableError (Kafka away, slow, or refusing), OverloadedError (too much unsettled), PoisonError
        (rows that no record can hold).
        """
        count = len(events) + len(rejected)
        if not count:
            on_settled()
            return
        if self._unsettled + count > RECORDS_MAX:
            on_settled()
            raise OverloadedError(
                f"{self._unsettled} records wait for Kafka, at most {RECORDS_MAX} may", retry_after_s=RETRY_AFTER_S
            )
        started = self._clock.monotonic()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsettled += count

        def settled() -> None:
            self._unsettled -= count
            on_settled()

        delivery = _Delivery(count, done, settled, self._note)
        self._renew_after_fatal()
        self._send_rejected(rejected, delivery)
        self._send(events, delivery)
        self._waiting.append((started + self._timeout_s, done))
        self._start_polling()
        await done
        self._seconds.observe(self._clock.monotonic() - started)

    def probe(self) -> str | None:
        """What is wrong with Kafka, or None. Blocks up to PROBE_TIMEOUT_S: call it from a thread."""
        try:
            topics = self._producer.list_topics(self._topics.events, timeout=PROBE_TIMEOUT_S).topics
        except kafka.KafkaException as error:
            return f"Kafka at {self._settings.kafka} does not answer: {error.args[0].str()}"
        topic = topics.get(self._topics.events)
        if topic is None or topic.error is not None:
            return f"topic {self._topics.events!r} does not exist; run `headrace topics create`"
        return None

    async def close(self) -> None:
        """Give what is unsettled its time, then let go. After a clean stop nothing is unsettled."""
        left = await asyncio.to_thread(self._producer.flush, self._timeout_s)
        if left:
            log.warning("publish_unsettled", records=left, remedy="their senders were answered 503 and retry")

    def _new_producer(self) -> kafka.Producer:
        return kafka.producer(
            self._settings,
            linger_ms=LINGER_MS,
            message_timeout_ms=max(1, int(self._settings.ingest_publish_timeout_s * 1000)),
            queue_buffering_max_messages=2 * RECORDS_MAX,
            queue_buffering_max_kbytes=max(1024, 4 * self._settings.ingest_inflight_bytes_max // 1024),
        )

    def _send(self, events: Sequence[Row] | Records, delivery: _Delivery) -> None:
        count = len(events)
        if not count:
            return
        try:
            records = events if isinstance(events, Records) else encoded(events)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:  # a fault of ours
            log.error("publish_unencodable", rows=count, error=str(error)[:500])
            delivery.fail(PoisonError("unencodable", "the events cannot be encoded"), count)
            return
        key, report = record_key(records.customer_id), delivery.report
        messages: list[dict[str, Any]] = [
            {"value": value, "key": key, "callback": report} for value in records.values
        ]
        try:
            queued = self._producer.produce_batch(self._topics.events, messages)
        except (kafka.KafkaException, BufferError) as error:
            # Single records are refused in their messages; this is the client as a whole, such as a closed one.
            log.error("publish_refused", records=count, error=str(error))
            delivery.fail(UnavailableError(f"Kafka's client took no record: {error}"), count)
            return
        if queued < count:
            for message in messages:
                if "_error" in message:
                    report(message["_error"], None)

    def _send_rejected(self, rejected: Sequence[RejectedEvent], delivery: _Delivery) -> None:
        for item in rejected:
            headers = [
                ("__connect.errors.topic", self._topics.events.encode()),
                ("__connect.errors.stage", REJECTED_STAGE),
                ("__connect.errors.exception.message", item.reason.encode()),
                ("__connect.errors.exception.detail", item.message.encode()),
            ]
            if len(item.raw) > REJECTED_BYTES_MAX:
                headers.append(("headrace.truncated_from_bytes", b"%d" % len(item.raw)))
            try:
                self._producer.produce(
                    self._topics.rejected,
                    item.raw[:REJECTED_BYTES_MAX],
                    record_key(item.customer_id),
                    headers=headers,
                    on_delivery=delivery.report,
                )
            except (kafka.KafkaException, BufferError) as error:
                delivery.fail(UnavailableError(f"Kafka's client took no record: {error}"), 1)

    def _start_polling(self) -> None:
        if not self._polling and (self._unsettled or self._waiting):
            self._polling = True
            asyncio.get_running_loop().call_later(POLL_S, self._poll)

    def _poll(self) -> None:
        self._producer.poll(0)
        self._end_waiting()
        self._polling = False
        self._start_polling()

    def _end_waiting(self) -> None:
        """Answer whose time is up. All have the same time, so they come in its order."""
        waiting = self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= self._clock.monotonic()):
            _, done = waiting.popleft()
            if not done.done():
                text = f"Kafka did not acknowledge within {self._timeout_s:g} s"
                done.set_exception(UnavailableError(text, retry_after_s=RETRY_AFTER_S))

    def _note(self, error: kafka.KafkaError) -> None:
        if error.fatal() or error.code() == kafka.KafkaError._FATAL:
            self._fatal = error

    def _renew_after_fatal(self) -> None:
        """An idempotent producer that met a fatal error takes nothing any more: fail what it holds, make another."""
        if not self._polling:  # nothing looks after it while nothing is unsettled
            self._producer.poll(0)
        if self._fatal is None:
            return
        log.error("producer_renewed", error=str(self._fatal), unsettled=self._unsettled)
        self._producer.purge()
        self._producer.poll(0)
        self._producer, self._fatal = self._new_producer(), None


def _failure(error: kafka.KafkaError) -> HeadraceError:
    return UnavailableError(f"Kafka did not take a record: {error.str()}", retry_after_s=RETRY_AFTER_S)
