"""The gateway's whole way of a request, without a socket and without Kafka: the real receiver with the real routes,
keys, quotas, plans, privacy and normaliser, and a publisher that keeps what it is handed.

Kafka itself cannot take a million inputs in the time of a test; what it is handed is encoded all the same as the real
publisher encodes it, and read again. `test_real_kafka.py` posts the nastier inputs to a gateway as it runs.
"""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headrace import metrics
from headrace.clock import ManualClock
from headrace.settings import Settings
from headrace.shards.policy import Policy, Quota
from headrace.shards.write_keys import hash_write_key
from producers.gateway.answers import Answer, Refusal, Rejection
from producers.gateway.auth import Customer, PlanText, WriteKeys
from producers.gateway.encode import Records, encode_rows
from producers.gateway.normalise import Row
from producers.gateway.protocols import Route, RouteTable, routes
from producers.gateway.protocols.decoder import Decoded, Decoder, Request
from producers.gateway.publish import REJECTED_BYTES_MAX, RejectedEvent
from producers.gateway.quotas import Quotas
from producers.gateway.receiver import Receiver
from schemas.codec import decode_events
from tests.fuzz.sent import Sent

NOW_US: Final = 1_709_251_200_000_000
PRIVATE: Final = Policy(
    address="truncate", drop=("email", "nested"), hash=("userId", "distinct_id", "name"), honour_dnt=True
)
PLAN: Final[dict[str, Any]] = {
    "mode": "reject",
    "unplanned": "allow",
    "events": {
        "Order Completed": {"schema": {"required": ["n"], "properties": {"n": {"type": "integer"}}}},
        "Order": {"schema": {"additionalProperties": False}, "mode": "warn"},
        "identify": {"schema": {"properties": {"email": {"type": "string", "format": "email"}}}},
    },
}
HANGS_S: Final = 30.0
"""A request that takes so long never ends."""


@dataclass(slots=True)
class Outcome:
    """What became of one request. `events`: of the decoded request (None where it was not answered as decoded),
    `by_columns` of one that went that way;
    `cpu_seconds`: of the gateway's work; `checking_seconds`: of the door's beside it; `faults`: what the door itself
    saw go wrong."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    decoder: str = ""
    events: int | None = None
    by_columns: int = 0
    rejections: int = 0
    rows: list[Row] = field(default_factory=list)
    rejected: list[RejectedEvent] = field(default_factory=list)
    not_tracked: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    checking_seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


CUSTOMERS: Final[Mapping[str, Customer]] = {
    "wk_test": Customer(1),
    "wk_private": Customer(2, PRIVATE),
    "wk_planned": Customer(3, plan_version=1),
    "wk_used_up": Customer(4, Policy(quota=Quota(per_month=0))),
}
"""By write key."""


class _Directory:
    def __init__(self, keys: Collection[str]) -> None:
        self._customers = {hash_write_key(key): CUSTOMERS[key] for key in keys}

    async def find(self, key_hashes: Sequence[bytes]) -> Mapping[bytes, Customer]:
        return {item: self._customers[item] for item in key_hashes if item in self._customers}

    async def plan(self, customer_id: int) -> PlanText | None:
        assert customer_id == 3
        return PlanText(1, json.dumps(PLAN))


class _Watched:
    """A decoder, and what it was asked."""

    def __init__(self, decoder: Decoder, door: "Door") -> None:
        self._decoder = decoder
        self._door = door
        self.name = decoder.name
        self.volatile_keys = decoder.volatile_keys

    def decode(self, request: Request, events_max: int) -> Decoded:
        return self._decoder.decode(request, events_max)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        self._door.outcome.decoder = self.name
        self._door.outcome.events = len(decoded.events) or self._door.outcome.by_columns
        self._door.outcome.rejections = len(rejections)
        return self._decoder.success(request, decoded, rejections)

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        self._door.outcome.decoder = self.name
        return self._decoder.failure(request, refusal)


class _Publisher:
    """Keeps what it is handed, after the real publisher's own work on it."""

    def __init__(self, door: "Door") -> None:
        self._door = door

    async def publish(
        self, events: Sequence[Row] | Records, rejected: Sequence[RejectedEvent], on_settled: Callable[[], None]
    ) -> None:
        outcome = self._door.outcome
        rows = self._rows(events, outcome) if isinstance(events, Records) else events
        outcome.rows += rows
        outcome.rejected += rejected
        for item in rejected:
            assert isinstance(item.raw[:REJECTED_BYTES_MAX], bytes)
            item.reason.encode()
            item.message.encode()
        if rows:
            records = encode_rows(rows)
            self._read_again(rows, records, outcome)
        on_settled()

    def _rows(self, records: Records, outcome: Outcome) -> list[Row]:
        """Of a request that went by columns."""
        outcome.by_columns = len(records)
        return [tuple(row.values()) for row in decode_events(records.values).events.to_pylist()]

    def _read_again(self, rows: Sequence[Row], records: Sequence[bytes], outcome: Outcome) -> None:
        started = time.process_time()
        decoded = decode_events(records)
        if decoded.poison:
            outcome.faults.append(f"stored records cannot be read: {decoded.poison[:3]}")
        elif decoded.events.num_rows != len(rows):
            outcome.faults.append(f"{len(rows)} rows were read as {decoded.events.num_rows}")
        else:
            self._compare(rows, decoded.events, outcome)
        outcome.checking_seconds += time.process_time() - started

    def _compare(self, rows: Sequence[Row], events: Any, outcome: Outcome) -> None:
        for at, name in enumerate(events.schema.names):
            if events.column(at).to_pylist() != [row[at] for row in rows]:
                outcome.faults.append(f"column {name} was not read as it was written")


