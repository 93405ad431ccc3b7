"""The plain gateway with our promise: FastAPI, pydantic models, one `produce()` an event, and the answer after Kafka
has acknowledged each. Arguments: PORT KAFKA TOPIC.

Like `plain_fastapi` it knows no keys and checks nothing but types.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from headrace import kafka
from headrace.settings import Settings

PORT, ADDRESS, TOPIC = sys.argv[1:4]
POLL_S = 0.1


class Event(BaseModel):
    """One message of a batch."""

    type: str
    event: str | None = None
    messageId: str  # noqa: N815 (the protocol's names)
    userId: str | None = None  # noqa: N815
    anonymousId: str | None = None  # noqa: N815
    timestamp: datetime
    properties: dict[str, Any] = {}
    context: dict[str, Any] = {}


class Batch(BaseModel):
    """The body."""

    batch: list[Event]


producer = kafka.producer(Settings(kafka=ADDRESS))
stopping = threading.Event()


def poll() -> None:
    """Have delivery reports come in."""
    while not stopping.is_set():
        producer.poll(POLL_S)


@asynccontextmanager
async def polling(_: FastAPI) -> AsyncIterator[None]:
    """A thread that polls, while the application serves."""
    thread = threading.Thread(target=poll)
    thread.start()
    yield
    stopping.set()
    thread.join()


app = FastAPI(lifespan=polling)


def produce(event: Event, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[kafka.KafkaError | None]":
    """Hand an event to Kafka's client; gives what will be its delivery report."""
    done: asyncio.Future[kafka.KafkaError | None] = loop.create_future()

    def delivered(error: kafka.KafkaError | None, _: kafka.Message) -> None:
        loop.call_soon_threadsafe(done.set_result, error)

    value, key = event.model_dump_json().encode(), (event.userId or "").encode()
    producer.produce(TOPIC, value, key=key, on_delivery=delivered)
    return done


@app.post("/v1/batch")
async def batch(body: Batch) -> dict[str, bool]:
    """Answer when each event is acknowledged; 503 when one is not."""
    loop = asyncio.get_running_loop()
    if any(await asyncio.gather(*[produce(event, loop) for event in body.batch])):
        raise HTTPException(503)
    return {"success": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), access_log=False)
