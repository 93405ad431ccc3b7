"""A request's body as it comes from the client: kept within bounds, or read to its end and thrown away.

Who is refused while it still writes would not see the answer: a body nobody wants is read all the same. For that a
customer gets DISCARDS_MAX places at a time: more of its bodies wait in the kernel, which slows a flood down where it
comes from, and leaves the event loop to others.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from headrace.http_server import Receive
from producers.gateway.deadlines import Deadlines
from producers.gateway.json_body import BodyError
from producers.gateway.limits import START_BYTES_MAX, Reservation

BODY_TIMEOUT_S: Final = 30.0
"""A body that takes longer ends with 408, which SDKs retry; one to be thrown away is left unread."""
DISCARD_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a body to be thrown away so much is read."""
DISCARDS_MAX: Final = 2
"""Bodies of one customer that are thrown away at the same time."""
DISCARD_AT_ONCE_BYTES: Final = 64 * 1024
"""Declared bodies up to here are thrown away at once: they are here already, waiting would only hold connections."""


class ClientGoneError(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


class Incoming:
    """The pieces of one request's body. `declared` is its Content-Length, if any; `ended`: the last was read."""

    __slots__ = ("_receive", "declared", "ended")

    def __init__(self, receive: Receive, declared: int | None) -> None:
        self._receive = receive
        self.declared = declared
        self.ended = False

    async def piece(self) -> bytes:
        """The next one. Raises ClientGoneError."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self.ended = not message.get("more_body")
        body: bytes = message.get("body", b"")
        return body


async def read_body(incoming: Incoming, bytes_max: int, reservation: Reservation, deadlines: Deadlines) -> bytes:
    """The body as sent, held by `reservation`. What is left of a body that is refused is for `Discards`.
    `deadlines`: of BODY_TIMEOUT_S.

    Raises BodyError (413, 408; with what was read of its start), OverloadedError, ClientGoneError.
    """
    if incoming.declared is not None:
        if incoming.declared > bytes_max:
            raise _too_large(bytes_max)
        reservation.check(incoming.declared)  # held as it comes: who only announces a body holds nothing
    pieces: list[bytes] = []
    size = 0
    try:
        with deadlines.limit():
            while not incoming.ended:
                piece = await incoming.piece()
                size += len(piece)
                pieces.append(piece)
                if size > bytes_max:
                    raise _too_large(bytes_max, _start(pieces))
                reservation.grow_to(size)
    except TimeoutError:
        incoming.ended = True  # it had its time
        pieces.clear()
        raise BodyError("body_timeout", f"the body did not arrive within {BODY_TIMEOUT_S:g} s", status=408) from None
    except BaseException:
        pieces.clear()  # the traceback holds this frame as long as somebody handles the error
        raise
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_start(incoming: Incoming, bytes_max: int, reservation: Reservation) -> bytes:
    """The next `bytes_max` bytes of a body, fewer if it ends or takes longer than BODY_TIMEOUT_S; `reservation` holds
    them besides what it holds. Raises OverloadedError, ClientGoneError."""
    pieces: list[bytes] = []
    size, before = 0, reservation.held
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while size < bytes_max and not incoming.ended:
                piece = (await incoming.piece())[: bytes_max - size]
                size += len(piece)
                reservation.grow_to(before + size)
                pieces.append(piece)
    except TimeoutError:
        incoming.ended = True  # it had its time
    return b"".join(pieces)


class Discards:
    """Throws bodies away. Use it on one event loop only."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[asyncio.Semaphore, int]] = {}

    @property
    def owners(self) -> int:
        """How many customers' bodies are being thrown away in places."""
        return len(self._places)

    async def discard(self, incoming: Incoming, owner: int) -> None:
        """Read on to the end, to DISCARD_BYTES_MAX, or for BODY_TIMEOUT_S; `owner`: the customer. Raises
        ClientGoneError."""
        if incoming.ended:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BODY_TIMEOUT_S):
                if incoming.declared is not None and incoming.declared <= DISCARD_AT_ONCE_BYTES:
                    await _read_on(incoming)
                else:
                    await self._in_place(incoming, owner)

    async def _in_place(self, incoming: Incoming, owner: int) -> None:
        places, users = self._places.get(owner) or (asyncio.Semaphore(DISCARDS_MAX), 0)
        self._places[owner] = places, users + 1
        try:
            async with places:
                await _read_on(incoming)
        finally:
            places, users = self._places.pop(owner)
            if users > 1:
                self._places[owner] = places, users - 1


async def _read_on(incoming: Incoming) -> None:
    size = 0
    while not incoming.ended and size <= DISCARD_BYTES_MAX:
        size += len(await incoming.piece())


def _start(pieces: Sequence[bytes]) -> bytes:
    start = bytearray()
    for piece in pieces:
        start += piece[: START_BYTES_MAX - len(start)]
    return bytes(start)


def _too_large(bytes_max: int, start: bytes = b"") -> BodyError:
    return BodyError("body_too_large", f"the body has more than {bytes_max} bytes", status=413, start=start)
