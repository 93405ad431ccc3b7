"""Where a load goes: straight into Kafka, or over HTTP as an SDK would send it."""

import asyncio
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
import uvloop

from headrace.errors import UnavailableError, UsageError
from producers.bulk import BulkPublisher
from producers.generator.connections import Answer, Connections
from producers.generator.messages import segment_messages
from producers.generator.workload import Block
from schemas.codec import encode_events
from schemas.event import record_key

REQUEST_EVENTS_MAX = 100  # as the Segment SDKs for servers
CONNECTIONS = 64  # and requests under way, past which `send` waits: a request tells when it was sent
ATTEMPTS_MAX = 8  # with the waits below: about half a minute of an absent gateway
BACKOFF_S, BACKOFF_MAX_S = 0.2, 5.0
RETRIED_STATUSES = frozenset((408, 429, 500, 502, 503, 504))


@dataclass(slots=True)
class Tally:
    """What became of the events handed over. `rejected` is by the reasons of the answers."""

    acknowledged: int = 0
    requests: int = 0
    retries: int = 0
    rejected: dict[str, int] = field(default_factory=dict)


class Target(Protocol):
    """A receiver of blocks. Blocking; one thread."""

    tally: Tally

    def send(self, block: Block) -> None:
        """Hand a block over; it may wait while the receiver is busy. Raises RetryableError when it is away."""

    def tend(self) -> None:
        """Called every few seconds, events or not: do what is due by now. Raises what `send` raises."""

    def wait(self, seconds: float) -> None:
        """Let so much time pass; what is under way goes on."""

    def settle(self) -> None:
        """Return when all that was sent is acknowledged. Raises what `send` raises."""

    def close(self) -> None:
        """Let go of connections."""


class KafkaTarget:
    """Columns encoded and published, as fast as one core does it."""

    def __init__(self, publisher: BulkPublisher) -> None:
        self._publisher = publisher
        self._unsettled = 0
        self.tally = Tally()

    def send(self, block: Block) -> None:
        """See Target.send. Returns when the block is queued in the client."""
        keys = {
            customer: record_key(customer) for customer in block.events.column("customer_id").unique().to_pylist()
        }
        customers = block.events.column("customer_id").to_pylist()
        self._publisher.send([keys[customer] for customer in customers], encode_events(block.events))
        self._unsettled += len(customers)

    def tend(self) -> None:
        """See Target.tend: no more than so much is lost at once."""
        self.settle()

    def wait(self, seconds: float) -> None:
        """See Target.wait."""
        time.sleep(seconds)

    def settle(self) -> None:
        """See Target.settle."""
        self._publisher.settle()
        self.tally.acknowledged += self._unsettled
        self._unsettled = 0

    def close(self) -> None:
        """See Target.close."""
        self._publisher.close()


