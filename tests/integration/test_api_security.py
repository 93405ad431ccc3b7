"""Every route × every bad token. A route that is neither listed as public nor given an example here fails."""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.routing import APIRoute
from starlette.routing import Route

from api.app import create_app
from api.auth.access import REFRESH_COOKIE, SESSION_COOKIE
from api.auth.keys import SigningKey
from api.auth.tokens import API_TYPE, SESSION_TYPE, issue, revoke_api_token
from api.problems import TYPE_PREFIX
from api.serve import make_deps
from headrace.clock import SystemClock
from headrace.shards.address import connect_control
from tests.integration.api_world import World, make_world, running_api, settings_with_key
from tests.integration.conftest import Databases, MakeSettings

PUBLIC = {
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/startupz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/schemas/ids/{schema_id}"),
    ("GET", "/subjects"),
    ("GET", "/subjects/{subject}/versions"),
    ("GET", "/subjects/{subject}/versions/{version}"),
    ("POST", "/v1/session"),  # the one-time code is the credential
    ("DELETE", "/v1/session"),  # ends what the caller's own cookies name, also when they have expired
    ("GET", "/"),  # the page: static files, the same for everybody
    ("GET", "/static/{path:path}"),
}
TOTALS = {"kind": "totals", "metrics": ["events"], "range": {"from": "-3y"}}


@dataclass(frozen=True, slots=True)
class Example:
    """How to call a protected route. `tenant`: needs a customer (an administrator is refused)."""

    url: str
    body: Any = None
    tenant: bool = True
    good: tuple[int, ...] = (200,)
    headers: dict[str, str] = field(default_factory=dict)


EXAMPLES: dict[tuple[str, str], Example] = {
    ("POST", "/v1/query"): Example("/v1/query", TOTALS),
    ("GET", "/v1/query"): Example(
        "/v1/query?q=" + base64.urlsafe_b64encode(msgspec.json.encode(TOTALS)).decode().rstrip("=")
    ),
    ("GET", "/v1/schema/events"): Example("/v1/schema/events"),
    ("GET", "/v1/schema/properties"): Example("/v1/schema/properties"),
    ("GET", "/v1/schema/values"): Example("/v1/schema/values?dimension=country"),
    ("GET", "/v1/live"): Example("/v1/live"),
    ("GET", "/v1/plan"): Example("/v1/plan"),
    ("GET", "/v1/plan/violations"): Example("/v1/plan/violations?days=2"),
    ("POST", "/v1/session/codes"): Example("/v1/session/codes", {}, tenant=False, good=(201,)),
    ("POST", "/v1/session/refresh"): Example("/v1/session/refresh", tenant=False),
}


@dataclass(frozen=True, slots=True)
class Installation:
    world: World
    url: str
    routes: list[tuple[str, str]]


