"""Tokens: what is issued verifies, anything else does not, and what happens while a dependency is away."""

import asyncio
import stat
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from api.auth import keys, tokens
from api.auth.keys import SigningKey
from api.auth.tokens import REVOCATION_DELAY_S, SESSION_S_MAX, STALE_S, Principal, Scope, StoredKey, Verifier
from api.problems import ProblemError
from headrace.clock import ManualClock
from headrace.errors import ConfigurationError, UnavailableError

NOW_S = 1_800_000_000


def new_key() -> SigningKey:
    private = Ed25519PrivateKey.generate()
    return SigningKey(keys.kid_of(private.public_key()), private)


class Store:
    """The control database's answers, as the test sets them."""

    def __init__(self, *signing: SigningKey) -> None:
        self.keys = {key.kid: StoredKey(key.public_pem) for key in signing}
        self.live: dict[str, tuple[int | None, str]] = {}
        self.away = False
        self.asked = 0

    async def live_token(self, token_id: str) -> tuple[int | None, str] | None:
        self.asked += 1
        if self.away:
            raise UnavailableError("away")
        return self.live.get(token_id)

    async def public_keys(self) -> dict[str, StoredKey]:
        if self.away:
            raise UnavailableError("away")
        self.asked += 1
        return dict(self.keys)


class Ended:
    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.away = False

    async def has_ended(self, session_id: str) -> bool:
        if self.away:
            raise UnavailableError("away")
        return session_id in self.ids


class Bench:
    """A verifier with everything around it."""

    def __init__(self) -> None:
        self.key = new_key()
        self.store = Store(self.key)
        self.ended = Ended()
        self.clock = ManualClock(NOW_S * 1_000_000)
        self.verifier = Verifier(self.store, self.ended, self.clock, leeway_s=5)

    def api_token(self, customer_id: int | None = 7) -> tuple[str, Principal]:
        scope: Scope = "admin" if customer_id is None else "read"
        token, principal = tokens.issue(
            self.key, kind="api", customer_id=customer_id, scope=scope, now_s=NOW_S, ttl_s=3600
        )
        self.store.live[principal.token_id] = (customer_id, scope)
        return token, principal

    def session_token(self, customer_id: int | None = 7, parent_id: str | None = None) -> tuple[str, Principal]:
        scope: Scope = "admin" if customer_id is None else "read"
        return tokens.issue(
            self.key,
            kind="session",
            customer_id=customer_id,
            scope=scope,
            now_s=self.clock.now_us() // 1_000_000,
            ttl_s=900,
            parent_id=parent_id,
        )

    def verify(self, token: str) -> Principal:
        return asyncio.run(self.verifier.verify(token))

    def status(self, token: str) -> int:
        try:
            self.verify(token)
        except ProblemError as problem:
            return problem.status
        return 200


def test_an_issued_token_says_who_it_is() -> None:
    bench = Bench()
    for token, principal in (bench.api_token(7), bench.api_token(None), bench.session_token(7)):
        assert bench.verify(token) == principal
        header = jwt.get_unverified_header(token)
        assert header["alg"] == "EdDSA"
        assert header["kid"] == bench.key.kid


def test_a_token_ends_at_its_time_and_begins_at_its_time() -> None:
    bench = Bench()
    token, _ = bench.session_token()
    bench.clock.advance(900 + 4)
    assert bench.status(token) == 200
    bench.clock.advance(1.5)
    assert bench.status(token) == 401
    bench.clock.us = (NOW_S - 6) * 1_000_000
    assert bench.status(token) == 401


def test_a_revocation_is_noticed_within_its_delay_and_asked_for_at_most_once_in_it() -> None:
    bench = Bench()
    token, principal = bench.api_token()
    for _ in range(50):
        assert bench.status(token) == 200
    assert bench.store.asked == 2  # the keys, and the token
    del bench.store.live[principal.token_id]
    bench.clock.advance(REVOCATION_DELAY_S)
    assert bench.status(token) == 401


def test_another_row_under_the_same_id_does_not_pass() -> None:
    bench = Bench()
    token, principal = bench.api_token(7)
    bench.store.live[principal.token_id] = (8, "read")
    assert bench.status(token) == 401


def test_while_the_control_database_is_away_known_readers_read_on_and_nobody_administers() -> None:
    bench = Bench()
    reader, _ = bench.api_token(7)
    admin, _ = bench.api_token(None)
    unseen, _ = bench.api_token(7)
    assert (bench.status(reader), bench.status(admin)) == (200, 200)
    bench.store.away = True
    bench.clock.advance(REVOCATION_DELAY_S + 1)
    assert bench.status(reader) == 200
    assert bench.status(admin) == 503
    assert bench.status(unseen) == 503
    bench.clock.advance(STALE_S)
    assert bench.status(reader) == 503


