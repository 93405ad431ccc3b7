"""Notices of change for open dashboards: what a commit changed goes to the customer's Redis stream.

A stream `live:{customer_id}` holds the newest notices (bounded, and gone after a quiet hour); the API reads it for
its live streams. Notices are a courtesy: when Redis is away they are dropped and counted, the sink never waits for it
longer than a moment, and pages poll instead. Entries:
    kind=stats   as_of_us, rows     rows changed by a commit; data up to `as_of_us` (broker's receipt) are in
    kind=events  as_of_us, data     JSON array, a sample of the newest stored events
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import redis

from headrace import metrics
from headrace.log import get_logger
from headrace.settings import Settings

STREAM_ENTRIES_MAX: Final = 500
STREAM_TTL_S: Final = 3_600
CUSTOMERS_PER_NOTICE_MAX: Final = 1_000
"""Customers told of one commit; those beyond see it with their next change or poll."""
TIMEOUT_S: Final = 0.25
PAUSE_S: Final = 2.0
"""How long nothing is sent after Redis has failed."""
SAMPLE_EVENTS_MAX: Final = 20
"""Sampled events of one customer in SAMPLE_EVERY_S."""
SAMPLE_EVERY_S: Final = 1.0
CUSTOMERS_SAMPLED_MAX: Final = 10_000
"""Customers whose last sample is remembered; past it the memory starts afresh."""

log = get_logger(__name__)


def stream_key(customer_id: int) -> str:
    """The Redis key of a customer's stream."""
    return f"live:{customer_id}"


class LiveNotices:
    """Sends notices; does nothing without a Redis address. Thread-safe; a call blocks for at most about TIMEOUT_S."""

    def __init__(self, settings: Settings) -> None:
        self._client: redis.Redis | None = None
        if settings.redis:
            self._client = redis.Redis.from_url(
                settings.redis, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None
            )
        self._lock = threading.Lock()
        self._silent_until = 0.0
        self._sampled_at: dict[int, tuple[float, int]] = {}

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def changed(self, rows_by_customer: Mapping[int, int], as_of_us: int) -> None:
        """Tell that rows of these customers changed; all received up to `as_of_us` is in them."""
        entries: list[tuple[int, dict[Any, Any]]] = [
            (customer_id, {"kind": "stats", "as_of_us": as_of_us, "rows": rows})
            for customer_id, rows in list(rows_by_customer.items())[:CUSTOMERS_PER_NOTICE_MAX]
        ]
        self._send(entries, left_out=len(rows_by_customer) - len(entries))

    def stored(self, events_by_customer: Mapping[int, Sequence[str]], as_of_us: int) -> None:
        """Show a sample of newly stored events (each as JSON): at most SAMPLE_EVENTS_MAX a second and customer, the
        newest ones."""
        entries: list[tuple[int, dict[Any, Any]]] = []
        for customer_id, events in list(events_by_customer.items())[:CUSTOMERS_PER_NOTICE_MAX]:
            allowed = self._allowance(customer_id, len(events))
            if allowed:
                sample = f"[{','.join(events[-allowed:])}]"
                entries.append((customer_id, {"kind": "events", "as_of_us": as_of_us, "data": sample}))
        self._send(entries, left_out=0)

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to tell."""
        return self._client is not None and time.monotonic() >= self._silent_until

    def _allowance(self, customer_id: int, count: int) -> int:
        now = time.monotonic()
        with self._lock:
            if len(self._sampled_at) > CUSTOMERS_SAMPLED_MAX:
                self._sampled_at.clear()
            began, used = self._sampled_at.get(customer_id, (now, 0))
            if now - began >= SAMPLE_EVERY_S:
                began, used = now, 0
            allowed = min(count, SAMPLE_EVENTS_MAX - used)
            self._sampled_at[customer_id] = (began, used + allowed)
            return allowed

    def _send(self, entries: Sequence[tuple[int, dict[Any, Any]]], *, left_out: int) -> None:
        if self._client is None:
            return
        dropped = metrics.counter("headrace_live_notices_dropped_total")
        if left_out:
            dropped.inc(left_out)
        if not entries:
            return
        if time.monotonic() < self._silent_until:
            dropped.inc(len(entries))
            return
        try:
            pipeline = self._client.pipeline(transaction=False)
            for customer_id, fields in entries:
                key = stream_key(customer_id)
                pipeline.xadd(key, fields, maxlen=STREAM_ENTRIES_MAX, approximate=True)
                pipeline.expire(key, STREAM_TTL_S)
            pipeline.execute()
        except redis.RedisError as error:
            self._silent_until = time.monotonic() + PAUSE_S
            dropped.inc(len(entries))
            log.warning("live_notices_dropped", count=len(entries), error=str(error))
