"""One call under way for all who ask the same at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class SingleFlight(Generic[Key, Found]):
    """`find` for many askers. Use it on one event loop only; holds as many keys as are being asked for."""

    def __init__(self, find: Callable[[Key], Awaitable[Found]]) -> None:
        self._find = find
        self._flights: dict[Key, asyncio.Task[Found]] = {}

    async def get(self, key: Key) -> Found:
        """What `find` says of `key`, or raises. Who goes away meanwhile takes the answer from nobody else."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(key))
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    async def _fly(self, key: Key) -> Found:
        return await self._find(key)

    def _landed(self, key: Key, done: "asyncio.Task[Found]") -> None:
        self._flights.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; nobody may have waited
