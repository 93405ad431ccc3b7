"""A browser signs in with a one-time code, stays signed in over two replicas, and signs out on both."""

from pathlib import Path

import httpx

from api.auth.access import REFRESH_COOKIE, SESSION_COOKIE
from api.problems import TYPE_PREFIX
from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from tests.integration.api_world import make_world, running_api, settings_with_key
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
        live = httpx.get(f"{url}/v1/live", headers=headers)
        assert (live.status_code, live.json()["type"]) == (503, TYPE_PREFIX + "live-unavailable")
        raw = httpx.post(f"{url}/v1/query", json=TOTALS | {"metrics": ["users"], "exact": True}, headers=headers)
        assert (raw.status_code, raw.json()["type"]) == (422, TYPE_PREFIX + "not-answerable")
