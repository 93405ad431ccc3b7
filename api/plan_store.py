"""A customer's tracking plan and how often its rules were broken, as the API reads them. Never writes."""

from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from api.auth.store import ControlStore
from api.problems import ProblemError
from headrace.settings import Settings
from headrace.shards.plan_violations import RuleCount, read_violations
from headrace.shards.plans import StoredPlan, stored_plan

REDIS_TIMEOUT_S: Final = 2.0
CONNECTIONS_MAX: Final = 32


class PlanStore(ControlStore):
    """Reads of the control database about plans, and of Redis about their violations."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._prefix = settings.topic_prefix
        self._redis: Redis | None = None
        if settings.redis:
            self._redis = Redis.from_url(
                settings.redis,
                socket_timeout=REDIS_TIMEOUT_S,
                socket_connect_timeout=REDIS_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),
                max_connections=CONNECTIONS_MAX,
            )

    async def close(self) -> None:
        await super().close()
        if self._redis is not None:
            await self._redis.aclose()

    async def plan(self, customer_id: int) -> StoredPlan | None:
        """The customer's plan. Raises UnavailableError, ConfigurationError for one that cannot be read."""
        row = await self._one(
            "SELECT version, plan, updated_at FROM tracking_plans WHERE customer_id = %s", customer_id
        )
        return None if row is None else stored_plan(*row)

    async def violations(self, customer_id: int, now_us: int, days: int) -> list[RuleCount]:
        """Counts by rule over the last `days` days, the most frequent first. Raises ProblemError."""
        if self._redis is None:
            raise ProblemError("not-answerable", "violations are counted in Redis, and none is configured")
        try:
            return await read_violations(self._redis, self._prefix, customer_id, now_us, days)
        except (RedisError, OSError) as error:
            raise ProblemError("source-unavailable", "the counts of violations are away for now") from error
