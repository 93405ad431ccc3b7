"""From a request to its events and the customer whose they are.

Headers and query are tried before the body is read, so that a customer's limits hold before the body costs anything;
a body that is not plain JSON is taken apart only for a key that is known.
"""

import asyncio
from typing import Final

import msgspec

from headrace import metrics
from producers.gateway.auth import Customer, WriteKeys, carried_keys
from producers.gateway.json_body import LENIENT_BYTES_MAX, BodyError, NotPlainError, mentioned_keys
from producers.gateway.limits import Reservation
from producers.gateway.protocols.decoder import Decoded, Decoder, Request

EVENTS_MAX: Final = 20_000
"""Events of one request; past it 413. Segment's own bound is 2,500, SDKs stay far below."""
LENIENT_INLINE_BYTES_MAX: Final = 64 * 1024
"""Bodies that are not plain JSON are taken apart on the event loop up to here, larger ones in a thread."""
LENIENT_WEIGHT: Final = 10
"""Bytes of memory that taking a body apart needs for each of its bytes."""


class Identifier:
    """Tells customers by write keys and has decoders read bodies. Use it on one event loop only."""

    def __init__(self, write_keys: WriteKeys) -> None:
        self._write_keys = write_keys
        self._repairing = asyncio.Semaphore(1)

    async def early(self, request: Request) -> Customer | None:
        """The customer that headers and query name, if they do. Raises UnavailableError when that cannot be told."""
        keys = carried_keys(request.headers, request.query)
        return await self._write_keys.resolve(keys) if keys else None

    async def events(
        self, decoder: Decoder, request: Request, reservation: Reservation, customer: Customer | None
    ) -> tuple[Decoded, Customer]:
        """The events and their owner: the early known `customer`, or that of the body's keys.

        Raises BodyError (also 401: nobody is known), OverloadedError, UnavailableError.
        """
        try:
            decoded = decoder.decode(request, EVENTS_MAX)
        except NotPlainError as error:
            if customer is None:
                mentioned = mentioned_keys(error.body)
                if await self._write_keys.resolve(mentioned) is None:
                    raise _unidentified(request, named=bool(mentioned)) from None
            decoded = await self._repair(decoder, request, reservation)
        if decoded.cleaned:
            metrics.counter("headrace_bodies_cleaned_total").inc()
        if customer is None:
            customer = await self._write_keys.resolve(decoded.write_keys)
        if customer is None:
            raise _unidentified(request, named=bool(decoded.write_keys))
        return decoded, customer

    async def _repair(self, decoder: Decoder, request: Request, reservation: Reservation) -> Decoded:
        """Decode the slow way: larger bodies one at a time beside the event loop, what waits for it bounded by what
        it will need."""
        request = msgspec.structs.replace(request, lenient=True)
        if len(request.body) <= LENIENT_INLINE_BYTES_MAX:
            return decoder.decode(request, EVENTS_MAX)
        if len(request.body) <= LENIENT_BYTES_MAX:  # else it is refused at once
            reservation.grow_to(LENIENT_WEIGHT * len(request.body))
        async with self._repairing:
            return await asyncio.to_thread(decoder.decode, request, EVENTS_MAX)


def _unidentified(request: Request, *, named: bool) -> BodyError:
    named = named or bool(carried_keys(request.headers, request.query))
    return BodyError(
        "unknown_write_key" if named else "missing_write_key",
        "the write key is unknown or revoked" if named else "the request carries no write key",
        status=401,
    )
