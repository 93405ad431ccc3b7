"""Browser sessions: a one-time code becomes two cookies, and Redis remembers who may go on.

A code (in the fragment of the printed link, so that no server log has it) is exchanged once. The session cookie is
a JWT of at most 15 minutes; the refresh cookie is random, kept here by its hash, and replaced at every refresh (the
old one still works for REFRESH_GRACE_S, for two tabs that refresh at once). A session ends for good after
SESSION_LIFE_S_MAX, and with the API token that its code was made with. Any replica serves any request.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.auth import tokens
from api.auth.keys import SigningKey
from api.auth.tokens import Principal, Scope
from api.problems import ProblemError
from headrace.clock import Clock
from headrace.errors import UnavailableError

PREFIX: Final = "headrace:"
REFRESH_GRACE_S: Final = 30
CODE_CHARS_MAX: Final = 100
SESSION_LIFE_S_MAX: Final = 30 * 86_400
"""However often it is refreshed: after this a new link is needed."""


class SessionRecord(msgspec.Struct, frozen=True, array_like=True):
    """Who a code or a refresh token speaks for, since when, and by which API token."""

    session_id: str
    customer_id: int | None
    scope: Scope
    parent_id: str
    started_s: int


CheckParent = Callable[[str | None, int | None, Scope], Awaitable[None]]
"""Raises ProblemError when the API token (its id first) is no longer good for that customer and scope."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a browser gets."""

    token: str
    refresh_token: str
    principal: Principal


class Sessions:
    """Codes, sessions and their end. Raises ProblemError 503 while Redis is away."""

    def __init__(
        self, redis: Redis, key: SigningKey, clock: Clock, *, ttl_s: int, refresh_ttl_s: int, code_ttl_s: int
    ) -> None:
        """All lives in seconds."""
        self._redis = redis
        self._key = key
        self._clock = clock
        self._ttl_s = min(ttl_s, tokens.SESSION_S_MAX)
        self._refresh_ttl_s = refresh_ttl_s
        self._code_ttl_s = code_ttl_s

    async def create_code(self, customer_id: int | None, scope: Scope, parent_id: str) -> tuple[str, int]:
        """A one-time code, made with the API token `parent_id`, and when it ends (epoch seconds)."""
        code = secrets.token_urlsafe(24)
        record = SessionRecord(secrets.token_urlsafe(16), customer_id, scope, parent_id, self._now_s())
        await self._put("code", code, record, self._code_ttl_s)
        return code, self._now_s() + self._code_ttl_s

    async def exchange(self, code: str, check_parent: CheckParent) -> Session:
        """Use a code up. Raises ProblemError 401 for an unknown, used or expired one."""
        if not 0 < len(code) <= CODE_CHARS_MAX:
            raise _unknown("code")
        try:
            found = await self._redis.getdel(_name("code", code))
        except (RedisError, OSError) as error:
            raise _away() from error
        record = _decoded(found)
        if record is None:
            raise _unknown("code")
        await check_parent(record.parent_id, record.customer_id, record.scope)
        return await self._start(record)

    async def refresh(self, refresh_token: str, check_parent: CheckParent) -> Session:
        """Go on with a session. Raises ProblemError 401 when it ended."""
        try:
            found = await self._redis.get(_name("refresh", refresh_token[:CODE_CHARS_MAX]))
            record = _decoded(found)
            if record is None or await self.has_ended(record.session_id) or self._left_s(record) <= 0:
                raise _unknown("session")
            # Before anything changes: while this cannot be told, the browser's cookie stays as good as it is.
            await check_parent(record.parent_id, record.customer_id, record.scope)
            # NX on nothing: only shorten what is left, never lengthen a grace that already runs.
            await self._redis.expire(_name("refresh", refresh_token), REFRESH_GRACE_S, lt=True)
        except (RedisError, OSError, UnavailableError) as error:
            raise _away() from error
        return await self._start(record)

    async def end(self, token_id: str | None, refresh_token: str | None) -> None:
        """End the session that a token's id and a refresh token belong to, on every replica and at once."""
        try:
            session_ids = {_session_id(token_id)} if token_id else set()
            if refresh_token:
                record = _decoded(await self._redis.getdel(_name("refresh", refresh_token[:CODE_CHARS_MAX])))
                session_ids |= {record.session_id} if record else set()
            for session_id in session_ids:
                # Kept as long as any refresh token or cookie of it could live.
                await self._redis.set(_name("ended", session_id), b"1", ex=self._refresh_ttl_s + self._ttl_s)
        except (RedisError, OSError) as error:
            raise _away() from error

    async def has_ended(self, session_id: str) -> bool:
        """Whether the session of a token id was ended. Raises UnavailableError."""
        try:
            return bool(await self._redis.exists(_name("ended", _session_id(session_id))))
        except (RedisError, OSError) as error:
            raise UnavailableError("Redis does not answer", remedy="is it running?") from error

    async def _start(self, record: SessionRecord) -> Session:
        left_s = self._left_s(record)
        if left_s <= 0:
            raise _unknown("session")
        refresh_token = secrets.token_urlsafe(32)
        await self._put("refresh", refresh_token, record, min(self._refresh_ttl_s, left_s))
        token, principal = tokens.issue(
            self._key,
            kind="session",
            customer_id=record.customer_id,
            scope=record.scope,
            now_s=self._now_s(),
            ttl_s=min(self._ttl_s, left_s),
            token_id=f"{record.session_id}.{secrets.token_urlsafe(4)}",
            parent_id=record.parent_id,
        )
        return Session(token, refresh_token, principal)

    async def _put(self, kind: str, secret: str, record: SessionRecord, ttl_s: int) -> None:
        try:
            await self._redis.set(_name(kind, secret), msgspec.json.encode(record), ex=ttl_s)
        except (RedisError, OSError) as error:
            raise _away() from error

    def _left_s(self, record: SessionRecord) -> int:
        return record.started_s + SESSION_LIFE_S_MAX - self._now_s()

    def _now_s(self) -> int:
        return self._clock.now_us() // 1_000_000


def _name(kind: str, secret: str) -> str:
    """Redis keys hold hashes: who reads the store cannot use what is in it."""
    return f"{PREFIX}{kind}:{hashlib.sha256(secret.encode()).hexdigest()}"


def _session_id(token_id: str) -> str:
    return token_id.partition(".")[0]


def _decoded(found: Any) -> SessionRecord | None:
    try:
        return None if found is None else msgspec.json.decode(found, type=SessionRecord)
    except msgspec.DecodeError:
        return None  # of an older version: sign in anew


def _unknown(what: str) -> ProblemError:
    return ProblemError("unauthenticated", f"the {what} is unknown, used up or expired")


def _away() -> ProblemError:
    return ProblemError("sessions-unavailable", "browser sessions need Redis, which does not answer")
