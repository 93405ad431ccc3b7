"""Tokens: EdDSA-signed JWTs of two kinds, told apart by their `typ`.

An API token (30 days; scripts, the CLI) counts only while its `jti` stands unrevoked in the control database, asked
at most every REVOCATION_DELAY_S. A session token (at most 15 minutes; browsers) is checked against the sessions that
ended, and counts only while the API token that its code was made with does (`src`). A retired key verifies the API
tokens that the control database knows, and session tokens for as long as the last one it signed may live.
Everything is pinned: one algorithm, exact `typ`, `iss` and `aud`, a known `kid`, every claim required.
The customer (`cid`) comes from here and from nowhere else.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, cast

import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from api.auth import keys
from api.auth.keys import SigningKey
from api.problems import ProblemError
from headrace.clock import Clock
from headrace.errors import ConfigurationError, UnavailableError, UsageError
from headrace.log import get_logger

ALGORITHM: Final = "EdDSA"
ISSUER: Final = "headrace"
AUDIENCE: Final = "headrace-api"
API_TYPE: Final = "headrace-api+jwt"
SESSION_TYPE: Final = "headrace-session+jwt"
SESSION_S_MAX: Final = 900
API_S_MAX: Final = 400 * 86_400
REVOCATION_DELAY_S: Final = 5.0
"""How long an answer of the control database is believed: the delay of a revocation."""
STALE_S: Final = 300.0
"""How long a known good token goes on reading while the control database is away. Administrators do not."""
CACHE_MAX: Final = 10_000
EXPIRED_KEPT_S: Final = 86_400
"""For a day `headrace token list` says of a token that it expired; and no clock here and there matters."""
EXPIRED_DELETED_MAX: Final = 1000
KEYS_REFRESH_S: Final = 30.0
UNKNOWN_KID_REFRESH_S: Final = 1.0
"""At most one look for an unknown key id in this time: forged ids cost no queries."""
TOKEN_CHARS_MAX: Final = 2048
ID_CHARS_MAX: Final = 100
CLAIMS: Final = ("iss", "aud", "sub", "scope", "jti", "iat", "exp")

Scope = Literal["read", "admin"]
Kind = Literal["api", "session"]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `customer_id` is None for an administrator, who belongs to no customer."""

    subject: str
    customer_id: int | None
    scope: Scope
    kind: Kind
    token_id: str
    expires_s: int
    parent_id: str | None = None
    """Of a session: the id of the API token that it came from."""


def issue(
    key: SigningKey,
    *,
    kind: Kind,
    customer_id: int | None,
    scope: Scope,
    now_s: int,
    ttl_s: int,
    token_id: str | None = None,
    parent_id: str | None = None,
) -> tuple[str, Principal]:
    """Sign a token; returns it with what it says. An API token must then be entered in `api_tokens`."""
    assert (scope == "admin") == (customer_id is None), "an administrator has no customer, everybody else has one"
    assert 0 < ttl_s <= (SESSION_S_MAX if kind == "session" else API_S_MAX)
    jti = token_id or secrets.token_urlsafe(16)
    subject = "admin" if customer_id is None else f"customer:{customer_id}"
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "scope": scope,
        "jti": jti,
        "iat": now_s,
        "exp": now_s + ttl_s,
    }
    if customer_id is not None:
        claims["cid"] = customer_id
    if parent_id is not None:
        claims["src"] = parent_id
    header = {"typ": SESSION_TYPE if kind == "session" else API_TYPE, "kid": key.kid}
    token = jwt.encode(claims, key.private, algorithm=ALGORITHM, headers=header)
    return token, Principal(subject, customer_id, scope, kind, jti, now_s + ttl_s, parent_id)


def create_api_token(
    connection: psycopg.Connection[Any],
    key: SigningKey,
    *,
    customer_id: int | None,
    now_s: int,
    ttl_s: int,
) -> tuple[str, Principal]:
    """Issue an API token and enter it in the control database. `customer_id` None: an administrator's.

    Takes out the ones that expired, at most EXPIRED_DELETED_MAX: every `headrace query --customer` enters one.
    Raises UsageError for an unknown customer.
    """
    scope: Scope = "admin" if customer_id is None else "read"
    token, principal = issue(key, kind="api", customer_id=customer_id, scope=scope, now_s=now_s, ttl_s=ttl_s)
    try:
        connection.execute(
            "DELETE FROM api_tokens WHERE jti IN (SELECT jti FROM api_tokens WHERE expires_at < to_timestamp(%s)"
            " ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)",
            (now_s - EXPIRED_KEPT_S, EXPIRED_DELETED_MAX),
        )
        connection.execute(
            "INSERT INTO api_tokens (jti, customer_id, scope, issued_at, expires_at)"
            " VALUES (%s, %s, %s, to_timestamp(%s), to_timestamp(%s))",
            (principal.token_id, customer_id, scope, now_s, principal.expires_s),
        )
    except psycopg.errors.ForeignKeyViolation as error:
        raise UsageError(
            f"there is no customer {customer_id}", remedy="`headrace customers list` shows who there is"
        ) from error
    return token, principal


