"""A control database that hangs does not hold up requests: the map in hand serves at once, and is renewed later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from headrace.errors import UnavailableError
from headrace.settings import Settings
from headrace.shards import router as routers
from headrace.shards.address import ShardAddress
from headrace.shards.map import INT8_END, INT8_MIN, KeyRange, ShardMap
from headrace.shards.router import PATIENCE_S, REST_S, AsyncRouter, Router

LEASE_S = 0.05


def a_map(epoch: int) -> ShardMap:
    home = {"a": ShardAddress("127.0.0.1", 5432, "a")}
    return ShardMap.of([KeyRange(1, INT8_MIN, INT8_END, "a", epoch)], home)


class Hanging(AsyncRouter):
    """Its control database accepts connections and says nothing, until it is let go."""

    def __init__(self) -> None:
        super().__init__(Settings(shard_map_lease_s=LEASE_S))
        self.connects = 0
        self.answers = asyncio.Event()

    async def _connect(self) -> Any:
        self.connects += 1
        await self.answers.wait()
        return _connection()


@asynccontextmanager
async def _connection() -> AsyncIterator[None]:
    yield None


def test_a_hanging_control_database_delays_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def load(_connection: object) -> ShardMap:
        return a_map(2)

    monkeypatch.setattr(routers, "load_map_async", load)
    asyncio.run(_hanging())


async def _hanging() -> None:
    router = Hanging()
    loop = asyncio.get_running_loop()
    router._cache.put(a_map(1), loop.time())
    await asyncio.sleep(2 * LEASE_S)
    started = loop.time()
    found = await asyncio.gather(*(router.map() for _ in range(50)))
    assert {item.epoch for item in found} == {1}
    assert loop.time() - started < PATIENCE_S + 0.4, "all wait together, and not long"
    started = loop.time()
    for _ in range(50):
        assert (await router.map()).epoch == 1
    assert loop.time() - started < 0.2, "a moment later nobody waits at all"
    assert router.connects == 1
    router.answers.set()
    await asyncio.sleep(REST_S)
    assert (await router.map()).epoch == 2, "and then the new one is taken"
    await router.close()


def test_a_refusing_control_database_is_left_alone_for_a_while_by_threads_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    def refuse(_settings: Settings) -> "psycopg.Connection[Any]":
        nonlocal asked
        asked += 1
        raise UnavailableError("away")

    monkeypatch.setattr(routers, "connect_control", refuse)
    router = Router(Settings(shard_map_lease_s=0.0))
    with pytest.raises(UnavailableError):
        router.map()
    router._cache.put(a_map(1), router._clock.monotonic())
    for _ in range(20):
        assert router.map().epoch == 1
    assert asked <= 2
