"""From HTTP requests to decoded records in real Kafka: real SDKs' requests, paths, keys, CORS, documents."""

import base64
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.shards.address import connect_control
from headrace.shards.write_keys import create_write_key, revoke_write_key
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_gateway_world
from tests.unit.sdk_requests import microseconds, recorded

ORIGIN = "https://shop.example"


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> GatewayWorld:
    return make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)


@pytest.fixture
def gateway(world: GatewayWorld) -> Iterator[GatewayProcess]:
    with world.running() as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=20) as made:
        yield made


def track(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "track", "event": "order", "messageId": f"m-{number}", "userId": f"u-{number}"} | more


def test_a_batch_is_stored_as_it_was_acknowledged(world: GatewayWorld, client: httpx.Client) -> None:
    batch = [track(i, properties={"revenue": "1.25", "currency": "eur"}) for i in range(1000)]
    answer = client.post("/v1/batch", json={"batch": batch}, auth=(world.write_key, ""))
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    stored = world.events(1000)
    assert {row["message_id"] for row in stored} == {f"m-{i}" for i in range(1000)}
    assert {row["customer_id"] for row in stored} == {world.customer_id}
    assert {(row["value_e6"], row["currency"]) for row in stored} == {(1_250_000, "EUR")}
    assert world.rejected() == []


def test_recorded_requests_of_real_sdks_replayed(world: GatewayWorld, client: httpx.Client) -> None:
    """The customer's key is put in the place of the recordings' `wk_test`; nothing else is changed."""
    key = world.write_key.encode()
    basic = {b"wk_test": key, b"wk_test:": key + b":"}
    expected: dict[str, dict[str, Any]] = {}
    for item in recorded():
        headers = dict(item.headers)
        if "authorization" in headers:
            sent = base64.b64decode(headers["authorization"].removeprefix("Basic "))
            headers["authorization"] = "Basic " + base64.b64encode(basic[sent]).decode()
        compressed = item.body[:2] == b"\x1f\x8b"
        plain = (gzip.decompress(item.body) if compressed else item.body).replace(b'"wk_test"', b'"' + key + b'"')
        body = gzip.compress(plain) if compressed else plain
        answer = client.request(item.method, item.path, headers=headers, content=body)
        assert answer.status_code == 200, (str(item), answer.text)
        if item.method == "OPTIONS":
            assert answer.headers["access-control-allow-origin"] == headers["origin"]
            assert answer.headers["access-control-allow-headers"] == "authorization"
        else:
            assert answer.json() == {"success": True}
            expected |= {event["message_id"]: event for event in item.expect}
    stored = world.events(len(expected))
    for row in stored:
        expect = expected.pop(row["message_id"])
        assert row["name"] == (expect["event"] or "")
        assert [row[c] for c in ("protocol", "type", "user_id", "anonymous_id", "group_id", "previous_id")] == [
            expect[c] for c in ("protocol", "type", "user_id", "anonymous_id", "group_id", "previous_id")
        ]
        assert json.loads(row["properties"]) == expect["properties"]
        assert json.loads(row["context"]) == expect["context"]
        # Sent long before this replay, so both clocks count; the recording rounds sentAt to milliseconds.
        moved = row["received_at_us"] - (microseconds(expect["sent_at"]) - microseconds(expect["timestamp"]))
        assert abs(row["timestamp_us"] - moved) < 1000
    assert not expected


def test_every_path_takes_its_event(world: GatewayWorld, client: httpx.Client) -> None:
    auth = (world.write_key, "")
    names = {"t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias"}
    wanted = []
    for short, long in names.items():
        for path in (f"/v1/{short}", f"/v1/{long}", f"/v1/{long}/"):
            message = {"event": "e", "userId": "u", "messageId": path}
            answer = client.post(path, json=message, auth=auth)
            assert answer.status_code == 200, answer.text
            wanted.append((path, long))
    for path in ("/v1/batch", "/v1/b", "/v1/import", "/v1/batch/", "/beacon/v1/batch"):
        content = json.dumps({"batch": [track(0, messageId=path)]})
        answer = client.post(path, params={"writeKey": world.write_key}, content=content)
        assert answer.status_code == 200, answer.text
        wanted.append((path, "track"))
    for kind in ("track", "page"):
        parameters = {
            "writeKey": world.write_key, "event": "open", "name": "Mail", "userId": "u", "messageId": f"pixel {kind}",
            "properties.campaign": "spring", "context.page.path": "/mail",
        }  # fmt: skip
        answer = client.get(f"/pixel/v1/{kind}", params=parameters)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/gif")
        assert answer.content.startswith(b"GIF89a")
        wanted.append((f"pixel {kind}", kind))
    stored = world.events(len(wanted))
    assert sorted((row["message_id"], row["type"]) for row in stored) == sorted(wanted)
    pixel = next(row for row in stored if row["message_id"] == "pixel page")
    assert (pixel["name"], pixel["path"], json.loads(pixel["properties"])) == (
        "Mail",
        "/mail",
        {"campaign": "spring"},
    )


