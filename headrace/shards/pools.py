"""Bounded pools of reader connections, one for each shard, made when first needed.

The role is the one that row-level security binds. A shard that is down costs its callers the wait for a connection
and nobody else anything.
"""

import asyncio
from typing import Any, TypeAlias

import psycopg
from psycopg_pool import AsyncConnectionPool

from headrace.settings import Settings
from headrace.shards.address import ShardAddress

Pool: TypeAlias = "AsyncConnectionPool[psycopg.AsyncConnection[Any]]"

CONNECTION_WAIT_S = 2.0
"""Longest wait for a free connection: a sick shard answers its customers with 503 soon, not late."""
WAITING_MAX = 200
"""Requests that may wait for one shard's connections; the next is refused at once."""
IDLE_MAX_S = 300.0


class ReaderPools:
    """Pools by shard. Of one event loop; `close` it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[str, tuple[ShardAddress, Pool]] = {}
        self._making = asyncio.Lock()

    async def of(self, shard_id: str, address: ShardAddress) -> Pool:
        """The pool of a shard; a new one when its address has changed. Does not wait for a connection."""
        known = self._pools.get(shard_id)
        if known is not None and known[0] == address:
            return known[1]
        async with self._making:
            known = self._pools.get(shard_id)
            if known is not None and known[0] == address:
                return known[1]
            if known is not None:
                await known[1].close()
            pool = await self._make(shard_id, address)
            self._pools[shard_id] = (address, pool)
            return pool

    async def close(self) -> None:
        """Close every pool and its connections."""
        pools = [pool for _, pool in self._pools.values()]
        self._pools.clear()
        await asyncio.gather(*(pool.close() for pool in pools))

    async def _make(self, shard_id: str, address: ShardAddress) -> Pool:
        statement_timeout_ms = round(self._settings.query_timeout_s * 1000)
        pool: Pool = AsyncConnectionPool(
            address.reader_dsn(self._settings),
            name=f"shard-{shard_id}",
            min_size=0,
            max_size=max(1, self._settings.pool_size_max),
            max_waiting=WAITING_MAX,
            max_idle=IDLE_MAX_S,
            timeout=CONNECTION_WAIT_S,
            reconnect_timeout=CONNECTION_WAIT_S,
            open=False,
            configure=_configure,
            kwargs={"options": f"-c statement_timeout={statement_timeout_ms}", "autocommit": True},
        )
        await pool.open(wait=False)
        return pool


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    """Every transaction reads one state and writes nothing."""
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
