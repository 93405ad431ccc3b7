"""Routers: the shard map at hand, never older than a lease, refreshed at once when the control database notifies.

A lease bounds how long a mover must wait before it retires a range. While the control database is away no range can
move, so a router then goes on with what it has, for a bounded time, and says so. A caller that a shard answers
`moved` calls `invalidate` and asks once more.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg_pool import PoolTimeout

from headrace import metrics
from headrace.clock import Clock, SystemClock
from headrace.errors import HeadraceError, UnavailableError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.address import CONNECT_TIMEOUT_S, connect_control
from headrace.shards.map import CHANNEL, ShardMap, load_map, load_map_async
from headrace.shards.pools import ReaderPools

STALE_MAX_S = 300.0
"""How long a map serves while the control database does not answer."""
REST_S = 2.0
"""After a failure the map in hand serves at once for this long, before the control database is asked again."""
READ_S_MAX = CONNECT_TIMEOUT_S + 2.0
"""Longest reading of the map, connecting included."""
PATIENCE_S = 0.5
"""Longest wait for a new map while one is in hand: a control database that hangs must not hold up every request."""
LISTEN_RETRY_S = 1.0
LISTEN_WAIT_S = 1.0
"""Longest wait for a notice before the listener looks whether it shall stop."""

log = get_logger(__name__)


class MapCache:
    """The map that was read last and whether it may still be used. No I/O; thread-safe."""

    def __init__(self, lease_s: float, clock: Clock) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._lock = threading.Lock()
        self._map: ShardMap | None = None
        self._read_at = 0.0
        self._retry_at = float("-inf")
        self._valid = False

    def fresh(self) -> ShardMap | None:
        """The map, if it was read within the lease and not called stale since."""
        with self._lock:
            within = self._clock.monotonic() - self._read_at < self._lease_s
            return self._map if self._valid and within else None

    @property
    def last(self) -> ShardMap | None:
        """The newest map that was read, however old."""
        with self._lock:
            return self._map

    def put(self, shard_map: ShardMap, asked_at: float) -> ShardMap:
        """Keep what was asked for at `asked_at` (monotonic); an older epoch never replaces a newer one."""
        with self._lock:
            if self._map is None or shard_map.epoch >= self._map.epoch:
                self._map = shard_map
                self._read_at = asked_at
                self._valid = True
                metrics.gauge("headrace_shard_map_epoch").set(shard_map.epoch)
            return self._map

    def stale(self, error: UnavailableError) -> ShardMap:
        """The last map, when it could not be read again. Raises `error` when there is none or it is too old."""
        with self._lock:
            age_s = self._clock.monotonic() - self._read_at
            if self._map is None or age_s > STALE_MAX_S:
                raise error
            log.warning("shard_map_stale", age_s=round(age_s, 1), error=str(error))
            return self._map

    def resting(self) -> bool:
        """Whether the control database failed a moment ago and the last map may serve meanwhile."""
        with self._lock:
            now = self._clock.monotonic()
            return self._map is not None and now < self._retry_at and now - self._read_at <= STALE_MAX_S

    def rest(self) -> None:
        """The control database did not answer: leave it alone for a while."""
        with self._lock:
            self._retry_at = self._clock.monotonic() + REST_S

    def invalidate(self) -> None:
        """Read the map anew at the next question."""
        with self._lock:
            self._valid = False


class Router:
    """The shard map for threads. `close` it, or use it as a context manager."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._cache = MapCache(settings.shard_map_lease_s, self._clock)
        self._closing = threading.Event()
        self._listener: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._listener = threading.Thread(target=self._listen, name="shard-map", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. The router may still be asked; it then lives by its lease alone."""
        self._closing.set()
        if self._listener is not None:
            self._listener.join()

    def map(self) -> ShardMap:
        """The map; reads it when the lease is over (blocks). Raises UnavailableError, ConfigurationError."""
        fresh = self._cache.fresh()
        if fresh is not None:
            return fresh
        if self._cache.resting():
            return self._cache.stale(_silent())
        asked_at = self._clock.monotonic()
        try:
            with connect_control(self._settings) as connection:
                return self._cache.put(load_map(connection), asked_at)
        except UnavailableError as error:
            self._cache.rest()
            return self._cache.stale(error)
        except psycopg.OperationalError as error:
            self._cache.rest()
            return self._cache.stale(UnavailableError(f"the control database failed: {error}"))

    def latest(self) -> ShardMap | None:
        """The newest map that was read, however old. Never blocks; the listener keeps it up to date."""
        return self._cache.last

    def shard_of(self, customer_id: int) -> str:
        """The shard that holds `customer_id`. Blocks and raises as `map`."""
        return self.map().shard_of(customer_id)

    def invalidate(self) -> None:
        """Read the map anew at the next question."""
        self._cache.invalidate()

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                with connect_control(self._settings) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._cache.invalidate()  # a notice may have come while nobody listened
                    while not self._closing.is_set():
                        if self._cache.fresh() is None:
                            self._cache.put(load_map(connection), self._clock.monotonic())
                        for _ in connection.notifies(timeout=LISTEN_WAIT_S, stop_after=1):
                            self._cache.invalidate()
            except (HeadraceError, psycopg.Error) as error:  # also a database that is not migrated yet
                log.warning("shard_map_not_followed", error=str(error).split("\n")[0])
                self._closing.wait(LISTEN_RETRY_S)


class AsyncRouter:
    """The shard map and bounded reader connections for one event loop. Use as an async context manager."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._cache = MapCache(settings.shard_map_lease_s, self._clock)
        self._pools = ReaderPools(settings)
        self._reading: asyncio.Task[ShardMap] | None = None
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listener = asyncio.create_task(self._listen(), name="shard-map")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError, HeadraceError):
                await self._reading
        await self._pools.close()

    async def map(self) -> ShardMap:
        """The map; reads it when the lease is over. Raises UnavailableError, ConfigurationError."""
        fresh = self._cache.fresh()
        if fresh is not None:
            return fresh
        if self._cache.resting():
            return self._cache.stale(_silent())
        # One reads, the others take what it gets; nobody who has an older map waits long for it.
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="shard-map-read")
        reading = self._reading
        await asyncio.wait({reading}, timeout=PATIENCE_S if self._cache.last is not None else None)
        if reading.done():
            return reading.result()
        self._cache.rest()
        return self._cache.stale(_silent())

    async def _read(self) -> ShardMap:
        """The map of the control database, else the last one. Raises UnavailableError, ConfigurationError."""
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(READ_S_MAX):
                async with await self._connect() as connection:
                    return self._cache.put(await load_map_async(connection), asked_at)
        except (psycopg.OperationalError, TimeoutError) as error:
            self._cache.rest()
            return self._cache.stale(
                UnavailableError(f"the control database does not answer: {error}", remedy="is it running?")
            )

    async def shard_of(self, customer_id: int) -> str:
        """The shard that holds `customer_id`. Raises as `map`."""
        return (await self.map()).shard_of(customer_id)

    def invalidate(self) -> None:
        """Read the map anew at the next question."""
        self._cache.invalidate()

    @asynccontextmanager
    async def customer(self, customer_id: int) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection to the customer's shard, in a read-only transaction that sees this customer alone.

        Row-level security is bound by `SET LOCAL headrace.customer_id`; the transaction ends with the block. The
        transaction is REPEATABLE READ, so that several statements (rows and cursors) see one state.
        Raises UnavailableError when the shard does not answer or its connections are all busy.
        """
        shard_map = await self.map()
        shard_id = shard_map.shard_of(customer_id)
        pool = await self._pools.of(shard_id, shard_map.addresses[shard_id])
        try:
            async with pool.connection() as connection, connection.transaction():
                await connection.execute("SELECT set_config('headrace.customer_id', %s, true)", (str(customer_id),))
                yield connection
        except psycopg.errors.QueryCanceled:
            raise  # the caller's statement ran too long; the shard is well
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise UnavailableError(f"shard {shard_id} does not answer: {error}", remedy="try again") from error

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._settings.postgres_control, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
        )

    async def _listen(self) -> None:
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._cache.invalidate()  # a notice may have come while nobody listened
                    async for _ in connection.notifies():
                        self._cache.invalidate()
            except psycopg.Error:
                await asyncio.sleep(LISTEN_RETRY_S)


def _silent() -> UnavailableError:
    return UnavailableError("the control database does not answer", remedy="is it running?")
