"""Whose events a request brings: from the write key that it carries to the customer, and from nothing else.

A key may stand in the Authorization header (Basic, with or without its colon), in X-Write-Key, in the query or in
the body; the first that is known counts. Looked-up keys, unknown ones too, are trusted for `write_key_cache_s`, so a
revocation works within that time; while the control database is away a known key serves on for
`write_key_stale_s`, then the answer is "come back later". Keys are held as their hashes, at most
`write_key_cache_max` of them. A lookup tells the version of the customer's tracking plan, never the plan itself. It
asks for other keys in use too that will soon have to be asked for, so a gateway of many customers asks once and not
once for each.
"""

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, LiteralString, Protocol, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from headrace import metrics
from headrace.clock import Clock
from headrace.errors import ConfigurationError, UnavailableError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.policy import OPEN, Policy, parse_policy
from headrace.shards.write_keys import hash_write_key
from producers.gateway.answers import RETRY_AFTER_S
from producers.gateway.single_flight import SingleFlight

LOOKUP_TIMEOUT_S: Final = 2.0
LOOKUP_PAUSE_S: Final = 1.0
"""After a failed lookup the control database is left alone for so long."""
KEY_CHARS_MAX: Final = 512
POOL_MAX: Final = 4
KEYS_PER_LOOKUP_MAX: Final = 256
"""A lookup takes along those of so many keys, the last used ones, that have lived half of their trusted time."""

_FIND = """
    SELECT k.key_hash, c.customer_id, c.policy, p.version
    FROM write_keys k JOIN customers c USING (customer_id) LEFT JOIN tracking_plans p USING (customer_id)
    WHERE k.key_hash = ANY(%s) AND k.revoked_at IS NULL
"""
_PLAN = "SELECT version, plan::text FROM tracking_plans WHERE customer_id = %s"

Asked = TypeVar("Asked")
Told = TypeVar("Told")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant as the gateway needs to know it. `plan_version`: of its tracking plan, None if it never had one."""

    customer_id: int
    policy: Policy = OPEN
    plan_version: int | None = None


@dataclass(frozen=True, slots=True)
class PlanText:
    """A tracking plan as it is stored: its version and its JSON text, `{}` once it was removed."""

    version: int
    text: str


class Directory(Protocol):
    """Where write keys are looked up, and the tracking plans of their customers."""

    async def find(self, key_hashes: Sequence[bytes]) -> Mapping[bytes, Customer]:
        """The customers of those of these keys that are known and not revoked. Raises UnavailableError within
        LOOKUP_TIMEOUT_S."""

    async def plan(self, customer_id: int) -> PlanText | None:
        """The customer's tracking plan as it is now, if there is one. Raises UnavailableError as `find` does."""


