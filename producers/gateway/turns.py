"""Whose larger request is worked on next: customers take turns, each request of one waits behind its own.

There is one event loop. Without turns a customer that sends from many connections has as many requests before
another's. Here one request is let through each time round the loop, of the customers that wait each its first, so
that a request waits for at most one of each other customer. Smaller requests need no turn: waiting would cost more
than their work.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Final

TURN_BYTES: Final = 16 * 1024
"""Bodies from this size on wait for their turn."""


class Turns:
    """Use it on one event loop only. What waits is bounded by the bytes that its bodies hold."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()
        self._scheduled = False

    async def wait(self, owner: int) -> None:
        """Return when it is the turn of this one of `owner`'s requests."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next)
        await turn

    def _next(self) -> None:
        owner, queue = next(iter(self._waiting.items()))
        turn = queue.popleft()
        if queue:
            self._waiting.move_to_end(owner)
        else:
            del self._waiting[owner]
        if not turn.done():  # else nobody waits for it any more
            turn.set_result(None)
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next)
