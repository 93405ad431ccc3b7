"""Where a load goes: straight into Kafka, or over HTTP as an SDK would send it."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx
import msgspec

from headrace.errors import UnavailableError, UsageError
from producers.bulk import BulkPublisher
from producers.generator.workload import Block
from schemas.codec import encode_events
from schemas.event import record_key

REQUEST_EVENTS_MAX = 250
CONNECTIONS = 4
REQUEST_TIMEOUT_S = 30.0
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

    def settle(self) -> None:
        """Return when all that was sent is acknowledged."""

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

    def settle(self) -> None:
        """See Target.settle."""
        self._publisher.settle()
        self.tally.acknowledged += self._unsettled
        self._unsettled = 0

    def close(self) -> None:
        """See Target.close."""
        self._publisher.close()


class HTTPTarget:
    """Segment batches, `REQUEST_EVENTS_MAX` events a request, one customer each, over a few connections.

    An answer that asks for a later try is tried again with the same ids, as SDKs do it.
    """

    def __init__(self, ingest_url: str, write_keys: Mapping[int, str]) -> None:
        self._url = ingest_url.rstrip("/") + "/v1/batch"
        self._auth = {customer: httpx.BasicAuth(key, "") for customer, key in write_keys.items()}
        self._client = httpx.Client(
            timeout=REQUEST_TIMEOUT_S, limits=httpx.Limits(max_connections=CONNECTIONS), trust_env=False
        )
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="load")
        self.tally = Tally()

    def send(self, block: Block) -> None:
        """See Target.send. Returns when every request of the block is answered."""
        by_customer: dict[int, list[dict[str, Any]]] = {}
        for event in block.events.to_pylist():
            by_customer.setdefault(event["customer_id"], []).append(as_segment(event))
        requests = [
            (customer, messages[start : start + REQUEST_EVENTS_MAX])
            for customer, messages in by_customer.items()
            for start in range(0, len(messages), REQUEST_EVENTS_MAX)
        ]
        unknown = by_customer.keys() - self._auth.keys()
        if unknown:
            raise UsageError(f"no write key for customer {min(unknown)}", remedy="give the keys of all customers")
        for part in self._threads.map(lambda request: self._post(*request), requests):
            self._count(part)

    def settle(self) -> None:
        """See Target.settle: nothing is ever left open."""

    def close(self) -> None:
        """See Target.close."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def _count(self, part: Tally) -> None:
        self.tally.acknowledged += part.acknowledged
        self.tally.requests += part.requests
        self.tally.retries += part.retries
        for reason, count in part.rejected.items():
            self.tally.rejected[reason] = self.tally.rejected.get(reason, 0) + count

    def _post(self, customer: int, messages: Sequence[dict[str, Any]]) -> Tally:
        """Send one batch until it is answered for good."""
        done, backoff_s, problem = Tally(), BACKOFF_S, ""
        for attempt in range(ATTEMPTS_MAX):
            body = msgspec.json.encode({"batch": messages, "sentAt": _iso(time.time_ns() // 1000)})
            done.requests, done.retries = done.requests + 1, attempt
            try:
                answer = self._client.post(self._url, content=body, auth=self._auth[customer])
            except httpx.TransportError as error:
                problem, wait_s = f"{type(error).__name__}: {error}", backoff_s
            else:
                if answer.status_code == 200:
                    rejected = answer.json().get("rejected", [])
                    for item in rejected:
                        done.rejected[item["reason"]] = done.rejected.get(item["reason"], 0) + 1
                    done.acknowledged += len(messages) - len(rejected)
                    return done
                problem = f"{answer.status_code} {answer.text[:200]}"
                if answer.status_code not in RETRIED_STATUSES:
                    raise UsageError(f"{self._url} refused a batch of customer {customer}: {problem}")
                wait_s = max(backoff_s, _retry_after_s(answer))
            time.sleep(min(wait_s, BACKOFF_MAX_S))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        raise UnavailableError(f"{self._url} did not take a batch in {ATTEMPTS_MAX} tries: {problem}")


def as_segment(event: Mapping[str, Any]) -> dict[str, Any]:
    """One event (a row of `event_arrow`) as a message of the Segment protocol, with all that the columns say."""
    properties: dict[str, Any] = msgspec.json.decode(event["properties"])
    if event["value_e6"] is not None:
        properties["revenue"] = event["value_e6"] / 1_000_000  # cents: exact in what a double prints as
        properties["currency"] = event["currency"]
    referrer, source = event["referrer_domain"], event["utm_source"]
    message: dict[str, Any] = {
        "type": "track",
        "messageId": event["message_id"],
        "event": event["name"],
        "timestamp": _iso(event["timestamp_us"]),
        "properties": properties,
        "context": {
            "library": {"name": event["library"], "version": "1"},
            "page": {"path": event["path"]} | ({"referrer": f"https://{referrer}/"} if referrer else {}),
            "campaign": {"source": source} if source else {},
            "location": {"country": event["country"]},
            "os": {"name": event["os"]},
            "device": {"type": event["device"]},
            "userAgentData": {"brands": [{"brand": event["browser"], "version": "1"}]},
        },
    }
    for key, name in (("userId", "user_id"), ("anonymousId", "anonymous_id")):
        if event[name] is not None:
            message[key] = event[name]
    return message


def _iso(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % 1_000_000:06d}Z"


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return float(answer.headers.get("retry-after", "0"))
    except ValueError:  # a date: our gateway sends seconds
        return 0.0