def revoke_api_token(connection: psycopg.Connection[Any], token_id: str) -> bool:
    """Revoke a token by its id; every replica knows within REVOCATION_DELAY_S. False: no such live token."""
    row = connection.execute(
        "UPDATE api_tokens SET revoked_at = now() WHERE jti = %s AND revoked_at IS NULL RETURNING jti", (token_id,)
    ).fetchone()
    return row is not None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A public key of the control database. `retired_s`: since when it signs nothing (epoch seconds)."""

    public_pem: str
    retired_s: float | None = None


class TokenStore(Protocol):
    """What the verifier asks of the control database. Both raise UnavailableError when it is away."""

    async def live_token(self, token_id: str) -> tuple[int | None, str] | None:
        """(customer id, scope) of an unrevoked, unexpired API token; None otherwise."""

    async def public_keys(self) -> "dict[str, StoredKey]":
        """By kid, every key that may still verify."""


class EndedSessions(Protocol):
    """Sessions that ended before their token did."""

    async def has_ended(self, session_id: str) -> bool:
        """Raises UnavailableError when nobody can tell."""


@dataclass(frozen=True, slots=True)
class _Known:
    live: tuple[int | None, str] | None
    asked_at: float


class Verifier:
    """Decides who a token speaks for. One per process; bounded memory."""

    def __init__(self, store: TokenStore, ended: EndedSessions | None, clock: Clock, *, leeway_s: float) -> None:
        """`ended` is None where there are no browser sessions: session tokens are then refused."""
        self._store = store
        self._ended = ended
        self._clock = clock
        self._leeway_s = leeway_s
        self._keys: dict[str, tuple[Ed25519PublicKey, float | None]] = {}
        self._keys_at = float("-inf")
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal of a valid token. Raises ProblemError (401), or 503 when nobody can tell."""
        principal = self._principal(*await self._signed(token))
        await self.recheck(principal)
        return principal

    async def recheck(self, principal: Principal) -> None:
        """Whether a principal that was verified is still good: not revoked, not signed out. Raises as `verify`."""
        if principal.kind == "api":
            await self._check_live(principal)
        else:
            await self._check_session(principal)

    async def check_parent(self, parent_id: str | None, customer_id: int | None, scope: Scope) -> None:
        """Whether the API token that a session came from is still good for it. Raises ProblemError.

        While the control database is away a reader's session goes on (its tokens live for minutes), unless the
        token is known to be revoked; an administrator's does not.
        """
        if parent_id is None:
            return
        try:
            live = (await self._live(parent_id)).live
        except UnavailableError as error:
            known = self._known.get(parent_id)
            if scope == "admin":
                raise _unchecked() from error
            if known is None or known.live is not None:
                log.warning("token_not_rechecked", reason="the control database does not answer")
                return
            live = None
        # An administrator's token makes sessions of any customer.
        if live is None or live not in ((customer_id, scope), (None, "admin")):
            raise _refused("the token that the session came from was revoked or expired")

    async def session_of(self, token: str) -> str | None:
        """The id of a session token that we signed, however old; None for anything else."""
        try:
            claims, kind = await self._signed(token)
        except ProblemError:
            return None
        jti = claims["jti"]
        return jti if kind == "session" and isinstance(jti, str) and len(jti) <= ID_CHARS_MAX else None

    async def jwks(self) -> dict[str, Any]:
        """All public keys that may verify, as a JSON Web Key Set."""
        await self._refresh_keys(KEYS_REFRESH_S)
        return {"keys": [keys.jwk(kid, public) for kid, (public, _) in sorted(self._keys.items())]}

    async def _signed(self, token: str) -> tuple[dict[str, Any], Kind]:
        """The claims of a token with our signature, and its kind; their times are not looked at."""
        if len(token) > TOKEN_CHARS_MAX:
            raise _refused("too long")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError) as error:
            raise _refused("not a token") from error
        kind = {API_TYPE: "api", SESSION_TYPE: "session"}.get(str(header.get("typ")))
        if kind is None or header.get("alg") != ALGORITHM:
            raise _refused("another type or algorithm")
        if "crit" in header or "jwk" in header or "jku" in header:
            raise _refused("a header that we never send")
        public, retired_s = await self._key(str(header.get("kid")))
        if kind == "session" and retired_s is not None:
            # Whoever has a leaked key could sign sessions for ever: no table lists them.
            now_s = self._clock.now_us() / 1_000_000
            if now_s >= retired_s + SESSION_S_MAX + self._leeway_s:
                raise _refused("a session by a key that was retired")
        try:
            claims = jwt.decode(
                token,
                public,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                # Times are checked below, against the injected clock.
                options={"require": list(CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.InvalidTokenError, ValueError) as error:
            raise _refused("signature or claims") from error
        return claims, cast("Kind", kind)

    def _principal(self, claims: dict[str, Any], kind: Kind) -> Principal:
        now_s = self._clock.now_us() / 1_000_000
        issued, expires, customer = claims["iat"], claims["exp"], claims.get("cid")
        if type(issued) is not int or type(expires) is not int or claims["aud"] != AUDIENCE:
            raise _refused("malformed claims")
        if not (issued - self._leeway_s <= now_s < expires + self._leeway_s):
            raise _refused("expired or not yet valid")
        if kind == "session" and expires - issued > SESSION_S_MAX:
            raise _refused("a session token that lives too long")
        scope, jti, subject = claims["scope"], claims["jti"], claims["sub"]
        if scope not in ("read", "admin") or (scope == "admin") != (customer is None):
            raise _refused("scope and customer do not fit")
        if customer is not None and (type(customer) is not int or not 0 < customer < 2**63):
            raise _refused("no customer id")
        if not isinstance(jti, str) or not isinstance(subject, str) or not 0 < len(jti) <= ID_CHARS_MAX:
            raise _refused("malformed claims")
        parent = claims.get("src")
        if parent is not None and (not isinstance(parent, str) or not 0 < len(parent) <= ID_CHARS_MAX):
            raise _refused("malformed claims")
        return Principal(subject, customer, scope, kind, jti, expires, parent)

    async def _check_live(self, principal: Principal) -> None:
        try:
            known = await self._live(principal.token_id)
        except UnavailableError as error:
            found = self._known.get(principal.token_id)
            age_s = float("inf") if found is None else self._clock.monotonic() - found.asked_at
            if principal.scope == "admin" or found is None or found.live is None or age_s >= STALE_S:
                raise _unchecked() from error
            known = found
            log.warning("token_not_rechecked", reason="the control database does not answer")
        if known.live is None or known.live != (principal.customer_id, principal.scope):
            raise _refused("revoked or unknown")

    async def _live(self, token_id: str) -> _Known:
        """What the control database says of an API token, at most REVOCATION_DELAY_S old. Raises UnavailableError."""
        now = self._clock.monotonic()
        known = self._known.get(token_id)
        if known is None or now - known.asked_at >= REVOCATION_DELAY_S:
            known = _Known(await self._store.live_token(token_id), now)
            self._remember(token_id, known)
        return known

    async def _check_session(self, principal: Principal) -> None:
        if self._ended is None:
            raise _refused("there are no sessions here")
        try:
            if await self._ended.has_ended(principal.token_id):
                raise _refused("the session ended")
        except UnavailableError as error:
            # Written down in query-api.md: reads go on for the token's few minutes, administration does not.
            if principal.scope == "admin":
                raise ProblemError("sessions-unavailable", "the session cannot be checked for now") from error
            log.warning("session_not_checked", reason="Redis does not answer")
        await self.check_parent(principal.parent_id, principal.customer_id, principal.scope)

    def _remember(self, token_id: str, known: _Known) -> None:
        self._known[token_id] = known
        self._known.move_to_end(token_id)
        while len(self._known) > CACHE_MAX:
            self._known.popitem(last=False)

    async def _key(self, kid: str) -> tuple[Ed25519PublicKey, float | None]:
        """The key, and since when it is retired."""
        await self._refresh_keys(KEYS_REFRESH_S)
        if kid not in self._keys:
            await self._refresh_keys(UNKNOWN_KID_REFRESH_S)
        if kid not in self._keys:
            raise _refused("an unknown key")
        return self._keys[kid]

    async def _refresh_keys(self, age_s: float) -> None:
        now = self._clock.monotonic()
        if now - self._keys_at < age_s:
            return
        try:
            found = await self._store.public_keys()
        except UnavailableError as error:
            if not self._keys:
                raise _unchecked() from error
            return
        self._keys_at = now
        loaded = {}
        for kid, stored in found.items():
            try:
                loaded[kid] = (keys.public_from_pem(stored.public_pem), stored.retired_s)
            except ConfigurationError as error:
                log.error("signing_key_unreadable", kid=kid, error=str(error))
        self._keys = loaded


def _unchecked() -> ProblemError:
    return ProblemError("source-unavailable", "tokens cannot be checked: the control database does not answer")


def _refused(why: str) -> ProblemError:
    """One answer for every bad token: what is wrong with it goes to the log alone."""
    log.info("credential_refused", reason=why)
    return ProblemError("unauthenticated", "the token is missing, expired, revoked or not ours")
