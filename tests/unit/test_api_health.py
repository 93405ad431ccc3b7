"""/readyz is public: it asks the control database at most once a second, however often it is asked."""

import asyncio
from pathlib import Path

import httpx

from api.app import create_app
from api.auth import keys
from api.auth.tokens import StoredKey
from api.routes.health import READY_CACHE_S
from api.serve import make_deps
from headrace.clock import ManualClock
from headrace.errors import UnavailableError
from headrace.settings import Settings
from headrace.shards.address import ShardAddress
from headrace.shards.map import INT8_END, INT8_MIN, KeyRange, ShardMap

HOME = {"a": ShardAddress("127.0.0.1", 5432, "a")}


def test_a_second_of_questions_costs_one_look(tmp_path: Path) -> None:
    asyncio.run(_asked_often(tmp_path / "signing.pem"))


async def _asked_often(key_file: Path) -> None:
    clock = ManualClock(1_800_000_000_000_000)
    deps = make_deps(Settings(), keys._make(key_file), clock)
    looks, away = 0, True

    async def found_map() -> ShardMap:
        nonlocal looks
        looks += 1
        if away:
            raise UnavailableError("away")
        return ShardMap.of([KeyRange(1, INT8_MIN, INT8_END, "a", 1)], HOME)

    async def no_keys() -> dict[str, StoredKey]:
        return {}

    deps.router.map = found_map  # type: ignore[method-assign]
    deps.control.public_keys = no_keys  # type: ignore[method-assign]
    transport = httpx.ASGITransport(app=create_app(deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:

        async def statuses() -> set[int]:
            answers = await asyncio.gather(*(client.get("/readyz") for _ in range(30)))
            return {answer.status_code for answer in answers}

        assert (await statuses(), looks) == ({503}, 1)
        away = False
        clock.advance(READY_CACHE_S)
        assert (await statuses(), looks) == ({200}, 2)
        away = True
        clock.advance(READY_CACHE_S)
        assert (await statuses(), looks) == ({200}, 3), "ready once, it stays among the replicas"
