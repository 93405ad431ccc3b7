"""How often the rules of a customer's tracking plan were broken, as the API reads it from Redis. Never writes."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.problems import ProblemError
from headrace.shards.plan_violations import RuleCount, read_violations


class Violations:
    """Counts over a client that somebody else closes; None where no Redis is configured."""

    def __init__(self, redis: Redis | None, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix

    async def read(self, customer_id: int, now_us: int, days: int) -> list[RuleCount]:
        """Counts by rule over the last `days` days, the most frequent first. Raises ProblemError."""
        if self._redis is None:
            raise ProblemError("not-answerable", "violations are counted in Redis, and none is configured")
        try:
            return await read_violations(self._redis, self._prefix, customer_id, now_us, days)
        except (RedisError, OSError) as error:
            raise ProblemError("source-unavailable", "the counts of violations are away for now") from error
