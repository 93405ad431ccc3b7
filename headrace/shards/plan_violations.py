"""How often each rule of a customer's plan was broken: counts in Redis, by day, for the API to read.

One hash a customer and day, gone after DAYS_KEPT, of at most RULES_MAX rules; what comes beyond is counted together
as OTHER. A count is of stored or rejected events. Not exact where Redis dies between a count and its answer: the
gateway counts it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis

DAYS_KEPT: Final = 8
"""The day under way and the week before it."""
RULES_MAX: Final = 500
"""Different rules of one customer and day; names in them come from senders."""

_TTL_S = DAYS_KEPT * 86_400
_TIMES, _LAST = b"n", b"t"
_ADD = """
for i = 3, #ARGV, 4 do
    local rule = ARGV[i]
    if redis.call('HEXISTS', KEYS[1], 'n' .. rule) == 0
            and redis.call('HLEN', KEYS[1]) >= 2 * tonumber(ARGV[1]) then
        rule = ARGV[i + 3]
    end
    redis.call('HINCRBY', KEYS[1], 'n' .. rule, ARGV[i + 1])
    local last = redis.call('HGET', KEYS[1], 't' .. rule)
    if not last or tonumber(last) < tonumber(ARGV[i + 2]) then
        redis.call('HSET', KEYS[1], 't' .. rule, ARGV[i + 2])
    end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


class Rule(NamedTuple):
    """What was broken: the event's name, the property's JSON path, the keyword, and the mode then."""

    event: str
    path: str
    rule: str
    mode: str


class Count(NamedTuple):
    """How many events broke a rule, and when the last one was received (µs since the epoch)."""

    times: int
    last_us: int


OTHER: Final = "(other)"
"""The event under which the rules beyond RULES_MAX are counted, by mode."""


@dataclass(frozen=True, slots=True)
class RuleCount:
    """A rule and its count over the days that were asked for."""

    rule: Rule
    count: Count


def other_than(rule: Rule) -> Rule:
    """What stands for a rule for which there is no room."""
    return Rule(OTHER, "", "", rule.mode)


async def add_violations(
    redis: Redis, prefix: str, customer_id: int, counts: Mapping[Rule, Count], now_us: int
) -> None:
    """Add to the day of `now_us`. Raises RedisError."""
    arguments: list[Any] = [RULES_MAX, _TTL_S]
    for rule, count in counts.items():
        arguments += (msgspec.json.encode(rule), count.times, count.last_us, msgspec.json.encode(other_than(rule)))
    await redis.eval(_ADD, 1, _key(prefix, customer_id, now_us, 0), *arguments)


async def read_violations(redis: Redis, prefix: str, customer_id: int, now_us: int, days: int) -> list[RuleCount]:
    """The counts of the last `days` days (UTC, today being one), the most frequent first. Raises RedisError."""
    assert 0 < days <= DAYS_KEPT
    found: dict[Rule, Count] = {}
    for back in range(days):
        fields: dict[Any, Any] = await redis.hgetall(_key(prefix, customer_id, now_us, back))
        for field, times in fields.items():
            if field[:1] == _TIMES:
                rule = msgspec.json.decode(field[1:], type=Rule)
                last_us = int(fields.get(_LAST + field[1:], b"0"))
                before = found.get(rule, Count(0, 0))
                found[rule] = Count(before.times + int(times), max(before.last_us, last_us))
    ordered = sorted(found.items(), key=lambda item: (-item[1].times, item[0]))
    return [RuleCount(rule, count) for rule, count in ordered]


def _key(prefix: str, customer_id: int, now_us: int, days_back: int) -> str:
    day = datetime.fromtimestamp(now_us // 1_000_000, UTC) - timedelta(days=days_back)
    return f"{prefix}plan:{customer_id}:{day:%Y%m%d}"
