"""A fault that nobody foresaw still ends in an answer of the protocol, which a browser may read."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

from headrace.clock import SystemClock
from headrace.settings import Settings
from producers.gateway.answers import Answer, Refusal, Rejection, refusal_answer
from producers.gateway.auth import Customer, WriteKeys
from producers.gateway.protocols.decoder import Decoded, Request, Route, RouteTable
from producers.gateway.publish import Publisher
from producers.gateway.receiver import Receiver


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

    async def find(self, key_hash: bytes) -> Customer | None:
        return Customer(7)


async def ask() -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    settings, clock = Settings.load(environ={"HEADRACE_KAFKA": "127.0.0.1:1"}), SystemClock()
    table = RouteTable([Route("/x", frozenset(("POST",)), "", _Faulty())])
    publisher = Publisher(settings, clock)
    receiver = Receiver(table, WriteKeys(_OneCustomer(), settings, clock), publisher, settings, clock)
    headers = [(b"origin", b"https://shop.example"), (b"authorization", b"Basic " + base64.b64encode(b"key:"))]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "scheme": "http",
        "query_string": b"",
        "headers": headers,
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await receiver(scope, receive, send)
    await publisher.close()
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


def test_a_fault_in_a_decoder_is_an_answer_in_the_protocols_shape_with_cors() -> None:
    status, headers, body = asyncio.run(ask())
    assert (status, body["code"], body["error"]) == (500, 500, "internal")
    assert body["message"]
    assert headers[b"access-control-allow-origin"] == b"https://shop.example"