class ControlDirectory:
    """The control database. `open` and `close` frame its life on the event loop."""

    def __init__(self, settings: Settings) -> None:
        if not settings.postgres_control:
            raise ConfigurationError(
                "postgres_control is not set", remedy="set HEADRACE_POSTGRES_CONTROL to the control database's DSN"
            )
        self._pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            settings.postgres_control,
            min_size=1,
            max_size=POOL_MAX,
            open=False,
            timeout=LOOKUP_TIMEOUT_S,
            reconnect_timeout=LOOKUP_TIMEOUT_S,
            kwargs={"autocommit": True, "connect_timeout": 2, "application_name": "headrace-ingest"},
            name="write-keys",
        )

    async def open(self) -> None:
        """Start connecting; does not wait for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=LOOKUP_TIMEOUT_S)

    async def find(self, key_hashes: Sequence[bytes]) -> Mapping[bytes, Customer]:
        return {
            key_hash: Customer(customer_id, parse_policy(policy), plan_version)
            for key_hash, customer_id, policy, plan_version in await self._rows(_FIND, list(key_hashes))
        }

    async def plan(self, customer_id: int) -> PlanText | None:
        rows = await self._rows(_PLAN, customer_id)
        return PlanText(*rows[0]) if rows else None

    async def _rows(self, query: LiteralString, parameter: list[bytes] | int) -> Sequence[tuple[Any, ...]]:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S), self._pool.connection() as connection:
                rows: list[tuple[Any, ...]] = await (await connection.execute(query, (parameter,))).fetchall()
        except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
            raise UnavailableError(
                f"the control database does not answer: {type(error).__name__}", retry_after_s=RETRY_AFTER_S
            ) from error
        return rows

    async def probe(self) -> str | None:
        """What is wrong, or None."""
        try:
            await self.find([])
        except UnavailableError as error:
            return error.message
        return None


@dataclass(slots=True)
class _Entry:
    customer: Customer | None
    confirmed_s: float
    """When the control database last said so, monotonic."""


class WriteKeys:
    """A bounded, short-lived memory in front of a directory. One event loop, so no lock."""

    def __init__(self, directory: Directory, settings: Settings, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._fresh_s = settings.write_key_cache_s
        self._stale_s = settings.write_key_stale_s
        self._entries_max = settings.write_key_cache_max
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lookups = SingleFlight(self._find)
        self._paused_until_s = float("-inf")
        metrics.gauge("headrace_write_key_cache_entries").set_function(lambda: len(self._entries))

    async def resolve(self, keys: Sequence[str]) -> Customer | None:
        """The customer of the first known key. Raises UnavailableError when that cannot be told."""
        for key in keys:
            if 0 < len(key) <= KEY_CHARS_MAX:
                customer = await self._customer(hash_write_key(key))
                if customer is not None:
                    return customer
        return None

    async def _customer(self, key_hash: bytes) -> Customer | None:
        entry = self._entries.get(key_hash)
        now = self._clock.monotonic()
        if entry is not None and now - entry.confirmed_s < self._fresh_s:
            self._entries.move_to_end(key_hash)
            return entry.customer
        try:
            return await self._lookups.get(key_hash)
        except UnavailableError:
            # An unknown key stays unknown only as long as it is fresh: it may have been created meanwhile.
            if entry is not None and entry.customer is not None and now - entry.confirmed_s < self._stale_s:
                return entry.customer
            raise

    async def plan(self, customer_id: int) -> PlanText | None:
        """The customer's tracking plan as it is now, from the directory. Raises UnavailableError."""
        return await self._asked(self._directory.plan, customer_id)

    async def _find(self, key_hash: bytes) -> Customer | None:
        others = self._due(key_hash)
        found = await self._asked(self._directory.find, [key_hash, *others])
        now = self._clock.monotonic()
        for other in others:
            if other in self._entries:  # it may have been pushed out meanwhile
                self._entries[other] = _Entry(found.get(other), now)
        self._entries[key_hash] = _Entry(found.get(key_hash), now)
        self._entries.move_to_end(key_hash)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
        return found.get(key_hash)

    def _due(self, asked: bytes) -> list[bytes]:
        """The known keys that the lookup of another takes along."""
        before = self._clock.monotonic() - self._fresh_s / 2
        return [
            key_hash
            for key_hash, entry in islice(reversed(self._entries.items()), KEYS_PER_LOOKUP_MAX)
            if key_hash != asked and entry.customer is not None and entry.confirmed_s <= before
        ]

    async def _asked(self, ask: Callable[[Asked], Awaitable[Told]], about: Asked) -> Told:
        """What the directory tells, unless it is left alone after a failure. Raises UnavailableError."""
        if self._clock.monotonic() < self._paused_until_s:
            raise UnavailableError("the control database did not answer lately", retry_after_s=RETRY_AFTER_S)
        try:
            return await ask(about)
        except UnavailableError as error:
            self._paused_until_s = self._clock.monotonic() + LOOKUP_PAUSE_S
            log.warning("control_lookup_failed", error=error.message)
            raise


def carried_keys(headers: Mapping[str, str], query: Mapping[str, str]) -> list[str]:
    """The write keys in a request's headers and query, in the order in which they are tried."""
    keys: list[str] = []
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        keys += _basic_keys(credentials.strip())
    elif scheme.lower() == "bearer" and credentials.strip():
        keys.append(credentials.strip())
    in_header = headers.get("x-write-key")
    if in_header:
        # jitsu sends `id:secret`; either the whole or the secret was given to its user as the write key.
        keys.append(in_header)
        if ":" in in_header:
            keys.append(in_header.partition(":")[2])
    in_query = query.get("writeKey")
    if in_query:
        keys.append(in_query)
    return keys


def _basic_keys(credentials: str) -> list[str]:
    """`key:` in base64, as every SDK sends it; `key` without its colon, and with its padding lost, is tolerated."""
    try:
        decoded = base64.b64decode(credentials + "=" * (-len(credentials) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return []
    user, _, password = decoded.partition(":")
    return [key for key in (user, password) if key]
