"""A browser signs in with a one-time code, stays signed in over two replicas, and signs out on both."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis

from api import serve
from api.auth.access import REFRESH_COOKIE, SESSION_COOKIE
from api.auth.keys import SigningKey, kid_of
from api.auth.sessions import Sessions
from api.auth.tokens import REVOCATION_DELAY_S, Scope, revoke_api_token
from api.problems import TYPE_PREFIX, ProblemError
from headrace.clock import ManualClock
from headrace.errors import ConfigurationError
from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from headrace.shards.address import connect_control
from tests.integration.api_world import make_world, running_api, settings_with_key, wait_until
from tests.integration.conftest import Databases, MakeSettings

TOTALS = {"kind": "totals", "metrics": ["events"], "range": {"from": "-3y"}}
SAME = {"Sec-Fetch-Site": "same-origin"}


def test_a_code_becomes_a_session_on_every_replica(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres", "redis"), tmp_path)
    world = make_world(settings, postgres.shards, count=50)
    mine = world.customers[0]
    second = Settings.load(environ=settings.as_environment() | {"HEADRACE_API_PORT": str(free_ports(1)[0])})
    with running_api(settings) as url, running_api(second) as other_url:
        admin = {"Authorization": f"Bearer {world.admin_token}"}
        made = httpx.post(f"{url}/v1/session/codes", json={"customer_id": mine}, headers=admin).json()
        assert made["fragment"] == f"#code={made['code']}"
        nobody = httpx.post(f"{url}/v1/session/codes", json={"customer_id": 10**9}, headers=admin)
        assert nobody.status_code == 404

        browser = httpx.Client(base_url=url)
        foreign = browser.post("/v1/session", json={"code": made["code"]}, headers={"Origin": "http://evil.example"})
        assert foreign.json()["type"] == TYPE_PREFIX + "cross-site"
        signed_in = browser.post("/v1/session", json={"code": made["code"]}, headers=SAME)
        assert signed_in.status_code == 200, signed_in.text
        assert signed_in.json()["customer"] == {"customer_id": mine, "name": "customer of shard-1"}
        for cookie in signed_in.headers.get_list("set-cookie"):
            assert "HttpOnly" in cookie
            assert "samesite=strict" in cookie.lower()
        used = httpx.post(f"{other_url}/v1/session", json={"code": made["code"]}, headers=SAME)
        assert used.status_code == 401

        # The cookie speaks for the customer on both replicas, but only from our own pages.
        session = browser.cookies[SESSION_COOKIE]
        carried = {"Cookie": f"{SESSION_COOKIE}={session}"}
        for address in (url, other_url):
            answer = httpx.post(f"{address}/v1/query", json=TOTALS, headers=carried | SAME)
            assert answer.json()["rows"] == [[len(world.events[mine])]]
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {}, {"Origin": "null"}):
            refused = httpx.post(f"{url}/v1/query", json=TOTALS, headers=carried | headers)
            assert (refused.status_code, refused.json()["type"]) == (403, TYPE_PREFIX + "cross-site"), headers
        by_origin = httpx.post(f"{url}/v1/query", json=TOTALS, headers=carried | {"Origin": url})
        assert by_origin.status_code == 200

        old_refresh = browser.cookies[REFRESH_COOKIE]
        refreshed = browser.post("/v1/session/refresh", headers=SAME)
        assert refreshed.status_code == 200
        assert browser.cookies[REFRESH_COOKIE] != old_refresh
        again = {"Cookie": f"{REFRESH_COOKIE}={old_refresh}"}
        assert httpx.post(f"{other_url}/v1/session/refresh", headers=again | SAME).status_code == 200
        who = httpx.post(f"{url}/v1/session/refresh", headers={"Authorization": f"Bearer {world.tokens[mine]}"})
        assert who.json()["customer"]["customer_id"] == mine
        assert "set-cookie" not in who.headers

        # Signing out ends every cookie of this session, everywhere.
        latest = browser.cookies[SESSION_COOKIE]
        assert browser.delete("/v1/session", headers=SAME).status_code == 204
        for token in (session, latest):
            ended = {"Cookie": f"{SESSION_COOKIE}={token}"}
            answer = httpx.post(f"{other_url}/v1/query", json=TOTALS, headers=ended | SAME)
            assert answer.status_code == 401
        assert httpx.post(f"{other_url}/v1/session/refresh", headers=again | SAME).status_code == 401


def test_a_session_ends_with_its_token_makes_no_codes_and_signs_out_though_expired(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres", "redis", session_ttl_s=2, max_clock_drift_s=0.0), tmp_path)
    world = make_world(settings, postgres.shards, count=50)
    first, second = (
        {"Authorization": f"Bearer {world.tokens[customer]}"} for customer in (world.customers[0], world.customers[1])
    )
    with running_api(settings) as url:

        def signed_in(headers: dict[str, str]) -> httpx.Client:
            made = httpx.post(f"{url}/v1/session/codes", json={}, headers=headers).json()
            browser = httpx.Client(base_url=url, headers=SAME)
            assert browser.post("/v1/session", json={"code": made["code"]}).status_code == 200
            return browser

        browser = signed_in(first)
        refused = browser.post("/v1/session/codes", json={})
        assert (refused.status_code, refused.json()["type"]) == (403, TYPE_PREFIX + "forbidden")

        # A laptop that slept: the cookie is over, the refresh token is not, and signing out ends it all the same.
        names = {cookie.name: cookie.value or "" for cookie in browser.cookies.jar}
        carried = {"Cookie": "; ".join(f"{name}={value}" for name, value in names.items())}
        time.sleep(2.1)
        assert httpx.post(f"{url}/v1/query", json=TOTALS, headers=carried | SAME).status_code == 401
        foreign = httpx.delete(f"{url}/v1/session", headers=carried | {"Sec-Fetch-Site": "cross-site"})
        assert foreign.status_code == 403
        out = httpx.delete(f"{url}/v1/session", headers=carried | SAME)
        assert out.status_code == 204
        cleared = out.headers.get_list("set-cookie")
        assert {line.partition("=")[0] for line in cleared if "Max-Age=0" in line} == {SESSION_COOKIE, REFRESH_COOKIE}
        assert httpx.post(f"{url}/v1/session/refresh", headers=carried | SAME).status_code == 401

        browser = signed_in(second)
        assert browser.post("/v1/session/refresh").status_code == 200
        with connect_control(settings) as control:
            token_id = jwt.decode(world.tokens[world.customers[1]], options={"verify_signature": False})["jti"]
            assert revoke_api_token(control, token_id)
        wait_until(lambda: browser.post("/v1/session/refresh").status_code == 401, REVOCATION_DELAY_S + 3)


def test_behind_tls_cookies_are_secure_by_the_setting_and_not_by_a_clients_header(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    behind = settings_with_key(make_settings("postgres", "redis", public_url="https://numbers.example"), tmp_path)
    world = make_world(behind, postgres.shards, count=50)
    plain = Settings.load(
        environ=behind.as_environment()
        | {"HEADRACE_PUBLIC_URL": "http://numbers.example", "HEADRACE_API_PORT": str(free_ports(1)[0])}
    )
    headers = {"Authorization": f"Bearer {world.tokens[world.customers[0]]}", "X-Forwarded-Proto": "https"}
    for settings, secure in ((behind, True), (plain, False)):
        with running_api(settings) as url:
            code = httpx.post(f"{url}/v1/session/codes", json={}, headers=headers).json()["code"]
            answer = httpx.post(f"{url}/v1/session", json={"code": code}, headers=headers | SAME)
            cookies = answer.headers.get_list("set-cookie")
            assert [("; secure" in cookie.lower()) for cookie in cookies] == [secure, secure]
            assert ("strict-transport-security" in answer.headers) is secure
    with pytest.raises(ConfigurationError, match="public_url"):
        serve.run(replace(behind, public_url="numbers.example"))


def test_a_session_has_an_absolute_end_however_often_it_is_refreshed(redis_url: str) -> None:
    asyncio.run(_refreshed_for_ever(redis_url))


async def _refreshed_for_ever(redis_url: str) -> None:
    async def anything(_parent_id: str | None, _customer_id: int | None, _scope: Scope) -> None:
        return None

    private = Ed25519PrivateKey.generate()
    clock = ManualClock(1_800_000_000_000_000)
    redis = Redis.from_url(redis_url)
    key = SigningKey(kid_of(private.public_key()), private)
    sessions = Sessions(redis, key, clock, ttl_s=900, refresh_ttl_s=14 * 86_400, code_ttl_s=60)
    code, _ = await sessions.create_code(7, "read", "parent")
    session = await sessions.exchange(code, anything)
    for _ in range(29):
        clock.advance(86_400)
        session = await sessions.refresh(session.refresh_token, anything)
    clock.advance(86_400 - 300)
    last = await sessions.refresh(session.refresh_token, anything)
    assert last.principal.expires_s - clock.now_us() // 1_000_000 == 300, "its token does not outlive it"
    clock.advance(300)
    with pytest.raises(ProblemError) as ended:
        await sessions.refresh(last.refresh_token, anything)
    assert ended.value.status == 401
    await redis.aclose()


def test_without_redis_tokens_work_and_sessions_say_503(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres"), tmp_path)
    world = make_world(settings, postgres.shards, count=50)
    headers = {"Authorization": f"Bearer {world.tokens[world.customers[1]]}"}
    with running_api(settings) as url:
        assert httpx.post(f"{url}/v1/query", json=TOTALS, headers=headers).status_code == 200
        away = httpx.post(f"{url}/v1/session", json={"code": "x"}, headers=SAME)
        assert (away.status_code, away.json()["type"]) == (503, TYPE_PREFIX + "sessions-unavailable")
        assert away.headers["retry-after"]
        out = httpx.delete(f"{url}/v1/session", headers=SAME | {"Cookie": f"{SESSION_COOKIE}=x; {REFRESH_COOKIE}=y"})
        assert (out.status_code, len(out.headers.get_list("set-cookie"))) == (503, 2), (
            "the browser forgets in any case"
        )
        live = httpx.get(f"{url}/v1/live", headers=headers)
        assert (live.status_code, live.json()["type"]) == (503, TYPE_PREFIX + "live-unavailable")
        raw = httpx.post(f"{url}/v1/query", json=TOTALS | {"metrics": ["users"], "exact": True}, headers=headers)
        assert (raw.status_code, raw.json()["type"]) == (422, TYPE_PREFIX + "not-answerable")
