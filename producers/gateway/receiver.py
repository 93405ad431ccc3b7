"""The path of a request, as one raw ASGI application: identify, read, inflate, decode, judge, normalise, publish,
answer.

FastAPI's routes cost more than all of this together, so the event paths do without. Every outcome is an answer in
the protocol's own shape with CORS headers; the bytes of a request are accounted for until Kafka's client has let go
of its records.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from headrace import metrics
from headrace.clock import Clock
from headrace.errors import HeadraceError, OverloadedError, RetryableError
from headrace.http_server import Receive, Scope, Send
from headrace.log import get_logger
from headrace.settings import Settings
from producers.gateway import cors
from producers.gateway.answers import Answer, Refusal, refusal_answer
from producers.gateway.auth import Customer, WriteKeys, carried_keys
from producers.gateway.bodies import BODY_TIMEOUT_S, ClientGoneError, Discards, Incoming, read_body
from producers.gateway.columns import COLUMNS_BYTES_MIN, ColumnarBatch, DeclinedError
from producers.gateway.deadlines import Deadlines
from producers.gateway.devices import SenderLookup
from producers.gateway.identify import EVENTS_MAX, Identifier
from producers.gateway.json_body import BodyError
from producers.gateway.limits import UNIDENTIFIED, InflightBytes, Reservation, inflate
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.oversize import OversizeBodies
from producers.gateway.plan import CompiledPlan, Plans
from producers.gateway.plan_counts import ViolationCounts
from producers.gateway.privacy import Privacies
from producers.gateway.protocols.decoder import Decoded, Decoder, Document, Request, Route, RouteTable
from producers.gateway.publish import Publisher
from producers.gateway.quotas import Grant, Quotas
from producers.gateway.record_writer import RecordWriter
from producers.gateway.replies import Replies, not_found, refuse, refuse_for_now
from producers.gateway.sender import Senders
from producers.gateway.taken import Taken, TakenColumns
from producers.gateway.turns import TURN_BYTES, Turns

SLICE_EVENTS: Final = 500
"""Events normalised in one go; then other requests get their turn."""
QUERY_FIELDS_MAX: Final = 1_000
_UNKNOWN_ROUTE = "unknown"
_COLUMNAR = Decoded(())

log = get_logger(__name__)


class Receiver:
    """The ASGI application of the event paths."""

    def __init__(
        self,
        table: RouteTable,
        write_keys: WriteKeys,
        quotas: Quotas,
        publisher: Publisher,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._table = table
        self._write_keys = write_keys
        self._identifier = Identifier(write_keys)
        self._quotas = quotas
        self._publisher = publisher
        self._clock = clock
        # What could never be held is refused as too large, not as a passing overload.
        self._body_bytes_max = min(settings.ingest_body_bytes_max, settings.ingest_inflight_bytes_max)
        self._inflated_bytes_max = settings.ingest_inflated_bytes_max
        self._inflight = InflightBytes(settings.ingest_inflight_bytes_max)
        self.lookup = SenderLookup(settings)
        self._senders = Senders(settings)
        self._normaliser = Normaliser(
            EventLimits.of(settings), _count_dropped_value, self.lookup, Privacies.of_settings(settings)
        )
        self._writer = RecordWriter(self._normaliser)
        self._turns = Turns()
        self._discards = Discards()
        self._deadlines = Deadlines(BODY_TIMEOUT_S)
        self._oversize = OversizeBodies(write_keys, quotas, publisher, self._normaliser)
        self._plans = Plans(write_keys.plan)
        self._violations = ViolationCounts(settings, clock)
        self.replies = Replies()

    async def close(self) -> None:
        """Hand over the counts that wait. No request is served any more."""
        await self._violations.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        found = self._table.find(scope["path"])
        route_name = _UNKNOWN_ROUTE if found is None else found[0].path
        try:
            if found is None:
                answer = not_found(scope["path"])
            else:
                answer = await self._answer(*found, scope, headers, receive)
        except ClientGoneError:
            return
        await self.replies.send(send, answer, headers, route_name, started)

    async def _answer(
        self, route: Route, parameters: Mapping[str, str], scope: Scope, headers: Mapping[str, str], receive: Receive
    ) -> Answer:
        method = scope["method"]
        if method == "OPTIONS":
            return cors.preflight(headers)
        if method == "HEAD" and "GET" in route.methods and route.decoder is None:
            method = "GET"  # the server leaves the body out
        request = Request(
            method, route.path, scope["scheme"], _query(scope["query_string"]), headers, b"", 0, parameters
        )
        if method not in route.methods:
            allowed = ", ".join(sorted(route.methods | {"OPTIONS"}))
            refused = refusal_answer(Refusal(405, "method_not_allowed", f"{route.path} takes {allowed}"))
            return Answer(refused.status, refused.body, headers=((b"allow", allowed.encode()),))
        if route.fixed is not None:
            return route.fixed(request)
        if route.document is not None:
            return await self._document(route.document, request)
        return await self._events(route, request, receive, scope)

    async def _events(self, route: Route, request: Request, receive: Receive, scope: Scope) -> Answer:
        """Take a request's events, or say in its protocol why not."""
        decoder = route.decoder
        assert decoder is not None
        reservation = Reservation(self._inflight, UNIDENTIFIED)
        grant = Grant()
        handed_over = stored = False
        named: Customer | None = None
        try:
            incoming = Incoming(receive, _declared_length(request.headers))
            named = await self._admit(request, incoming, reservation)
            request = await self._read(decoder, request, incoming, reservation, named)
            if route.choose is not None:
                decoder = route.choose(request)
            batch, customer = await self._columnar(route, request, named)
            taken: Taken | TakenColumns | None = None
            decoded = _COLUMNAR
            if batch is not None and customer is not None:
                reservation.belongs_to(customer.customer_id)
                grant = await self._quotas.take(customer, len(batch), incoming.declared)
                taken = await self._write(batch, self._origin(decoder, request, customer, scope), reservation)
            if taken is None or customer is None:
                grant.end(stored=False)
                decoded, customer = await self._identifier.events(decoder, request, reservation, named)
                reservation.belongs_to(customer.customer_id)
                grant = await self._quotas.take(customer, len(decoded.events), incoming.declared)
                origin = self._origin(decoder, request, customer, scope)
                plan = await self._plans.of(customer)
                taken = await self._take(decoded, origin, request.body, plan, reservation)
            handed_over = True
            await self._publisher.publish(taken.events, taken.rejected, reservation.release)
            stored = True
        except BodyError as error:
            return await self._refuse_body(decoder, request, error, named, scope, reservation)
        except RetryableError as error:
            return refuse_for_now(decoder, request, error)
        except HeadraceError as error:
            log.error("request_failed", error=str(error), path=request.path)
            return refuse(decoder, request, Refusal(500, "internal", "the events could not be stored"))
        except ClientGoneError:
            raise
        except Exception:  # a process edge: the client gets an answer that it understands, and may read
            log.exception("request_failed", path=request.path)
            return refuse(decoder, request, Refusal(500, "internal", "the request could not be processed"))
        finally:
            grant.end(stored=stored)
            if not handed_over:
                reservation.release()
        accepted = len(taken.events)
        if accepted:
            self.replies.accepted(decoder.name, accepted)
        for item in taken.rejected:
            metrics.counter("headrace_events_rejected_total", item.reason).inc()
        if taken.broken:
            self._violations.add(customer.customer_id, taken.broken, request.received_at_us)
        return decoder.success(request, decoded, taken.rejections)

    async def _admit(self, request: Request, incoming: Incoming, reservation: Reservation) -> Customer | None:
        """The customer, where headers or query name it. What would be refused whatever the body is, is refused here
        and its body thrown away. Raises OverQuotaError, UnavailableError, OverloadedError."""
        named: Customer | None = None
        try:
            named = await self._identifier.early(request)
            if named is not None:
                self._quotas.check(named, incoming.declared)
                reservation.belongs_to(named.customer_id)
        except RetryableError:
            await self._discards.discard(incoming, _owner(named))
            raise
        return named

    async def _read(
        self,
        decoder: Decoder,
        request: Request,
        incoming: Incoming,
        reservation: Reservation,
        named: Customer | None,
    ) -> Request:
        """The request with its body, inflated, when it is its turn to be worked on."""
        try:
            raw = await read_body(incoming, self._body_bytes_max, reservation, self._deadlines)
        except (BodyError, OverloadedError) as error:
            try:
                await self._oversize.hold(decoder, request, incoming, error, reservation)
            finally:
                await self._discards.discard(incoming, _owner(named))
            raise
        if len(raw) >= TURN_BYTES:
            await self._turns.wait(_owner(named))
        body = inflate(raw, request.headers.get("content-encoding", ""), self._inflated_bytes_max, reservation)
        return msgspec.structs.replace(request, body=body, received_at_us=self._clock.now_us(), lenient=False)

    async def _columnar(
        self, route: Route, request: Request, named: Customer | None
    ) -> tuple[ColumnarBatch, Customer] | tuple[None, None]:
        """The request's events by columns, and whose they are, if that way is open to both."""
        if route.columns is None or len(request.body) < COLUMNS_BYTES_MIN:
            return None, None
        if named is not None and not _takes_columns(named):
            return None, None
        batch = route.columns(request, EVENTS_MAX)
        if batch is None:
            return None, None
        customer = named or await self._write_keys.resolve(batch.write_keys)
        return (batch, customer) if customer is not None and _takes_columns(customer) else (None, None)

    async def _write(self, batch: ColumnarBatch, origin: Origin, reservation: Reservation) -> TakenColumns | None:
        """Records of all the events, never more of them in memory than is reserved; None: the general way must tell
        what is wrong with one."""
        taken = TakenColumns(batch, self._writer, origin)
        try:
            for start in range(0, len(batch), SLICE_EVENTS):
                if start:
                    await asyncio.sleep(0)
                taken.take(start, start + SLICE_EVENTS)
                reservation.grow_to(taken.held_bytes)
        except DeclinedError:
            return None
        for _ in range(taken.values_dropped):
            _count_dropped_value()
        return taken

    def _origin(self, decoder: Decoder, request: Request, customer: Customer, scope: Scope) -> Origin:
        sender = self._senders.of(request.headers, scope.get("client"))
        return Origin(
            customer.customer_id,
            customer.policy,
            request.received_at_us,
            decoder.name,
            decoder.volatile_keys,
            address=sender.address,
            user_agent=sender.user_agent,
            is_device=sender.is_device,
            do_not_track=sender.do_not_track,
        )

    async def _take(
        self, decoded: Decoded, origin: Origin, body: bytes, plan: CompiledPlan | None, reservation: Reservation
    ) -> Taken:
        """Rows and rejected events, never more of them in memory than is reserved."""
        taken = Taken(decoded, self._normaliser, origin, body, plan)
        for index in range(len(decoded.events)):
            if index % SLICE_EVENTS == SLICE_EVENTS - 1:
                await asyncio.sleep(0)
            taken.take(index)
            reservation.grow_to(taken.held_bytes)
        return taken

    async def _document(self, document: Document, request: Request) -> Answer:
        """A settings document. It is needed to start and holds no secret: without the control database it is given
        to whoever names a key."""
        named = document.write_key(request)
        keys = carried_keys(request.headers, request.query) if named is None else [named]
        if not keys:
            return refusal_answer(Refusal(401, "missing_write_key", "the request carries no write key"))
        try:
            if await self._write_keys.resolve(keys) is None:
                return refusal_answer(Refusal(404, "unknown_write_key", "the write key is unknown or revoked"))
        except RetryableError as error:
            log.warning("settings_unchecked", error=error.message)
        return document.answer(request, keys[0])

    async def _refuse_body(
        self,
        decoder: Decoder,
        request: Request,
        error: BodyError,
        named: Customer | None,
        scope: Scope,
        reservation: Reservation,
    ) -> Answer:
        """The refusal of a body. One that is told as a success is told so when what is left of the body is kept."""
        if self._oversize.is_answered(decoder, request, error):
            sender = self._senders.of(request.headers, scope.get("client"))
            try:
                if not await self._oversize.keep(request, error, named, sender, reservation):
                    unknown = Refusal(401, "unknown_write_key", f"{error.message}, and it names no known write key")
                    return refuse(decoder, request, unknown)
            except RetryableError as away:
                return refuse_for_now(decoder, request, away)
        return refuse(decoder, request, Refusal(error.status, error.reason, error.message))


def _takes_columns(customer: Customer) -> bool:
    """Whether nothing of the customer's events is to be judged or changed."""
    return customer.plan_version is None and not customer.policy.changes_events


def _count_dropped_value() -> None:
    metrics.counter("headrace_event_values_dropped_total").inc()


def _owner(named: Customer | None) -> int:
    return UNIDENTIFIED if named is None else named.customer_id


def _declared_length(headers: Mapping[str, str]) -> int | None:
    declared = headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 19 else None


def _query(raw: bytes) -> dict[str, str]:
    """The query's first value of each key."""
    if not raw:
        return {}
    query: dict[str, str] = {}
    for number, (key, value) in enumerate(parse_qsl(raw.decode("latin-1"), keep_blank_values=True)):
        if number == QUERY_FIELDS_MAX:
            break
        query.setdefault(key, value)
    return query
