"""Live streams: what the sinks write to Redis reaches browsers, resumed on any replica, and nobody waits for it."""

import asyncio
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx
import jwt
import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from api.auth.access import SESSION_COOKIE
from api.auth.tokens import REVOCATION_DELAY_S, revoke_api_token
from api.live import BACKLOG_MAX, BLOCK_MS, HEARTBEAT_S, RECHECK_S, LiveHub
from api.problems import TYPE_PREFIX, ProblemError
from headrace.clock import SystemClock
from headrace.runtime.parts import Part
from headrace.runtime.ports import free_ports
from headrace.runtime.process import Process
from headrace.runtime.valkey_engine import ValkeyEngine
from headrace.settings import Settings
from headrace.shards.address import connect_control
from sinks.live import STREAM_ENTRIES_MAX, LiveNotices, stream_key
from tests.integration.api_world import make_world, running_api, settings_with_key, wait_until
from tests.integration.conftest import Databases, MakeSettings

Message = tuple[str, Any, str | None]


def test_changes_reach_streams_and_are_resumed_on_another_replica(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres", "redis"), tmp_path)
    world = make_world(settings, postgres.shards, count=50)
    mine, theirs = world.customers
    second = Settings.load(environ=settings.as_environment() | {"HEADRACE_API_PORT": str(free_ports(1)[0])})
    notices = LiveNotices(settings)
    headers = {"Authorization": f"Bearer {world.tokens[mine]}"}
    with running_api(settings) as url, running_api(second) as other_url:
        with streaming(url, headers) as messages:
            name, data, _ = messages.get(timeout=5)
            assert (name, data["changed"]) == ("stats", False)
            assert data["as_of"] is not None, "the first message says how fresh the data is"
            notices.changed({mine: 3, theirs: 5}, 1_800_000_000_000_000)
            notices.stored({mine: ['{"event":"signup"}'], theirs: ['{"event":"secret"}']}, 1_800_000_000_000_000)
            found = until(messages, lambda message: message[0] == "events")
            assert found[-1][1] == {"events": [{"event": "signup"}]}
            stats = until(messages, lambda message: message[0] == "stats" and message[1]["changed"])[-1]
            assert stats[1]["as_of"] == "2027-01-15T08:00:00Z"
            resume_at = stats[2]
            assert resume_at is not None
            quiet = messages.get(timeout=HEARTBEAT_S + 3)
            assert (quiet[0], quiet[1]["changed"], quiet[2]) == ("stats", False, None)

        notices.stored({mine: ['{"event":"missed"}']}, 1_800_000_001_000_000)
        with streaming(other_url, headers | {"Last-Event-ID": resume_at}) as messages:
            found = until(messages, lambda message: message[0] == "events")
            assert found[-1][1] == {"events": [{"event": "missed"}]}
            assert "resync" not in [message[0] for message in found]

        for _ in range(2 * STREAM_ENTRIES_MAX):
            notices.changed({mine: 1}, 1_800_000_002_000_000)
        trimmed = Redis.from_url(settings.redis).xlen(stream_key(mine))
        assert isinstance(trimmed, int)
        assert trimmed < 2 * STREAM_ENTRIES_MAX
        for cursor in (resume_at, "1-1", "nonsense", "9" * 30 + "-1"):
            with streaming(url, headers | {"Last-Event-ID": cursor}) as messages:
                assert [messages.get(timeout=5)[0] for _ in range(2)] == ["stats", "resync"], cursor

        # running_api ends the processes with SIGTERM and checks that they end in time: with a stream still open.
        with streaming(url, headers) as messages:
            messages.get(timeout=5)
    notices.close()


def test_a_stream_ends_soon_after_a_revocation_and_a_sign_out(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres", "redis"), tmp_path)
    world = make_world(settings, postgres.shards, count=50)
    mine, theirs = world.customers
    by_token = {"Authorization": f"Bearer {world.tokens[mine]}"}
    other = {"Authorization": f"Bearer {world.tokens[theirs]}"}
    with running_api(settings) as url:
        code = httpx.post(f"{url}/v1/session/codes", json={}, headers=other).json()["code"]
        same = {"Sec-Fetch-Site": "same-origin"}
        browser = httpx.Client(base_url=url, headers=same)
        browser.post("/v1/session", json={"code": code})
        by_cookie = {"Cookie": f"{SESSION_COOKIE}={browser.cookies[SESSION_COOKIE]}"}
        # Two streams that nothing happens on, until their access ends.
        with streaming(url, by_token) as revoked, streaming(url, by_cookie | same) as signed_out:
            assert (revoked.get(timeout=5)[0], signed_out.get(timeout=5)[0]) == ("stats", "stats")
            with connect_control(settings) as control:
                token_id = jwt.decode(world.tokens[mine], options={"verify_signature": False})["jti"]
                assert revoke_api_token(control, token_id)
            assert browser.delete("/v1/session").status_code == 204
            for messages in (revoked, signed_out):
                until(messages, lambda message: message[0] == "end", timeout_s=2 * HEARTBEAT_S + REVOCATION_DELAY_S)
        assert httpx.get(f"{url}/v1/live", headers=by_token).status_code == 401


def test_no_event_is_sent_once_the_token_is_known_to_be_revoked(redis_url: str) -> None:
    asyncio.run(_revoked_while_events_come(redis_url))


async def _revoked_while_events_come(redis_url: str) -> None:
    revoked = False

    async def as_of(_customer_id: int) -> int | None:
        return None

    async def recheck() -> None:
        if revoked:
            raise ProblemError("unauthenticated", "revoked")

    redis = AsyncRedis.from_url(redis_url)
    hub = LiveHub(redis, as_of, SystemClock(), clients_max=2)
    stream = await hub.stream(7, None, SystemClock().now_us() + 60_000_000, recheck)
    await anext(stream)
    await anext(stream)
    waiting = asyncio.create_task(anext(stream, b"ended"))
    await asyncio.sleep(RECHECK_S + 0.2)
    revoked = True
    await redis.xadd("live:7", {"kind": "events", "data": '[{"event":"secret"}]'})
    async with asyncio.timeout(5):
        assert await waiting == b"ended"
    await hub.close()
    await redis.aclose()


class SlowToTell(AsyncRedis):
    """Takes its time to say where a stream ends."""

    async def xrevrange(self, *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.2)
        return await super().xrevrange(*arguments, **options)


@pytest.mark.parametrize("resumed", [False, True])
def test_nothing_falls_between_the_backlog_and_what_is_read_live(redis_url: str, resumed: bool) -> None:
    asyncio.run(_written_while_a_stream_begins(redis_url, resumed=resumed))


async def _written_while_a_stream_begins(redis_url: str, *, resumed: bool) -> None:
    async def nothing(_customer_id: int) -> int | None:
        return None

    async def good() -> None:
        return

    redis = SlowToTell.from_url(redis_url)
    first = await redis.xadd("live:7", {"kind": "events", "data": '[{"event":"before"}]'})
    first_id = first.decode() if isinstance(first, bytes) else first
    hub = LiveHub(redis, nothing, SystemClock(), clients_max=2)
    until_us = SystemClock().now_us() + 60_000_000
    stream = await hub.stream(7, first_id if resumed else None, until_us, good)
    begun = asyncio.create_task(anext(stream))
    if resumed:
        await asyncio.sleep(0.1)  # while the stream begins
    else:
        await begun
    await redis.xadd("live:7", {"kind": "events", "data": '[{"event":"meanwhile"}]'})
    await begun
    async with asyncio.timeout(5):
        events = b""
        while b"event: events" not in events:
            events = await anext(stream)
    assert b"meanwhile" in events
    assert events.startswith(b"id: "), "cut off after this message, it does not come twice"
    assert b"before" not in events
    await stream.aclose()
    await hub.close()
    await redis.aclose()


@pytest.mark.parametrize("how", ["the last client left", "the hub is closed"])
def test_readers_end_though_a_cancellation_may_be_lost(redis_url: str, how: str) -> None:
    """Left at every turn of the loop: at some of them redis-py loses a cancellation on Python 3.11."""
    asyncio.run(_left_at_every_turn(redis_url, close=how == "the hub is closed"))


async def _left_at_every_turn(redis_url: str, *, close: bool) -> None:
    async def nothing(_customer_id: int) -> int | None:
        return None

    async def good() -> None:
        return

    redis = AsyncRedis.from_url(redis_url)
    for turns in range(60):
        hub = LiveHub(redis, nothing, SystemClock(), clients_max=2)
        stream = await hub.stream(7, None, SystemClock().now_us() + 60_000_000, good)
        waiting = asyncio.create_task(anext(stream))
        for _ in range(turns):
            await asyncio.sleep(0)
        if close:
            begun = asyncio.get_running_loop().time()
            await hub.close()
            assert asyncio.get_running_loop().time() - begun < 1.0, turns
            assert _readers() == [], turns
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        await stream.aclose()
    async with asyncio.timeout(BLOCK_MS / 1000 + 1):
        while _readers():
            await asyncio.sleep(0.05)
    await redis.aclose()


def _readers() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("live-")]


def test_redis_going_away_ends_streams_and_clients_are_told_to_poll(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path, start_part: Callable[[Part], Process]
) -> None:
    engine = ValkeyEngine(folder=tmp_path / "valkey", port=free_ports(1)[0], password=secrets.token_urlsafe(16))
    process = start_part(engine)
    settings = settings_with_key(make_settings("postgres", redis=engine.url()), tmp_path)
    world = make_world(settings, postgres.shards, count=50)
    headers = {"Authorization": f"Bearer {world.tokens[world.customers[0]]}"}
    totals = {"kind": "totals", "metrics": ["events"], "range": {"from": "-3y"}}
    with running_api(settings) as url:
        with streaming(url, headers) as messages:
            messages.get(timeout=5)
            process.kill()
            until(messages, lambda message: message[0] == "end", timeout_s=20)
        refused = httpx.get(f"{url}/v1/live", headers=headers, timeout=10)
        assert (refused.status_code, refused.json()["type"]) == (503, TYPE_PREFIX + "live-unavailable")
        assert refused.headers["retry-after"]
        assert httpx.post(f"{url}/v1/query", json=totals, headers=headers).status_code == 200
        start_part(engine)

        def streams_again() -> bool:
            with httpx.stream("GET", f"{url}/v1/live", headers=headers, timeout=10) as answer:
                return answer.status_code == 200

        wait_until(streams_again, 10)


def test_a_client_that_does_not_keep_up_loses_its_backlog_and_is_told_to_fetch_anew(redis_url: str) -> None:
    asyncio.run(_slow_client(redis_url))


async def _slow_client(redis_url: str) -> None:
    customer = 7

    async def as_of(_customer_id: int) -> int | None:
        return None

    async def still_good() -> None:
        return None

    redis = AsyncRedis.from_url(redis_url)
    hub = LiveHub(redis, as_of, SystemClock(), clients_max=2)
    until_us = SystemClock().now_us() + 60_000_000
    slow = await hub.stream(customer, None, until_us, still_good)
    assert await anext(slow) == b"retry: 2000\n\n"
    await asyncio.sleep(0.2)  # until the reader waits at the stream's end
    # Nobody takes from `slow` now; what arrives meanwhile is more than is held for one client.
    for _ in range(2 * BACKLOG_MAX):
        await redis.xadd(f"live:{customer}", {"kind": "stats", "as_of_us": 1_800_000_000_000_000})
    await redis.xadd(f"live:{customer}", {"kind": "a kind of later years", "x": "y"})
    await redis.xadd(f"live:{customer}", {"kind": "events", "data": "no json"})
    await asyncio.sleep(0.5)
    names = []
    async with asyncio.timeout(20):
        async for chunk in slow:
            names += re.findall(rb"event: (\w+)", chunk)
            if b"resync" in names:
                break
    assert names.count(b"stats") <= 3, "the backlog is dropped, not sent late"
    second = await hub.stream(customer, None, until_us, still_good)
    await anext(second)
    with pytest.raises(ProblemError) as refused:
        await hub.stream(customer, None, until_us, still_good)
    assert refused.value.status == 503
    await slow.aclose()
    third = await hub.stream(customer, None, until_us, still_good)
    hub.stop()
    async with asyncio.timeout(5):
        for stream in (second, third):
            assert [chunk async for chunk in stream] != []
    await hub.close()
    await redis.aclose()


@contextmanager
def streaming(url: str, headers: dict[str, str]) -> Iterator["Queue[Message]"]:
    """Messages of a stream as they come; ("end", …) when the server ends it."""
    messages: Queue[Message] = Queue()
    with httpx.Client(timeout=httpx.Timeout(5, read=30)) as client:
        request = client.build_request("GET", f"{url}/v1/live", headers=headers)
        answer = client.send(request, stream=True)
        assert answer.status_code == 200, answer.read()
        reader = threading.Thread(target=_read, args=(answer, messages), daemon=True)
        reader.start()
        yield messages
        # Closing the response alone would leave the reader waiting for the next heartbeat.
        answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    reader.join(timeout=10)


def _read(answer: httpx.Response, messages: "Queue[Message]") -> None:
    name, entry_id = "", None
    try:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("id: "):
                entry_id = line[4:]
            elif line.startswith("data: "):
                messages.put((name, json.loads(line[6:]), entry_id))
                entry_id = None
    except (httpx.HTTPError, httpx.StreamError, OSError):
        pass
    messages.put(("end", None, None))


def until(messages: "Queue[Message]", wanted: Callable[[Message], bool], timeout_s: float = 8.0) -> list[Message]:
    """All messages up to the wanted one."""
    deadline = time.monotonic() + timeout_s
    found: list[Message] = []
    while True:
        try:
            found.append(messages.get(timeout=max(0.01, deadline - time.monotonic())))
        except Empty:
            raise AssertionError(f"waited in vain; got {found}") from None
        if wanted(found[-1]):
            return found
