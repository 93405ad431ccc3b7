"""What is left of a request that is too large to be taken and is answered as a success all the same, because its
sender would otherwise send it again for ever (Snowplow's trackers): one record in `events.rejected`.

It holds the start of the body, inflated, up to START_BYTES_MAX; reason `body_too_large` or `too_many_events`. Its
customer is told by the write key in that start. A body whose start names no known key is nobody's: nothing of it is
kept, and its sender gets the answer of an unknown key, never a success. The record counts as one event of the
customer's quota.
"""

from typing import Final

from headrace import metrics
from headrace.errors import RetryableError
from producers.gateway.answers import Refusal
from producers.gateway.auth import Customer, WriteKeys
from producers.gateway.bodies import Incoming, read_start
from producers.gateway.json_body import BodyError, mentioned_keys
from producers.gateway.limits import START_BYTES_MAX, Reservation, inflated_start
from producers.gateway.normalise import Normaliser, Origin
from producers.gateway.protocols.decoder import Decoder, Request
from producers.gateway.publish import REJECTED_BYTES_MAX, Publisher, RejectedEvent
from producers.gateway.quotas import Grant, Quotas
from producers.gateway.sender import Sender

REASONS: Final = frozenset(("body_too_large", "too_many_events"))
"""What stands in the record instead of one of an event's reasons."""
_SUCCESS_MAX: Final = 299
assert START_BYTES_MAX <= REJECTED_BYTES_MAX, "what is held is kept whole"


class OversizeBodies:
    """Keeps what is left. Use it on one event loop only."""

    def __init__(self, write_keys: WriteKeys, quotas: Quotas, publisher: Publisher, normaliser: Normaliser) -> None:
        self._write_keys = write_keys
        self._quotas = quotas
        self._publisher = publisher
        self._normaliser = normaliser

    @staticmethod
    def is_answered(decoder: Decoder, request: Request, error: BodyError) -> bool:
        """Whether the refusal is told the sender as a success."""
        return (
            error.reason in REASONS
            and decoder.failure(request, Refusal(error.status, error.reason, error.message)).status <= _SUCCESS_MAX
        )

    async def hold(
        self,
        decoder: Decoder,
        request: Request,
        incoming: Incoming,
        error: BodyError | RetryableError,
        reservation: Reservation,
    ) -> None:
        """Of a body that was refused while it came, hold what `keep` needs, and nothing if it needs nothing.

        Raises OverloadedError, ClientGoneError.
        """
        if not isinstance(error, BodyError) or not self.is_answered(decoder, request, error):
            reservation.release()
            if isinstance(error, BodyError):
                error.start = b""
            return
        reservation.shrink_to(len(error.start))
        start = error.start + await read_start(incoming, START_BYTES_MAX - len(error.start), reservation)
        error.start = inflated_start(start, request.headers.get("content-encoding", ""), START_BYTES_MAX)
        reservation.grow_to(len(error.start))

    async def keep(
        self, request: Request, error: BodyError, named: Customer | None, sender: Sender, reservation: Reservation
    ) -> bool:
        """Put the record where rejected events are; False when nobody known sent it, or nothing of it came.

        Raises OverQuotaError, OverloadedError, UnavailableError: then nothing of it is kept, and it must come again.
        """
        start = error.start or request.body[:START_BYTES_MAX]
        customer = named or await self._write_keys.resolve(mentioned_keys(start))
        if customer is None or not start:
            return False
        if customer.policy.honour_dnt and sender.do_not_track:
            metrics.counter("headrace_events_not_tracked_total").inc()
            return True
        origin = Origin(customer.customer_id, customer.policy, 0, "", frozenset(), address=sender.address)
        raw = self._normaliser.storable(start, origin)
        record = RejectedEvent(
            customer.customer_id, error.reason, f"{error.message}; kept are its first {len(start)} bytes", raw
        )
        held = reservation.another(customer.customer_id)
        grant, stored = Grant(), False
        try:
            grant = await self._quotas.take(customer, 1, None)
            held.grow_to(len(raw))
        except RetryableError:
            grant.end(stored=False)
            held.release()
            raise
        try:
            await self._publisher.publish((), (record,), held.release)
            stored = True
        finally:
            grant.end(stored=stored)
        metrics.counter("headrace_events_rejected_total", error.reason).inc()
        return True
