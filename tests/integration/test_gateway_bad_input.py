"""Bad input gets a clear error in bounded memory and loses nothing: neither its neighbours nor, itself, its trace."""

import gzip
import json
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import httpx
import psutil
import pytest
from backports import zstd

from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_gateway_world

MIB = 1024 * 1024


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> GatewayWorld:
    return make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)


@pytest.fixture
def gateway(world: GatewayWorld) -> Iterator[GatewayProcess]:
    with world.running() as process:
        yield process


def post(world: GatewayWorld, gateway: GatewayProcess, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{gateway.url}/v1/batch"
    return httpx.post(url, content=content, headers=named, auth=(world.write_key, ""), timeout=30)


def good(number: int) -> str:
    return json.dumps({"type": "track", "event": "fine", "messageId": f"good-{number}"})


def bad(**parts: str) -> str:
    members = {"type": '"track"', "event": '"e"'} | parts
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"


BAD_EVENTS = [
    (bad(properties='{"x":NaN}'), "non_finite_number"),
    (bad(properties='{"x":1e400}'), "non_finite_number"),
    (bad(properties='{"x":' + "[" * 2000 + "]" * 2000 + "}"), "too_deep"),
    (bad(properties="{" + ",".join(f'"p{i}":{i}' for i in range(10_000)) + "}"), "too_many_properties"),
    (bad(properties=json.dumps({"x": "y" * 300_000})), "event_too_large"),
    (bad(timestamp='"0001-01-01T00:00:00Z"'), "timestamp_out_of_range"),
    (bad(timestamp='"+275760-09-13T00:00:00.000Z"'), "timestamp_out_of_range"),
    (bad(timestamp='"now"'), "timestamp_invalid"),
    (bad(properties='{"x":tru}'), "malformed_json"),
    (bad(type='"trakc"'), "unknown_type"),
    ('"text"', "not_an_object"),
    ("null", "not_an_object"),
]


def test_bad_events_never_condemn_the_others(world: GatewayWorld, gateway: GatewayProcess) -> None:
    texts = [good(0)]
    for number, (text, _) in enumerate(BAD_EVENTS):
        texts += [text, good(number + 1)]
    texts.append(bad(messageId='"surrogate"', properties='{"a\\ud800":"\\udc00 \\ud83c\\udf89"}'))
    texts.append(bad(messageId='"null"', event='"e\\u0000"', properties='{"a\\u0000":"\\u0000"}'))
    answer = post(world, gateway, f'{{"batch":[{",".join(texts)}]}}'.encode())
    assert answer.status_code == 200, answer.text
    reasons = [reason for _, reason in BAD_EVENTS]
    rejected = [{"index": 2 * i + 1, "reason": reason} for i, reason in enumerate(reasons)]
    assert answer.json() == {"success": True, "rejected": rejected}

    stored = {row["message_id"]: row for row in world.events(len(BAD_EVENTS) + 3)}
    assert set(stored) == {f"good-{i}" for i in range(len(BAD_EVENTS) + 1)} | {"surrogate", "null"}
    assert json.loads(stored["surrogate"]["properties"]) == {"a\ufffd": "\ufffd 🎉"}
    assert stored["null"]["name"] == "e\ufffd"
    assert json.loads(stored["null"]["properties"]) == {"a\ufffd": "\ufffd"}

    kept = world.rejected()
    assert sorted(reason for reason, _ in kept) == sorted(reasons)
    for text, reason in BAD_EVENTS:
        if reason != "not_an_object" and "NaN" in text:
            assert (reason, text.encode()) in kept, "an event that could not be parsed is kept as it came"


@pytest.mark.parametrize("path", ["/v1/t", "/v1/batch"])
def test_one_event_alone_can_be_rejected(world: GatewayWorld, gateway: GatewayProcess, path: str) -> None:
    text = bad(properties='{"x":NaN}')
    content = text if path == "/v1/t" else f'{{"batch":[{text}]}}'
    answer = httpx.post(f"{gateway.url}{path}", content=content.encode(), auth=(world.write_key, ""), timeout=20)
    assert (answer.status_code, answer.json()["rejected"]) == (200, [{"index": 0, "reason": "non_finite_number"}])
    assert world.rejected() == [("non_finite_number", text.encode())]


def test_bad_bodies_each_get_their_error_and_the_gateway_goes_on(
    world: GatewayWorld, gateway: GatewayProcess
) -> None:
    body = f'{{"batch":[{good(0)}]}}'.encode()
    zipped = gzip.compress(body)
    bomb = gzip.compress(b'{"batch":["' + b"a" * (200 * MIB) + b'"]}')
    brotli_bomb = brotli.compress(b'{"batch":["' + b"a" * (200 * MIB) + b'"]}', quality=5)
    assert len(bomb) < MIB
    deep = b'{"batch":' + b"[" * 2000 + b"]" * 2000 + b"}"
    many = b'{"batch":[' + b"1," * 20_001 + b"1]}"
    cases: list[tuple[str, bytes, dict[str, str], int, str]] = [
        ("malformed", b'{"batch":[', {}, 400, "malformed_json"),
        ("empty", b"", {}, 400, "empty_body"),
        ("no batch", b"{}", {}, 400, "batch_missing"),
        ("a list", b"[]", {}, 400, "batch_missing"),
        ("deep", deep, {}, 400, "too_deep"),
        ("form", b"data=eyJ9", {"content_type": "application/x-www-form-urlencoded"}, 400, "malformed_json"),
        ("gzip in name only", body, {"content_encoding": "gzip"}, 400, "malformed_encoding"),
        ("gzip cut off", zipped[:-12], {"content_encoding": "gzip"}, 400, "malformed_encoding"),
        ("gzip damaged", zipped[:20] + b"\xff\xff" + zipped[22:], {}, 400, "malformed_encoding"),
        ("bomb", bomb, {"content_encoding": "gzip"}, 413, "body_too_large"),
        ("bomb in a bomb", gzip.compress(bomb), {"content_encoding": "gzip"}, 400, "malformed_json"),
        ("too many", many, {}, 413, "too_many_events"),
        ("40 MB", b'{"batch":["' + b"a" * 40_000_000 + b'"]}', {}, 413, "body_too_large"),
        ("compress", body, {"content_encoding": "compress"}, 415, "unknown_encoding"),
        ("brotli in name only", body, {"content_encoding": "br"}, 400, "malformed_encoding"),
        ("brotli bomb", brotli_bomb, {"content_encoding": "br"}, 413, "body_too_large"),
    ]
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    for name, content, headers, status, error in cases:
        answer = post(world, gateway, content, **headers)
        assert (name, answer.status_code, answer.json()["error"]) == (name, status, error)
        assert answer.json()["code"] == status
    assert process.memory_info().rss - before < 100 * MIB, "no body, sent or inflated, was ever held whole"
    assert world.events() == []

    for number, headers, content in (
        (0, {"content_encoding": "gzip"}, zipped),
        (1, {}, zipped),  # gzip that no header announces
        (2, {"content_type": "application/x-www-form-urlencoded", "content_encoding": "gzip"}, zipped),
        (3, {"content_encoding": "deflate"}, zlib.compress(body)),
        (4, {"content_encoding": "identity"}, body),
        (5, {"content_encoding": "gzip"}, gzip.compress(body[:10]) + gzip.compress(body[10:])),
        (6, {"content_type": "text/plain"}, body),
        (7, {"content_encoding": "br"}, brotli.compress(body)),
        (8, {"content_encoding": "zstd"}, zstd.compress(body)),
    ):
        assert post(world, gateway, content, **headers).status_code == 200, number
    world.events(9)


def test_a_body_of_unknown_length_is_bounded_too(world: GatewayWorld, gateway: GatewayProcess) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"batch":["'
        for _ in range(8):
            yield b"a" * MIB

    url = f"{gateway.url}/v1/batch"
    answer = httpx.post(url, content=chunks(), auth=(world.write_key, ""), timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")


def test_more_than_may_ever_be_under_way_is_too_large_not_overload(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings: Any = make_settings("kafka", "postgres", ingest_inflight_bytes_max=64 * 1024)
    world = make_gateway_world(settings, postgres.shards, tmp_path)
    with world.running() as gateway:
        started = time.monotonic()
        large = f'{{"batch":[{good(0)}],"x":"{"y" * 100_000}"}}'.encode()
        for content in (large, gzip.compress(large), f'{{"batch":[{",".join([good(0)] * 200)}]}}'.encode()):
            answer = post(world, gateway, content)
            assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")
            assert "retry-after" not in answer.headers
        assert time.monotonic() - started < 2
        assert post(world, gateway, f'{{"batch":[{good(0)}]}}'.encode()).status_code == 200
        assert "headrace_ingest_inflight_bytes 0.0" in httpx.get(f"{gateway.url}/metrics").text


def test_a_small_body_cannot_become_gigabytes(world: GatewayWorld, gateway: GatewayProcess) -> None:
    process = psutil.Process(gateway.process.pid)
    assert post(world, gateway, f'{{"batch":[{good(0)}]}}'.encode()).status_code == 200
    before = process.memory_info().rss
    message = '{"type":"track","event":"e"}'
    # One long text; and as many keys as its bytes allow, each merged with a context of the message's own.
    keys = ",".join(f'"{number}":1' for number in range(3000))
    for context, count, own in (("y" * 200_000, 1500, ""), ("y" * 30_000, 20_000, ""), (keys, 15_000, "own")):
        shared = f"{{{context}}}" if own else f'{{"x":"{context}"}}'
        each = message[:-1] + ',"context":{"a":1}}' if own else message
        body = f'{{"context":{shared},"batch":[{",".join([each] * count)}]}}'.encode()
        answer = post(world, gateway, gzip.compress(body))
        assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")
    # What stays within that bound is still reserved while it grows, row by row.
    body = f'{{"batch":[{",".join([message] * 20_000)}],"context":{{"x":"{"y" * 700}"}}}}'.encode()
    assert post(world, gateway, gzip.compress(body)).status_code in (200, 503)
    assert process.memory_info().rss - before < 200 * MIB


def test_a_body_to_take_apart_neither_stops_the_others_nor_comes_from_nobody(
    world: GatewayWorld, gateway: GatewayProcess
) -> None:
    message = '{"type":"track","event":"e","properties":{"a":[1,{"b":2}],"x":NaN}}'
    slow = gzip.compress(f'{{"batch":[{",".join([message] * 19_000)}]}}'.encode())
    used_s = psutil.Process(gateway.process.pid).cpu_times
    assert post(world, gateway, f'{{"batch":[{good(0)}]}}'.encode()).status_code == 200
    before = used_s()
    answer = httpx.post(f"{gateway.url}/v1/batch", content=slow, auth=("wk_nobody", ""), timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (401, "unknown_write_key")
    assert used_s().user - before.user < 0.2, "an unknown key buys no work"
    answer = httpx.post(f"{gateway.url}/v1/batch", content=slow, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (401, "missing_write_key")

    waits: list[float] = []
    done = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            while not done.is_set():
                waits.append(client.get("/livez").elapsed.total_seconds())
                time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = post(world, gateway, slow)
    done.set()
    watcher.join(30)
    assert (answer.status_code, len(answer.json()["rejected"])) == (200, 19_000)
    assert len(waits) >= 10
    assert max(waits) < answer.elapsed.total_seconds() / 2, "others are served while a body is taken apart"

    keyed = f'{{"writeKey":"{world.write_key}","batch":[{good(7)},{message}]}}'.encode()
    answer = httpx.post(f"{gateway.url}/v1/batch", content=keyed, timeout=30)
    assert answer.json() == {"success": True, "rejected": [{"index": 1, "reason": "non_finite_number"}]}


def test_events_that_once_failed_the_whole_request_are_rejected_alone(
    world: GatewayWorld, gateway: GatewayProcess
) -> None:
    texts = [good(0), bad(type='["track"]'), bad(timestamp="9" * 400), good(1)]
    answer = post(world, gateway, f'{{"batch":[{",".join(texts)}],"sentAt":{"9" * 400}}}'.encode())
    assert answer.json() == {
        "success": True,
        "rejected": [{"index": 1, "reason": "unknown_type"}, {"index": 2, "reason": "timestamp_out_of_range"}],
    }
    assert {row["message_id"] for row in world.events(2)} == {"good-0", "good-1"}
