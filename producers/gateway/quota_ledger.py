"""What all gateways share of the quotas, in Redis: a bucket of tokens and a count of the month for each customer.

One script settles one question, so that nothing comes between reading and writing; Redis' own clock fills the
buckets, so that the gateways' clocks do not matter. A bucket that nobody used is full and need not be stored. A month
never counts less than a gateway knows: a Redis that lost its data is told again by the first who asks.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headrace.errors import UnavailableError
from producers.gateway.quota_account import Question, Told

PREFIX: Final = "headrace:quota:"
LEDGER_TIMEOUT_S: Final = 0.25
"""Longest wait for Redis: what a request may lose once before its gateway goes on alone."""
CONNECTIONS_MAX: Final = 8
MONTH_KEPT_S: Final = 40 * 86_400
"""A month's count outlives the month by at least nine days."""
BUCKET_KEPT_MAX_S: Final = 40 * 86_400
"""A bucket is kept until it would be full again, and at most for so long."""

# KEYS: bucket, month. ARGV: rate, capacity, need, spare, counted, events known, life of a month, longest of a bucket.
_SETTLE: Final = """
local rate, capacity = tonumber(ARGV[1]), tonumber(ARGV[2])
local need, spare = tonumber(ARGV[3]), tonumber(ARGV[4])
local granted, level, events = 0, 0, 0
if rate > 0 then
  local clock = redis.call('TIME')
  local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
  local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
  level = capacity
  if kept[1] then
    level = math.min(capacity, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * rate)
  end
  if need < 0 then
    level = math.min(capacity, level - need)
  else
    if level >= math.min(need, capacity) then
      granted = math.max(need, math.min(level, need + spare))
    else
      granted = math.max(0, math.min(level, spare))
    end
    level = level - granted
  end
  redis.call('HSET', KEYS[1], 'level', string.format('%.6f', level), 'at', string.format('%.6f', now))
  redis.call('EXPIRE', KEYS[1], math.min(tonumber(ARGV[8]), math.ceil((capacity - level) / rate) + 60))
end
if ARGV[9] == '1' then
  events = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[6])) + tonumber(ARGV[5])
  if events > 0 then
    redis.call('SET', KEYS[2], string.format('%.0f', events), 'EX', ARGV[7])
  end
end
return {string.format('%.6f', granted), string.format('%.6f', level), string.format('%.0f', events)}
"""


class RedisLedger:
    """The ledger over one Redis. Use it on one event loop only."""

    def __init__(self, url: str) -> None:
        # A script that may have run is not sent again behind our back: it counts.
        self._redis: Redis = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS_MAX,
                timeout=LEDGER_TIMEOUT_S,
                socket_timeout=LEDGER_TIMEOUT_S,
                socket_connect_timeout=LEDGER_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        )

    async def settle(self, questions: Sequence[Question]) -> list[Told]:
        """An answer to each question, in one round trip. Raises UnavailableError within LEDGER_TIMEOUT_S; what was
        asked may have been heard all the same."""
        try:
            async with asyncio.timeout(LEDGER_TIMEOUT_S):
                if len(questions) == 1:
                    return [_told(await self._redis.eval(_SETTLE, 2, *_arguments(questions[0])))]
                pipeline = self._redis.pipeline(transaction=False)
                for question in questions:
                    pipeline.eval(_SETTLE, 2, *_arguments(question))
                return [_told(answer) for answer in await pipeline.execute()]
        except (RedisError, TimeoutError, OSError) as error:
            raise UnavailableError(f"Redis does not answer: {type(error).__name__}: {error}") from error

    async def ping(self) -> None:
        """Raises UnavailableError within LEDGER_TIMEOUT_S."""
        try:
            async with asyncio.timeout(LEDGER_TIMEOUT_S):
                await self._redis.ping()
        except (RedisError, TimeoutError, OSError) as error:
            raise UnavailableError(f"Redis does not answer: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


def _arguments(question: Question) -> list[str]:
    # In a cluster both keys of a customer lie in one slot.
    customer = f"{PREFIX}{{{question.customer_id}}}"
    values: list[Any] = [
        f"{customer}:bucket",
        f"{customer}:month:{question.month}",
        question.rate,
        question.capacity,
        f"{question.need:.6f}",
        f"{question.spare:.6f}",
        question.counted,
        question.events,
        MONTH_KEPT_S,
        BUCKET_KEPT_MAX_S,
        "1" if question.month else "0",
    ]
    return [str(value) for value in values]


def _told(answer: Any) -> Told:
    granted, level, events = answer
    return Told(float(granted), float(level), int(events))