def test_what_a_batch_shares_its_events_get(world: GatewayWorld, client: httpx.Client) -> None:
    body = {
        "context": {"library": {"name": "shared", "version": "1"}, "locale": "de"},
        "batch": [track(0), track(1, context={"locale": "fr"})],
        "writeKey": world.write_key,
    }
    answer = client.post("/v1/batch", json=body, headers={"x-retry-count": "2"})
    assert answer.status_code == 200
    first, second = sorted(world.events(2), key=lambda row: str(row["message_id"]))
    assert json.loads(first["context"]) == body["context"]
    assert json.loads(second["context"]) == body["context"] | {"locale": "fr"}  # type: ignore[operator]
    assert (first["library"], first["attempt"]) == ("shared/1", 3)


def test_keys_wherever_they_stand_and_a_revocation_within_seconds(world: GatewayWorld, client: httpx.Client) -> None:
    key = world.write_key

    def status(headers: dict[str, str] | None = None, query: str = "", in_body: str | None = None) -> int:
        body: dict[str, Any] = {"batch": [track(0)]}
        if in_body is not None:
            body["writeKey"] = in_body
        return client.post("/v1/batch" + query, json=body, headers=headers).status_code

    def basic(text: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    assert status(basic(key + ":")) == 200
    assert status(basic(key)) == 200
    assert status({"X-Write-Key": f"id:{key}"}) == 200
    assert status(query=f"?writeKey={key}") == 200
    assert status(in_body=key) == 200
    assert status({"Authorization": "Bearer of-oauth"}, in_body=key) == 200
    assert status() == 401
    assert status(basic("wk_unknown:")) == 401
    assert status({"Authorization": "Basic %%%"}) == 401
    assert status(in_body="wk_unknown") == 401
    world.events(6)

    with connect_control(world.settings) as control:
        other = create_write_key(control, world.customer_id, "another").secret
        revoke_write_key(control, key)
    revoked = time.monotonic()
    while status(basic(key + ":")) == 200:
        assert time.monotonic() - revoked < 5, "a revoked key still works"
        time.sleep(0.1)
    assert status(basic(key + ":")) == 401
    assert status(basic(other + ":")) == 200


def test_errors_have_the_body_and_the_cors_headers_that_sdks_need(world: GatewayWorld, client: httpx.Client) -> None:
    browser = {"Origin": ORIGIN}
    answers = [
        client.post("/v1/batch", content=b"{", headers=browser, auth=(world.write_key, "")),
        client.post("/v1/batch", json={"batch": []}, headers=browser),
        client.post("/v1/nothing", json={}, headers=browser),
        client.put("/v1/batch", json={}, headers=browser),
        client.post("/v1/batch", content=b"x", headers=browser | {"Content-Encoding": "compress"}),
    ]
    assert [answer.status_code for answer in answers] == [400, 401, 404, 405, 415]
    for answer in answers:
        body = answer.json()
        assert (body["success"], body["status"], body["code"]) == (False, 0, answer.status_code)
        assert body["message"]
        assert body["error"]
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["access-control-expose-headers"] == "Retry-After"
        assert answer.headers["vary"] == "Origin"
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "anonymousid,authorization,content-type,sentat",
    }
    allowed = client.options("/v1/track", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert allowed.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"


def test_documents_that_browser_sdks_start_from(world: GatewayWorld, client: httpx.Client) -> None:
    host = f"127.0.0.1:{world.settings.ingest_port}"
    settings = client.get(f"/v1/projects/{world.write_key}/settings", headers={"Origin": ORIGIN})
    assert settings.headers["access-control-allow-origin"] == ORIGIN
    destination = settings.json()["integrations"]["Segment.io"]
    assert destination | {"apiKey": world.write_key, "apiHost": f"{host}/v1", "protocol": "http"} == destination
    assert client.get("/v1/projects/wk_unknown/settings").status_code == 404
    source = client.get("/sourceConfig/", params={"p": "web"}, auth=(world.write_key, "")).json()["source"]
    assert (source["enabled"], source["writeKey"], source["destinations"]) == (True, world.write_key, [])
    assert client.get("/sourceConfig").status_code == 401


def test_the_gateway_tells_about_itself(world: GatewayWorld, client: httpx.Client) -> None:
    client.post("/v1/batch", json={"batch": [track(0), {"type": "?"}]}, auth=(world.write_key, ""))
    assert client.get("/livez").json() == {"ok": True}
    assert client.get("/readyz").json() == {"ok": True, "wrong": {}}
    series = client.get("/metrics").text
    for line in (
        'headrace_events_accepted_total{protocol="segment-v1"} 1.0',
        'headrace_events_rejected_total{reason="unknown_type"} 1.0',
        'http_server_request_duration_seconds_count{route="/v1/batch",service="ingest",status="200"} 1.0',
        "headrace_ingest_inflight_bytes 0.0",
    ):
        assert line in series
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/batch", "/v1/t", "/pixel/v1/page", "/livez", "/metrics"} <= set(paths)