@pytest.fixture
def installation(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> Iterator[Installation]:
    settings = settings_with_key(make_settings("postgres", "clickhouse", "redis"), tmp_path)
    world = make_world(settings, postgres.shards, count=300)
    app = create_app(make_deps(settings, world.key, SystemClock()))
    with running_api(settings) as url:
        yield Installation(world, url, all_routes(app.routes))


def test_every_route_is_public_on_purpose_or_refuses_every_bad_token(installation: Installation) -> None:
    assert set(installation.routes) == PUBLIC | EXAMPLES.keys()
    world = installation.world
    asked = 0
    with httpx.Client(base_url=installation.url, timeout=20) as client:
        for method, path in EXAMPLES:
            for name, token in bad_tokens(world).items():
                for how, headers in carriers(token).items():
                    answer = _call(client, method, path, headers)
                    assert answer.status_code == 401, f"{method} {path} with {name} as {how}: {answer.status_code}"
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.json()["type"] == TYPE_PREFIX + "unauthenticated"
                    assert "www-authenticate" in answer.headers
                    asked += 1
    assert asked >= len(EXAMPLES) * 15


def test_good_tokens_are_answered_and_administrators_see_no_data(installation: Installation) -> None:
    world = installation.world
    with httpx.Client(base_url=installation.url, timeout=20) as client:
        for (method, path), example in EXAMPLES.items():
            good = _call(client, method, path, bearer(world.tokens[world.customers[0]]))
            assert good.status_code in example.good, f"{method} {path}: {good.status_code} {good.text}"
            admin = _call(client, method, path, bearer(world.admin_token))
            expected = (403,) if example.tenant else example.good
            assert admin.status_code in expected, f"{method} {path}: {admin.status_code} {admin.text}"
        _check_headers(client)


def test_another_tenants_data_is_out_of_reach(installation: Installation) -> None:
    """The customer is the token's, whatever else a request says."""
    world = installation.world
    mine, theirs = world.customers
    headers = bearer(world.tokens[mine]) | {"X-Customer-Id": str(theirs), "Cookie": f"customer_id={theirs}"}
    smuggled = (
        {"customer_id": theirs},
        {"cid": theirs},
        {"range": {"from": "-3y", "customer_id": theirs}},
        {"filters": ["is", "customer_id", [str(theirs)]]},
        {"metrics": ["events"], "dimensions": ["customer_id"], "kind": "breakdown"},
    )
    with httpx.Client(base_url=installation.url, timeout=20, headers=headers) as client:
        plain = client.post("/v1/query", json=TOTALS).json()
        assert plain["rows"] == [[len(world.events[mine])]]
        raw = client.post("/v1/query", json=TOTALS | {"metrics": ["events", "users"], "exact": True}).json()
        assert raw["meta"]["source"] == "clickhouse"
        assert raw["rows"][0][0] == len(world.events[mine])
        for extra in smuggled:
            refused = client.post(f"/v1/query?customer_id={theirs}", json=TOTALS | extra)
            assert refused.status_code == 400, extra
        page = client.post("/v1/query", json={"kind": "events", "range": {"from": "-3y"}, "limit": 1000}).json()
        assert {row[0].partition("-")[0] for row in page["rows"]} == {f"m{mine}"}
        refused = client.post("/v1/session/codes", json={"customer_id": theirs})
        assert refused.status_code == 403
        # A cursor that another tenant was given names a place in one's own events, nothing else.
        other = httpx.post(
            f"{installation.url}/v1/query",
            json={"kind": "events", "range": page["query"]["range"], "limit": 1000 - 1},
            headers=bearer(world.tokens[theirs]),
        ).json()
        if other["next_cursor"]:
            stolen = {"kind": "events", "range": page["query"]["range"], "limit": 1000 - 1}
            again = client.post("/v1/query", json=stolen | {"cursor": other["next_cursor"]})
            assert {row[0].partition("-")[0] for row in again.json()["rows"]} <= {f"m{mine}"}


def _check_headers(client: httpx.Client) -> None:
    for path in ("/livez", "/v1/query", "/no/such/path", "/", "/openapi.json"):
        answer = client.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"], path
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        assert answer.headers["x-content-type-options"] == "nosniff", path
    missing = client.get("/no/such/path")
    assert (missing.status_code, missing.json()["type"]) == (404, TYPE_PREFIX + "not-found")
    wrong = client.put("/v1/query")
    assert (wrong.status_code, wrong.json()["type"]) == (405, TYPE_PREFIX + "method-not-allowed")


def all_routes(routes: Iterable[object]) -> list[tuple[str, str]]:
    """(method, path) of everything that the application answers; fails on a kind of route it does not know."""
    found: list[tuple[str, str]] = []
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            found += all_routes(included.routes)
        else:
            assert isinstance(route, APIRoute | Route), f"a kind of route that nobody has thought of: {route}"
            found += [(method, route.path) for method in route.methods or () if method != "HEAD"]
    return found


def bad_tokens(world: World) -> dict[str, str | None]:
    """By what is wrong with it. Each is otherwise right: signed, live in the control database, of a real customer."""
    key, customer, now_s = world.key, world.customers[0], int(time.time())
    good = world.tokens[customer]
    claims: dict[str, Any] = jwt.decode(good, options={"verify_signature": False})
    stranger = SigningKey("stranger", Ed25519PrivateKey.generate())
    public_raw = key.public_pem.encode()

    def signed(changed: dict[str, Any], *, typ: str = API_TYPE, kid: str = key.kid, by: Any = key.private) -> str:
        fields = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(fields, by, algorithm="EdDSA", headers={"typ": typ, "kid": kid})

    def forged(header: dict[str, Any], mac_key: bytes | None) -> str:
        signing_input = b".".join(_b64(msgspec.json.encode(part)) for part in (header, claims))
        mac = b"" if mac_key is None else hmac.new(mac_key, signing_input, hashlib.sha256).digest()
        return (signing_input + b"." + _b64(mac)).decode()

    revoked, _ = issue(key, kind="api", customer_id=customer, scope="read", now_s=now_s, ttl_s=600)
    with connect_control(world.settings) as control:
        revoked_id = jwt.decode(revoked, options={"verify_signature": False})["jti"]
        control.execute(
            "INSERT INTO api_tokens (jti, customer_id, scope, expires_at) VALUES (%s, %s, 'read', now() + '1 hour')",
            (revoked_id, customer),
        )
        assert revoke_api_token(control, revoked_id)
    never_entered, _ = issue(key, kind="api", customer_id=customer, scope="read", now_s=now_s, ttl_s=600)
    head, body, signature = good.split(".")
    other_body = _b64(msgspec.json.encode(claims | {"cid": world.customers[1]})).decode()
    return {
        "no token": None,
        "nonsense": "nonsense",
        "empty parts": "..",
        "too long": good + "A" * 4000,
        "expired": signed({"iat": now_s - 7200, "exp": now_s - 3600}),
        "not yet valid": signed({"iat": now_s + 3600, "exp": now_s + 7200}),
        "alg none": forged({"alg": "none", "typ": API_TYPE, "kid": key.kid}, None),
        "alg None": forged({"alg": "None", "typ": API_TYPE, "kid": key.kid}, None),
        "HS256 by the public key": forged({"alg": "HS256", "typ": API_TYPE, "kid": key.kid}, public_raw),
        "HS256 by the stripped public key": forged(
            {"alg": "HS256", "typ": API_TYPE, "kid": key.kid}, public_raw.strip()
        ),
        "wrong aud": signed({"aud": "another-api"}),
        "aud in a list": signed({"aud": ["headrace-api"]}),
        "wrong iss": signed({"iss": "somebody"}),
        "wrong typ": signed({}, typ="JWT"),
        "api token as a session": signed({"iat": now_s, "exp": now_s + 86_400}, typ=SESSION_TYPE),
        "unknown kid": signed({}, kid="no-such-key"),
        "another's key under our kid": signed({}, by=stranger.private),
        "another's key": signed({}, kid="stranger", by=stranger.private),
        "revoked": revoked,
        "never entered": never_entered,
        "other tenant's id on my token": signed({"cid": world.customers[1]}),
        "admin scope on my token": signed({"scope": "admin", "cid": None}),
        "no jti": signed({"jti": None}),
        "no exp": signed({"exp": None}),
        "customer as text": signed({"cid": str(customer)}),
        "body changed": f"{head}.{other_body}.{signature}",
        "signature cut": f"{head}.{body}.",
        "write key": "wk_" + "a" * 32,
    }


def carriers(token: str | None) -> dict[str, dict[str, str]]:
    """The ways a token can be brought."""
    if token is None:
        return {"nothing": {}, "bare bearer": {"Authorization": "Bearer"}, "basic": {"Authorization": "Basic eDo="}}
    cookie = {"Cookie": f"{SESSION_COOKIE}={token}", "Sec-Fetch-Site": "same-origin"}
    refresh = {"Cookie": f"{REFRESH_COOKIE}={token}", "Sec-Fetch-Site": "same-origin"}
    return {"bearer": bearer(token), "cookie": cookie, "refresh cookie": refresh}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _call(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    example = EXAMPLES[method, path]
    with client.stream(method, example.url, json=example.body, headers=headers | example.headers) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read()
        return answer


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
