"""What the receiver makes of faults, refusals and bodies that never come, without a server."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from headrace.clock import SystemClock
from headrace.settings import Settings
from headrace.shards.policy import Policy, Quota
from producers.gateway.answers import Answer, Refusal, Rejection, refusal_answer
from producers.gateway.auth import Customer, PlanText, WriteKeys
from producers.gateway.protocols import routes
from producers.gateway.protocols.decoder import Decoded, Request, Route, RouteTable
from producers.gateway.publish import Publisher
from producers.gateway.quotas import Quotas
from producers.gateway.receiver import Receiver

SETTINGS = Settings.load(environ={"HEADRACE_KAFKA": "127.0.0.1:1", "HEADRACE_INGEST_PUBLISH_TIMEOUT_S": "0.2"})


NO_QUOTA = Quota()


class _Faulty:
    """A protocol whose decoding has a fault."""

    name = "faulty"
    volatile_keys = frozenset[str]()

    def decode(self, request: Request, events_max: int) -> Decoded:
        raise ZeroDivisionError

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        raise AssertionError("nothing was stored")

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        return refusal_answer(refusal)


class _OneCustomer:
    """Knows every key."""

    def __init__(self, quota: Quota) -> None:
        self._customer = Customer(7, Policy(quota=quota))

    async def find(self, key_hashes: Sequence[bytes]) -> Mapping[bytes, Customer]:
        return dict.fromkeys(key_hashes, self._customer)

    async def plan(self, customer_id: int) -> PlanText | None:
        raise AssertionError(f"customer {customer_id} has no plan")


Ask = Callable[..., Awaitable[tuple[int, dict[bytes, bytes], dict[str, Any]]]]


def asking(body: Callable[[Ask], Awaitable[None]], table: RouteTable, quota: Quota = NO_QUOTA) -> None:
    """Run `body` with what asks a receiver over `table`: a path and the pieces of a body, None where it stops."""

    async def run() -> None:
        clock = SystemClock()
        publisher = Publisher(SETTINGS, clock)
        write_keys = WriteKeys(_OneCustomer(quota), SETTINGS, clock)
        receiver = Receiver(table, write_keys, Quotas(None, clock), publisher, SETTINGS, clock)

        async def ask(path: str, pieces: Iterator[bytes], *, keyed: bool = True, length: int | None = None) -> Any:
            headers = [(b"origin", b"https://shop.example")]
            if keyed:
                headers.append((b"authorization", b"Basic " + base64.b64encode(b"key:")))
            if length is not None:
                headers.append((b"content-length", b"%d" % length))
            scope = {
                "type": "http",
                "method": "POST",
                "path": path,
                "scheme": "http",
                "query_string": b"",
                "headers": headers,
            }
            sent: list[dict[str, Any]] = []

            async def receive() -> dict[str, Any]:
                piece = next(pieces, None)
                return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

            async def send(message: Any) -> None:
                sent.append(message)

            await receiver(scope, receive, send)
            return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])

        await body(ask)
        await publisher.close()

    asyncio.run(run())


def test_a_fault_in_a_decoder_is_an_answer_in_the_protocols_shape_with_cors() -> None:
    async def body(ask: Ask) -> None:
        status, headers, answer = await ask("/x", iter((b"{}",)))
        assert (status, answer["code"], answer["error"]) == (500, 500, "internal")
        assert answer["message"]
        assert headers[b"access-control-allow-origin"] == b"https://shop.example"

    asking(body, RouteTable([Route("/x", frozenset(("POST",)), "", _Faulty())]))


def batch(events: int, **more: Any) -> bytes:
    return json.dumps(
        {"batch": [{"type": "track", "event": "e", "messageId": f"{number}"} for number in range(events)]} | more
    ).encode()


@pytest.mark.parametrize("keyed", [True, False])
def test_over_quota_is_429_with_retry_after_in_the_protocols_shape(keyed: bool) -> None:
    async def body(ask: Ask) -> None:
        sent = batch(5) if keyed else batch(5, writeKey="key")
        status, headers, answer = await ask("/v1/batch", iter((sent,)), keyed=keyed)
        assert (status, answer["code"], answer["error"]) == (429, 429, "quota_exceeded")
        assert headers[b"retry-after"] == b"300"
        assert headers[b"access-control-allow-origin"] == b"https://shop.example"

    asking(body, routes(), Quota(per_second=0))


def test_what_is_refused_for_another_reason_takes_nothing_from_the_quota() -> None:
    async def body(ask: Ask) -> None:
        for _ in range(3):
            status, _, answer = await ask("/v1/batch", iter((batch(5),)))
            assert (status, answer["error"]) == (503, "unavailable"), "Kafka is away; the quota is whole"
        status, _, _ = await ask("/v1/batch", iter((b"{",)))
        assert status == 400
        status, _, answer = await ask("/v1/batch", iter((batch(6),)))
        assert (status, answer["error"]) == (429, "quota_exceeded")

    asking(body, routes(), Quota(per_month=5))


def test_a_flood_over_quota_is_refused_before_its_body_is_parsed_and_after_it_was_written() -> None:
    async def body(ask: Ask) -> None:
        pieces = iter([b"no JSON"] * 50)
        status, _, answer = await ask("/v1/batch", pieces, length=350)
        assert (status, answer["error"]) == (429, "quota_exceeded"), "not 400: nobody looked"
        assert next(pieces, None) is None, "it was read to its end: the client sees the answer"

    asking(body, routes(), Quota(per_month=0))