def test_while_redis_is_away_sessions_read_on_and_nobody_administers() -> None:
    bench = Bench()
    reader, _ = bench.session_token(7)
    admin, _ = bench.session_token(None)
    bench.ended.away = True
    assert bench.status(reader) == 200
    assert bench.status(admin) == 503
    bench.ended.away = False
    assert bench.status(admin) == 200


def test_an_ended_session_is_refused() -> None:
    bench = Bench()
    token, principal = bench.session_token()
    bench.ended.ids.add(principal.token_id)
    assert bench.status(token) == 401


def test_a_session_ends_with_the_token_that_it_came_from() -> None:
    bench = Bench()
    _, parent = bench.api_token(7)
    _, admin = bench.api_token(None)
    of_reader, principal = bench.session_token(7, parent.token_id)
    of_admin, _ = bench.session_token(7, admin.token_id)
    assert bench.verify(of_reader) == principal
    assert bench.status(of_admin) == 200, "an administrator's token makes sessions of customers"
    assert bench.status(bench.session_token(8, parent.token_id)[0]) == 401, "another customer's token does not"
    bench.clock.advance(REVOCATION_DELAY_S)
    bench.store.away = True
    assert bench.status(of_reader) == 200, "a reader's session goes on while nobody can tell"
    bench.store.away = False
    del bench.store.live[parent.token_id]
    assert bench.status(of_reader) == 401
    assert bench.status(of_admin) == 200
    bench.store.away = True
    bench.clock.advance(REVOCATION_DELAY_S)
    assert bench.status(of_reader) == 401, "a revocation is not forgotten"


def test_a_retired_key_signs_no_sessions_and_its_api_tokens_live_on() -> None:
    bench = Bench()
    listed, _ = bench.api_token()
    bench.store.keys[bench.key.kid] = StoredKey(bench.key.public_pem, float(NOW_S))
    last, _ = bench.session_token()
    assert bench.status(last) == 200, "what was signed before goes on to its end"
    bench.clock.advance(SESSION_S_MAX + 5)
    forged, _ = bench.session_token()
    assert bench.status(forged) == 401
    assert bench.status(listed) == 200


def test_an_expired_session_can_still_be_named_but_a_forged_one_cannot() -> None:
    bench = Bench()
    token, principal = bench.session_token()
    api, _ = bench.api_token()
    bench.clock.advance(86_400)
    assert asyncio.run(bench.verifier.session_of(token)) == principal.token_id
    forged, _ = tokens.issue(
        replace(new_key(), kid=bench.key.kid), kind="session", customer_id=7, scope="read", now_s=NOW_S, ttl_s=60
    )
    for other in (forged, api, "", "x.y.z"):
        assert asyncio.run(bench.verifier.session_of(other)) is None


def test_without_redis_there_are_no_sessions() -> None:
    bench = Bench()
    bench.verifier = Verifier(bench.store, None, bench.clock, leeway_s=5)
    token, _ = bench.session_token()
    assert bench.status(token) == 401


def test_keys_rotate_without_an_outage() -> None:
    bench = Bench()
    old, _ = bench.api_token()
    assert bench.status(old) == 200
    bench.key = new_key()
    bench.store.keys[bench.key.kid] = StoredKey(bench.key.public_pem)
    bench.clock.advance(tokens.UNKNOWN_KID_REFRESH_S)
    new, _ = bench.api_token()
    assert (bench.status(old), bench.status(new)) == (200, 200)
    assert len(asyncio.run(bench.verifier.jwks())["keys"]) == 2


def test_forged_key_ids_cost_no_queries() -> None:
    bench = Bench()
    token, _ = bench.api_token()
    assert bench.status(token) == 200
    asked = bench.store.asked
    stranger = replace(bench.key, kid="forged")
    forged, _ = tokens.issue(stranger, kind="api", customer_id=7, scope="read", now_s=NOW_S, ttl_s=60)
    assert {bench.status(forged) for _ in range(20)} == {401}
    assert bench.store.asked == asked


def test_the_key_file_is_made_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "signing.pem"
    made = keys._make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.load(path).kid == made.kid
    assert keys._make(path).kid == made.kid, "the first one wins"
    assert [item.name for item in path.parent.iterdir()] == ["signing.pem"]


def test_a_key_file_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    path = tmp_path / "signing.pem"
    keys._make(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="can be read by others"):
        keys.load(path)
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"no key", rsa):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigurationError):
            keys.load(path)
    with pytest.raises(ConfigurationError, match="cannot read"):
        keys.load(tmp_path / "absent.pem")


def test_the_key_id_is_the_thumbprint_of_rfc_8037() -> None:
    """The example of RFC 8037, appendix A.3."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    assert keys.kid_of(Ed25519PublicKey.from_public_bytes(raw)) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