class Door:
    """One receiver. Use it on one event loop, one request at a time: `outcome` is that of the present one.
    `keys`: those that are known."""

    def __init__(self, keys: Collection[str] = CUSTOMERS.keys()) -> None:
        settings = Settings.load(environ={"HEADRACE_PRIVACY_KEY": "k" * 32})
        clock = ManualClock(NOW_US)
        self.outcome = Outcome()
        self._receiver = Receiver(
            RouteTable([self._watched(route) for route in routes().routes]),
            WriteKeys(_Directory(keys), settings, clock),
            Quotas(None, clock),
            _Publisher(self),  # type: ignore[arg-type] # a class, not a protocol; this has all that is used of it
            settings,
            clock,
        )
        self._not_tracked = metrics.counter("headrace_events_not_tracked_total")

    async def ask(self, sent: Sent) -> Outcome:
        """Hand over one request."""
        outcome = self.outcome = Outcome()
        messages: list[Any] = []
        pieces = sent.pieces()
        left = iter(pieces)
        given = 0

        async def receive() -> dict[str, Any]:
            nonlocal given
            given += 1
            return {"type": "http.request", "body": next(left, b""), "more_body": given < len(pieces)}

        async def send(message: Any) -> None:
            messages.append(message)

        untracked = self._not_tracked._value.get()
        started, cpu_started = time.perf_counter(), time.process_time()
        try:
            async with asyncio.timeout(HANGS_S):
                await self._receiver(sent.scope(), receive, send)
        except Exception as error:
            outcome.faults.append(f"the application raised {error!r}")
        outcome.seconds = time.perf_counter() - started
        outcome.cpu_seconds = time.process_time() - cpu_started - outcome.checking_seconds
        outcome.not_tracked = int(self._not_tracked._value.get() - untracked)
        if [message["type"] for message in messages] != ["http.response.start", "http.response.body"]:
            outcome.faults.append(f"it answered with {[message['type'] for message in messages]}")
            return outcome
        outcome.status, outcome.body = messages[0]["status"], messages[1]["body"]
        outcome.headers = dict(messages[0]["headers"])
        if len(outcome.headers) != len(messages[0]["headers"]):
            outcome.faults.append(f"a header comes twice: {messages[0]['headers']}")
        held = self._receiver._inflight
        if held.held or held.owners:
            outcome.faults.append(f"{held.held} bytes stay reserved, of {held.owners} owners")
        return outcome

    async def close(self) -> None:
        await self._receiver.close()

    def _watched(self, route: Route) -> Route:
        if route.decoder is None:
            return route
        choose = route.choose
        return Route(
            route.path,
            route.methods,
            route.summary,
            _Watched(route.decoder, self),
            choose=None if choose is None else lambda request: _Watched(choose(request), self),
        )
