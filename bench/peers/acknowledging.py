"""Kafka's client as the plain gateways use it that wait: a thread polls, a future an event."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from headrace import kafka
from headrace.settings import Settings

POLL_S = 0.1


class Acknowledging:
    """A producer of one topic."""

    def __init__(self, address: str, topic: str) -> None:
        self._producer = kafka.producer(Settings(kafka=address))
        self._topic = topic
        self._stopping = threading.Event()

    @asynccontextmanager
    async def polling(self, _: FastAPI) -> AsyncIterator[None]:
        """A thread that polls, while the application serves."""
        thread = threading.Thread(target=self._poll)
        thread.start()
        yield
        self._stopping.set()
        thread.join()

    def produce(
        self, key: bytes, value: bytes, loop: asyncio.AbstractEventLoop
    ) -> "asyncio.Future[kafka.KafkaError | None]":
        """Hand a record to Kafka's client; gives what will be its delivery report."""
        done: asyncio.Future[kafka.KafkaError | None] = loop.create_future()

        def delivered(error: kafka.KafkaError | None, _: kafka.Message) -> None:
            loop.call_soon_threadsafe(done.set_result, error)

        self._producer.produce(self._topic, value, key=key, on_delivery=delivered)
        return done

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)
