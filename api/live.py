"""`GET /v1/live`: one stream of server-sent events per browser, saying what changed.

Source: the Redis stream `live:{customer}` that the sinks append to after their commits (fields `kind` = `stats` with
`as_of_us`, or `events` with `data`, a JSON array). An SSE id is a Redis stream id, so any replica can resume any
client by `Last-Event-ID`; where the stream no longer reaches back, `resync` tells the page to fetch everything.
One reader per customer and process serves all its clients; a client that does not keep up loses its backlog and gets
`resync`. Without Redis the answer is 503 and clients poll.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.problems import ProblemError
from api.query.ranges import SECOND_US, rfc3339
from headrace import metrics
from headrace.clock import Clock
from headrace.log import get_logger

STREAM_PREFIX: Final = "live:"
RETRY_MS: Final = 2000
HEARTBEAT_S: Final = 5.0
SEND_INTERVAL_S: Final = 0.25
"""At most four messages of a kind a second and client; what comes between is put together."""
BACKLOG_MAX: Final = 500
"""Entries held for one client; past it they are dropped and the client is told to resync."""
RESUME_MAX: Final = 1000
EVENTS_A_MESSAGE_MAX: Final = 50
BLOCK_MS: Final = 2000
READ_RETRY_S: Final = 1.0
CANCELS_MAX, CANCEL_WAIT_S = 40, 0.05
"""A reader is cancelled again every CANCEL_WAIT_S: redis-py sends under asyncio.wait_for, which on Python 3.11 gives
the result and loses a cancellation that comes in the same turn of the loop (one in nine, tried right after a start).
"""
READ_FAILURES_MAX: Final = 5
RECHECK_S: Final = 2.0
"""A stream that sends asks this often whether its token is still good; one that is quiet, with every heartbeat."""

_ID = re.compile(r"\d{1,20}-\d{1,20}")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a customer's stream."""

    entry_id: str
    as_of_us: int | None
    events: list[Any]


@dataclass(slots=True, eq=False)
class _Client:
    entries: list[Entry] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    lost: bool = False
    gone: bool = False


