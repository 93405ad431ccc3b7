"""The least that a gateway in Python could do: splits a batch into its events' bytes, which go to Kafka's client.

Arguments: PORT KAFKA TOPIC.
On our server, with our JSON decoder and one call a request: no keys, no checks, no records, no answer from Kafka.
What it leaves of the plain gateway's time is what keys, checks and records may cost for a given ratio.
"""

import sys
from typing import Any

import msgspec

from bench.peers.raw_asgi import live, succeed
from headrace import http_server, kafka
from headrace.http_server import Receive, Scope, Send
from headrace.settings import Settings

PORT, ADDRESS, TOPIC = sys.argv[1:4]


class Batch(msgspec.Struct):
    """The body."""

    batch: list[msgspec.Raw]


decode = msgspec.json.Decoder(Batch).decode
producer: Any = kafka.producer(Settings(kafka=ADDRESS))


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Any path, any method."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    pieces = []
    while True:
        message = await receive()
        pieces.append(message["body"])
        if not message.get("more_body"):
            break
    events = [{"value": bytes(event)} for event in decode(b"".join(pieces)).batch]
    while producer.produce_batch(TOPIC, events) < len(events):
        producer.poll(0.05)
        events = [{"value": event["value"]} for event in events if "_error" in event]
    producer.poll(0)
    await succeed(send)


if __name__ == "__main__":
    sys.exit(http_server.run(application, host="127.0.0.1", port=int(PORT)))
