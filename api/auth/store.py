"""What the API asks the control database: tokens, keys, customers and their plans. Bounded pool; never writes."""

from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from api.auth.tokens import StoredKey
from headrace.errors import UnavailableError
from headrace.settings import Settings
from headrace.shards.plans import StoredPlan, stored_plan

WAIT_S = 2.0
WAITING_MAX = 200


class ControlStore:
    """Reads of the control database. `open` before use, `close` after."""

    def __init__(self, settings: Settings) -> None:
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            settings.postgres_control,
            name="control",
            min_size=0,
            max_size=max(1, settings.pool_size_max),
            max_waiting=WAITING_MAX,
            max_idle=300.0,
            timeout=WAIT_S,
            reconnect_timeout=WAIT_S,
            open=False,
            kwargs={"autocommit": True, "connect_timeout": 3, "options": "-c statement_timeout=5000"},
        )

    async def open(self) -> None:
        """Start the pool; does not wait for a connection."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=2.0)

    async def live_token(self, token_id: str) -> tuple[int | None, str] | None:
        """(customer id, scope) of an unrevoked, unexpired API token."""
        row = await self._one(
            "SELECT customer_id, scope FROM api_tokens WHERE jti = %s AND revoked_at IS NULL AND expires_at > now()",
            token_id,
        )
        return None if row is None else (row[0], row[1])

    async def public_keys(self) -> dict[str, StoredKey]:
        """By kid, every key that still verifies: not retired for longer than an API token lives."""
        rows = await self._all(
            "SELECT kid, public_pem, extract(epoch FROM retired_at)::float8 FROM signing_keys"
            " WHERE retired_at IS NULL OR retired_at > now() - interval '400 days'"
        )
        return {kid: StoredKey(public_pem, retired_s) for kid, public_pem, retired_s in rows}

    async def plan(self, customer_id: int) -> StoredPlan | None:
        """The customer's tracking plan. Raises ConfigurationError for one that cannot be read."""
        row = await self._one(
            "SELECT version, plan, updated_at FROM tracking_plans WHERE customer_id = %s", customer_id
        )
        return None if row is None else stored_plan(*row)

    async def customer_name(self, customer_id: int) -> str | None:
        """The customer's name; None for one that does not exist."""
        row = await self._one("SELECT name FROM customers WHERE customer_id = %s", customer_id)
        return None if row is None else str(row[0])

    async def _one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        rows = await self._all(query, *values)
        return rows[0] if rows else None

    async def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            async with self._pool.connection() as connection:
                return await (await connection.execute(query, values)).fetchall()
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise UnavailableError("the control database does not answer", remedy="is it running?") from error