class HTTPTarget:
    """Segment batches of one customer each, over a few connections.

    As SDKs do it: a batch goes out when it has REQUEST_EVENTS_MAX events or its first has waited `linger_s`, and is
    tried again with the same ids where the answer asks for a later try. Requests stay under way while `send` returns
    and go on in `wait` and in the next calls; what fails for good is raised by the next of those.
    """

    def __init__(self, ingest_url: str, write_keys: Mapping[int, str], *, linger_s: float = 0.0) -> None:
        parts = urlsplit(ingest_url)
        self._url = ingest_url.rstrip("/") + "/v1/batch"
        self._heads = {
            customer: _head(parts.netloc, parts.path.rstrip("/") + "/v1/batch", key)
            for customer, key in write_keys.items()
        }
        self._linger_s = linger_s
        self._waiting: dict[int, tuple[float, list[bytes]]] = {}
        self._loop = uvloop.new_event_loop()
        self._connections = Connections(ingest_url, CONNECTIONS)
        self._under_way: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    def send(self, block: Block) -> None:
        """See Target.send. Raises UnavailableError, or UsageError for a request that was refused."""
        for customer, messages in segment_messages(block.events):
            if customer not in self._heads:
                raise UsageError(f"no write key for customer {customer}", remedy="give the keys of all customers")
            self._waiting.setdefault(customer, (time.monotonic(), []))[1].extend(messages)
        self.tend()

    def tend(self) -> None:
        """See Target.tend."""
        self._post_due(time.monotonic() - self._linger_s)

    def wait(self, seconds: float) -> None:
        """See Target.wait."""
        self._loop.run_until_complete(asyncio.sleep(seconds))

    def settle(self) -> None:
        """See Target.settle."""
        self._post_due(time.monotonic())
        self._loop.run_until_complete(self._until(0))

    def close(self) -> None:
        """See Target.close."""
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self._end())
        self._loop.close()

    def _post_due(self, since: float) -> None:
        """Post what is full, and what has waited since `since` or longer."""
        requests: list[tuple[int, list[bytes]]] = []
        for customer, (began, messages) in list(self._waiting.items()):
            due = len(messages) if began <= since else len(messages) - len(messages) % REQUEST_EVENTS_MAX
            requests += [
                (customer, messages[start : min(start + REQUEST_EVENTS_MAX, due)])
                for start in range(0, due, REQUEST_EVENTS_MAX)
            ]
            del self._waiting[customer]
            if due < len(messages):
                self._waiting[customer] = (began, messages[due:])
        self._loop.run_until_complete(self._post_all(requests))

    async def _post_all(self, requests: Sequence[tuple[int, list[bytes]]]) -> None:
        """Return when all are under way. Raises what one failed with."""
        await self._until(CONNECTIONS)
        for customer, messages in requests:
            if len(self._under_way) >= CONNECTIONS:
                await self._until(CONNECTIONS - 1)
            self._under_way.add(asyncio.ensure_future(self._post(customer, messages)))

    async def _until(self, requests: int) -> None:
        """Return when at most so many are under way. Raises what one failed with."""
        while True:
            for task in [task for task in self._under_way if task.done()]:
                self._under_way.discard(task)
                task.result()
            if len(self._under_way) <= requests:
                return
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    async def _end(self) -> None:
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        self._connections.close()
        await asyncio.sleep(0)  # lets the sockets go

    async def _post(self, customer: int, messages: Sequence[bytes]) -> None:
        """Send one batch until it is answered for good."""
        tally, backoff_s, problem = self.tally, BACKOFF_S, ""
        joined = b",".join(messages)
        for attempt in range(ATTEMPTS_MAX):
            body = b'{"batch":[%s],"sentAt":"%s"}' % (joined, _iso(time.time_ns() // 1000).encode())
            tally.requests, tally.retries = tally.requests + 1, tally.retries + (attempt > 0)
            try:
                answer = await self._connections.request(self._heads[customer] % len(body) + body)
            except OSError as error:
                problem, wait_s = f"{type(error).__name__}: {error}", backoff_s
            else:
                if answer.status == HTTPStatus.OK:
                    rejected = msgspec.json.decode(answer.body).get("rejected", [])
                    for item in rejected:
                        tally.rejected[item["reason"]] = tally.rejected.get(item["reason"], 0) + 1
                    tally.acknowledged += len(messages) - len(rejected)
                    return
                problem = f"{answer.status} {answer.body[:200].decode(errors='replace')}"
                if answer.status not in RETRIED_STATUSES:
                    raise UsageError(f"{self._url} refused a batch of customer {customer}: {problem}")
                wait_s = max(backoff_s, _retry_after_s(answer))
            await asyncio.sleep(min(wait_s, BACKOFF_MAX_S))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        raise UnavailableError(f"{self._url} did not take a batch in {ATTEMPTS_MAX} tries: {problem}")


def _head(host: str, path: str, write_key: str) -> bytes:
    """A request up to its body, whose length is still to be put in."""
    basic = b64encode(f"{write_key}:".encode()).decode()
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Basic {basic}",
        "Content-Type: application/json",
        "Content-Length: ",
    )
    return "\r\n".join(lines).encode().replace(b"%", b"%%") + b"%d\r\n\r\n"


def _iso(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % 1_000_000:06d}Z"


def _retry_after_s(answer: Answer) -> float:
    try:
        return float(answer.headers.get("retry-after", "0"))
    except ValueError:  # a date: our gateway sends seconds
        return 0.0