class LiveHub:
    """All live streams of this process."""

    def __init__(
        self,
        redis: Redis | None,
        as_of: Callable[[int], Awaitable[int | None]],
        clock: Clock,
        *,
        clients_max: int,
    ) -> None:
        """`as_of`: what a customer's data is complete to (microseconds), asked while nothing changes."""
        self._redis = redis
        self._as_of = as_of
        self._clock = clock
        self._clients_max = clients_max
        self._clients: dict[int, set[_Client]] = {}
        self._readers: dict[int, asyncio.Task[None]] = {}
        self._unended: set[asyncio.Task[None]] = set()
        self._asked: dict[int, tuple[float, int | None]] = {}
        self._closing = False

    async def stream(
        self, customer_id: int, last_event_id: str | None, until_us: int, recheck: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[bytes, None]:
        """A stream of SSE bytes that ends at `until_us`, with its token, or when `recheck` raises ProblemError.

        Raises ProblemError 503 before the first.
        """
        if self._redis is None:
            raise ProblemError("live-unavailable", "no Redis is configured; poll instead")
        if self._closing or sum(len(clients) for clients in self._clients.values()) >= self._clients_max:
            raise ProblemError("live-unavailable", "no further live stream is possible here; try again or poll")
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            raise ProblemError("live-unavailable", "Redis does not answer; poll instead") from error
        return self._send(customer_id, last_event_id, until_us, recheck)

    def stop(self) -> None:
        """End every stream; clients reconnect elsewhere."""
        self._closing = True
        for clients in self._clients.values():
            for client in clients:
                client.gone = True
                client.wake.set()

    async def close(self) -> None:
        """Stop, and end the readers."""
        self.stop()
        self._readers.clear()
        for _ in range(CANCELS_MAX):
            for reader in self._unended:
                reader.cancel()
            if not self._unended:
                return
            await asyncio.wait(self._unended, timeout=CANCEL_WAIT_S)

    async def _send(
        self, customer_id: int, last_event_id: str | None, until_us: int, recheck: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[bytes, None]:
        client = _Client(gone=self._closing)
        # Joined here, at the first step: a stream that is never begun would never leave. And the reader has its
        # place before the backlog is read, so that nothing falls between; what comes twice is dropped by its id.
        self._join(customer_id, client)
        try:
            await self._begin_reading(customer_id)
            backlog = await self._since(customer_id, last_event_id)
            as_of_us = await self._complete_to(customer_id)
            yield f"retry: {RETRY_MS}\n\n".encode()
            yield self._stats(as_of_us, changed=False)
            if backlog is None:
                yield _message("resync", {})
                backlog = []
            sent = ""
            pending = backlog
            checked_at = self._clock.monotonic()
            while not client.gone and self._clock.now_us() < until_us:
                if self._clock.monotonic() - checked_at >= RECHECK_S:
                    await recheck()  # before anything is sent
                    checked_at = self._clock.monotonic()
                pending = [entry for entry in pending if _after(entry.entry_id, sent)]
                if pending:
                    sent = pending[-1].entry_id
                    known = [entry.as_of_us for entry in pending if entry.as_of_us is not None]
                    as_of_us = _later(as_of_us, max(known, default=None))
                    events = [event for entry in pending for event in entry.events]
                    if events:
                        yield _message("events", {"events": events[-EVENTS_A_MESSAGE_MAX:]}, sent)
                    yield self._stats(as_of_us, changed=True, entry_id=sent)
                    await asyncio.sleep(SEND_INTERVAL_S)
                if client.lost:
                    client.lost = False
                    yield _message("resync", {})
                if not client.entries and not await _woken(client.wake, HEARTBEAT_S):
                    as_of_us = _later(as_of_us, await self._complete_to(customer_id))
                    yield self._stats(as_of_us, changed=False)
                client.wake.clear()
                pending, client.entries = client.entries, []
        except (RedisError, OSError) as error:
            log.warning("live_stream_ended", error=type(error).__name__)
        except ProblemError as problem:
            log.info("live_stream_ended", reason=problem.slug)
        finally:
            self._leave(customer_id, client)

    async def _complete_to(self, customer_id: int) -> int | None:
        """As `as_of`, asked once for all of a customer's clients in half a heartbeat."""
        now = self._clock.monotonic()
        known = self._asked.get(customer_id)
        if known is not None and now - known[0] < HEARTBEAT_S / 2:
            return known[1]
        self._asked[customer_id] = (now, known[1] if known else None)
        as_of_us = await self._as_of(customer_id)
        if customer_id in self._clients:
            self._asked[customer_id] = (now, as_of_us)
        return as_of_us

    def _stats(self, as_of_us: int | None, *, changed: bool, entry_id: str | None = None) -> bytes:
        age_s = None if as_of_us is None else round(max(0, self._clock.now_us() - as_of_us) / SECOND_US, 3)
        as_of = None if as_of_us is None else rfc3339(as_of_us)
        return _message("stats", {"as_of": as_of, "freshness_s": age_s, "changed": changed}, entry_id)

    def _join(self, customer_id: int, client: _Client) -> None:
        self._clients.setdefault(customer_id, set()).add(client)
        metrics.gauge("headrace_live_clients").inc()

    async def _begin_reading(self, customer_id: int) -> None:
        """Returns when every entry from now on will be delivered to the customer's clients."""
        if self._is_read(customer_id):
            return
        newest = await self._newest(f"{STREAM_PREFIX}{customer_id}")
        if self._closing or self._is_read(customer_id):
            return
        reader = asyncio.create_task(self._read(customer_id, newest), name=f"live-{customer_id}")
        self._readers[customer_id] = reader
        self._unended.add(reader)
        reader.add_done_callback(self._unended.discard)

    def _is_read(self, customer_id: int) -> bool:
        return customer_id in self._readers and not self._readers[customer_id].done()

    def _leave(self, customer_id: int, client: _Client) -> None:
        clients = self._clients.get(customer_id, set())
        if client not in clients:
            return
        clients.remove(client)
        metrics.gauge("headrace_live_clients").dec()
        if not clients:
            self._clients.pop(customer_id, None)
            self._asked.pop(customer_id, None)
            reader = self._readers.pop(customer_id, None)
            if reader is not None:
                reader.cancel()

    async def _read(self, customer_id: int, last: str) -> None:
        """Hand the customer's entries after `last` to its clients, until the last one leaves or Redis stays away.

        Ends within BLOCK_MS of the last client's leaving, also when the cancellation was lost.
        """
        assert self._redis is not None
        name = f"{STREAM_PREFIX}{customer_id}"
        failures = 0
        while failures < READ_FAILURES_MAX:
            if self._readers.get(customer_id) is not asyncio.current_task():
                return
            try:
                answer = await self._redis.xread({name: last}, count=BACKLOG_MAX, block=BLOCK_MS)
                failures = 0
            except (RedisError, OSError) as error:
                failures += 1
                log.warning("live_read_failed", error=type(error).__name__, failures=failures)
                await asyncio.sleep(READ_RETRY_S)
                continue
            for entry_id, fields in _entries(answer):
                last = entry_id
                self._deliver(customer_id, _entry(entry_id, fields))
        for client in self._clients.get(customer_id, set()):
            client.gone = True
            client.wake.set()

    async def _newest(self, name: str) -> str:
        assert self._redis is not None
        newest = await self._redis.xrevrange(name, count=1)
        return _text(newest[0][0]) if newest else "0-0"

    def _deliver(self, customer_id: int, entry: Entry) -> None:
        for client in self._clients.get(customer_id, set()):
            if len(client.entries) >= BACKLOG_MAX:
                client.entries.clear()
                client.lost = True
            client.entries.append(entry)
            client.wake.set()

    async def _since(self, customer_id: int, last_event_id: str | None) -> list[Entry] | None:
        """What a client missed since `last_event_id`; None when that cannot be told."""
        assert self._redis is not None
        name = f"{STREAM_PREFIX}{customer_id}"
        if not last_event_id:
            return []
        if not _ID.fullmatch(last_event_id):
            return None
        oldest = await self._redis.xrange(name, count=1)
        if not oldest or _after(_text(oldest[0][0]), last_event_id):
            return None
        missed = await self._redis.xrange(name, min=f"({last_event_id}", count=RESUME_MAX + 1) or []
        if len(missed) > RESUME_MAX:
            return None
        return [_entry(_text(entry_id), fields) for entry_id, fields in missed]


def _entries(answer: Any) -> list[tuple[str, Any]]:
    """The entries of one XREAD over one stream: RESP2 gives a list, RESP3 a map (of lists)."""
    if not answer:
        return []
    found = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
    if found and isinstance(found[0], list) and found[0] and isinstance(found[0][0], tuple | list):
        found = found[0]
    return [(_text(entry_id), fields) for entry_id, fields in found]


def _entry(entry_id: str, fields: Any) -> Entry:
    """Unreadable entries change nothing but the position: a newer sink may write kinds that we do not know."""
    found = {_text(name): value for name, value in dict(fields).items()}
    kind = _text(found.get("kind", b""))
    try:
        if kind == "stats":
            return Entry(entry_id, int(found["as_of_us"]), [])
        if kind == "events":
            return Entry(entry_id, None, _shown(msgspec.json.decode(found["data"], type=list[dict[str, Any]])))
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        log.warning("live_entry_unreadable", kind=kind[:20], error=type(error).__name__)
    return Entry(entry_id, None, [])


def _shown(events: list[dict[str, Any]]) -> list[Any]:
    """Unset is null, as in answers."""
    return [{name: None if value == "" else value for name, value in event.items()} for event in events]


def _after(entry_id: str, other: str) -> bool:
    return not other or _order(entry_id) > _order(other)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _message(event: str, data: Any, entry_id: str | None = None) -> bytes:
    """One SSE message; JSON holds no raw line breaks, so one `data:` line is enough."""
    head = f"id: {entry_id}\n" if entry_id else ""
    return f"{head}event: {event}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


def _later(one: int | None, other: int | None) -> int | None:
    return max((item for item in (one, other) if item is not None), default=None)


async def _woken(wake: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await wake.wait()
    except TimeoutError:
        return False
    return True
