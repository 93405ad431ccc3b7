"""Counts of broken rules on their way from this gateway to Redis, where the API reads them.

Sent every FLUSH_S, and at the end; without Redis only the metric counts. Never holds up a request: what Redis does
not take waits here, at most CUSTOMERS_MAX customers with RULES_MAX rules each. A gateway that is killed loses the
counts of its last FLUSH_S, never an event.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headrace import metrics
from headrace.clock import Clock
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.plan_violations import RULES_MAX, Count, Rule, add_violations, other_than

FLUSH_S: Final = 2.0
CUSTOMERS_MAX: Final = 1_000
"""Customers with counts that wait for Redis; beyond them only the metric counts."""
REDIS_TIMEOUT_S: Final = 2.0

log = get_logger(__name__)


class ViolationCounts:
    """The counts of one gateway process. Use it on one event loop only."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._clock = clock
        self._prefix = settings.topic_prefix
        self._redis: Redis | None = None
        if settings.redis:
            self._redis = Redis.from_url(
                settings.redis,
                socket_timeout=REDIS_TIMEOUT_S,
                socket_connect_timeout=REDIS_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),  # a repeated count would count twice
                max_connections=2,
            )
        self._waiting: dict[int, dict[Rule, Count]] = {}
        self._closing = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    def add(self, customer_id: int, broken: Mapping[Rule, int], at_us: int) -> None:
        """Count the rules that a request's events broke, once its events are acknowledged. Never blocks."""
        for rule, times in broken.items():
            metrics.counter("headrace_plan_violations_total", rule.mode).inc(times)
        if self._redis is None or not broken:
            return
        if customer_id not in self._waiting and len(self._waiting) >= CUSTOMERS_MAX:
            return
        add_counts(self._waiting.setdefault(customer_id, {}), {rule: Count(n, at_us) for rule, n in broken.items()})
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_until_empty())

    async def close(self) -> None:
        """Send what waits, if Redis takes it at once."""
        self._closing.set()
        if self._sending is not None:
            await self._sending  # what is on its way is not sent twice
        if self._redis is not None:
            await self._send()
            await self._redis.aclose()

    async def _send_until_empty(self) -> None:
        try:
            while self._waiting and not self._closing.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(FLUSH_S):
                        await self._closing.wait()
                await self._send()
        finally:
            self._sending = None

    async def _send(self) -> None:
        assert self._redis is not None
        for customer_id in list(self._waiting):
            counts = self._waiting.pop(customer_id)
            try:
                await add_violations(self._redis, self._prefix, customer_id, counts, self._clock.now_us())
            except (RedisError, OSError) as error:
                log.warning("plan_violations_unsent", error=type(error).__name__, customers=len(self._waiting) + 1)
                add_counts(self._waiting.setdefault(customer_id, {}), counts)
                return


def add_counts(held: dict[Rule, Count], more: Mapping[Rule, Count]) -> None:
    """Add to what is held, of at most RULES_MAX rules besides those that stand for others."""
    for rule, count in more.items():
        if rule not in held and len(held) >= RULES_MAX:
            rule = other_than(rule)  # noqa: PLW2901 (counted all the same, under one name)
        before = held.get(rule, Count(0, 0))
        held[rule] = Count(before.times + count.times, max(before.last_us, count.last_us))
