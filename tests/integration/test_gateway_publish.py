"""The publisher alone, on real Kafka: what it does when its client or a row is at fault."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headrace import kafka
from headrace.clock import SystemClock
from headrace.errors import HeadraceError, UnavailableError
from headrace.settings import Settings
from headrace.topics import create_topics
from producers.gateway.publish import Publisher, RejectedEvent
from schemas.codec import decode_events, event_arrow
from schemas.topics import Topics
from tests.integration.conftest import MakeSettings
from tests.integration.gateway_world import read_all


def row(message_id: str, **values: Any) -> tuple[Any, ...]:
    """A row of nothing but its id."""
    given = {"customer_id": 7, "message_id": message_id} | values
    empty = {item.name: None if item.nullable else "" if str(item.type) == "string" else 0 for item in event_arrow()}
    return tuple((empty | given).values())


def run(settings: Settings, check: Callable[[Publisher], Awaitable[None]]) -> list[str]:
    """Run `check` with a publisher; gives the ids that are in Kafka afterwards."""
    create_topics(settings)

    async def main() -> None:
        publisher = Publisher(settings, SystemClock())
        await check(publisher)
        await publisher.close()

    asyncio.run(main())
    values = [message.value() for message in read_all(settings, Topics(settings.topic_prefix).events)]
    return sorted(decode_events(values).events.column("message_id").to_pylist())


async def outcome(publisher: Publisher, rows: list[tuple[Any, ...]]) -> str:
    """`ok` or the error's kind; asserts that the request is settled once, shortly after at the latest."""
    settled: list[None] = []
    found = "ok"
    try:
        await publisher.publish(rows, [], lambda: settled.append(None))
    except HeadraceError as error:
        found = type(error).__name__
    for _ in range(300):
        if settled:
            break
        await asyncio.sleep(0.01)
    assert len(settled) == 1
    return found


def test_after_a_fatal_error_of_the_client_another_takes_over(make_settings: MakeSettings) -> None:
    async def check(publisher: Publisher) -> None:
        assert await outcome(publisher, [row("before")]) == "ok"
        first = publisher._producer
        # librdkafka's own way to bring one about is not reachable from Python; this is what a report of it does.
        publisher._note(kafka.KafkaError(kafka.KafkaError._FATAL, "told so", fatal=True))
        assert await outcome(publisher, [row("after")]) == "ok"
        assert publisher._producer is not first

    assert run(make_settings("kafka"), check) == ["after", "before"]


@pytest.mark.parametrize("company", [1, 40])
def test_rows_that_cannot_be_encoded_fail_their_request_alone(make_settings: MakeSettings, company: int) -> None:
    async def check(publisher: Publisher) -> None:
        good = [row(f"good-{i:02d}") for i in range(company)]
        bad = [row("bad", timestamp_us=2**70)]
        assert list(await asyncio.gather(outcome(publisher, good), outcome(publisher, bad))) == ["ok", "PoisonError"]

    assert run(make_settings("kafka"), check) == [f"good-{i:02d}" for i in range(company)]


def test_a_missing_topic_is_no_acknowledgement(make_settings: MakeSettings) -> None:
    settings = make_settings("kafka", ingest_publish_timeout_s=2.0)

    async def check() -> None:
        publisher = Publisher(settings, SystemClock())
        probed = await asyncio.to_thread(publisher.probe)
        assert probed is not None
        assert "headrace topics create" in probed
        assert await outcome(publisher, [row("x")]) == UnavailableError.__name__
        await publisher.close()

    asyncio.run(check())


def test_a_large_rejected_event_is_kept_from_its_start_and_says_so(make_settings: MakeSettings) -> None:
    settings = make_settings("kafka")
    raw = b"x" * 3_000_000

    async def check(publisher: Publisher) -> None:
        await publisher.publish([], [RejectedEvent(7, "event_too_large", "too large", raw)], lambda: None)

    run(settings, check)
    (message,) = read_all(settings, Topics(settings.topic_prefix).rejected)
    headers = dict(message.headers())
    assert message.value() == raw[: 512 * 1024]
    assert headers["headrace.truncated_from_bytes"] == b"3000000"
    assert headers["__connect.errors.exception.message"] == b"event_too_large"
