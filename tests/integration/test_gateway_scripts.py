"""posthog-js from the operator's folder, as a running gateway serves it to PostHog's HTML snippet."""

import gzip
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.errors import ConfigurationError
from producers.gateway.protocols.decoder import Request
from producers.gateway.protocols.posthog_scripts import SCRIPT_BYTES_MAX, SCRIPTS, Scripts
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_gateway_world

MAIN = b"window.posthog = window.posthog || 1; // \xc3\xa9\n" * 100
SECRET = b"kept from everybody"


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> GatewayWorld:
    return make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "posthog" / "dist"
    made.mkdir(parents=True)
    (made / "array.js").write_bytes(MAIN)
    (made / "recorder.js").write_bytes(b"recorder()")
    (made / "secret.js").write_bytes(SECRET)
    (made.parent / "package.json").write_bytes(SECRET)
    return made


@pytest.fixture
def gateway(world: GatewayWorld, folder: Path) -> Iterator[GatewayProcess]:
    with replace(world, settings=replace(world.settings, posthog_js_dir=str(folder))).running() as gateway:
        yield gateway


def ask(gateway: GatewayProcess, path: str, **headers: str) -> httpx.Response:
    given = {"origin": "https://shop.example", "accept-encoding": "identity"} | headers
    return httpx.get(gateway.url + path, headers=given, timeout=10)


def test_the_snippets_script_is_served_with_type_tag_cache_and_cors(gateway: GatewayProcess, folder: Path) -> None:
    (folder / "array.js").write_bytes(b"changed after the start")
    for path in ("/static/array.js", "/static/array.js?v=1.449.2", "/static/array.js/", "/array/wk_any/array.js"):
        answer = ask(gateway, path)
        assert (answer.status_code, answer.content) == (200, MAIN), path
        assert answer.headers["content-type"] == "application/javascript; charset=utf-8"
        assert answer.headers["cache-control"] == "public, max-age=3600"
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert answer.headers["x-content-type-options"] == "nosniff"
    tag = answer.headers["etag"]
    for same in (tag, tag.removeprefix("W/"), f'"other", {tag}'):
        unchanged = ask(gateway, "/static/array.js", **{"if-none-match": same})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged.headers["etag"] == tag
    assert ask(gateway, "/static/array.js", **{"if-none-match": '"other"'}).status_code == 200
    assert ask(gateway, "/static/recorder.js").content == b"recorder()"
    assert httpx.head(f"{gateway.url}/static/array.js").headers["etag"] == tag
    assert httpx.post(f"{gateway.url}/static/array.js").status_code == 405


def test_a_browser_that_takes_gzip_gets_it(gateway: GatewayProcess) -> None:
    for accepted, zipped in (
        ("gzip, deflate, br", True),
        ("br;q=1, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, br", False),
        ("x-gzip", False),
        ("br", False),
    ):
        with httpx.stream("GET", f"{gateway.url}/static/array.js", headers={"accept-encoding": accepted}) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers.get("content-encoding") == ("gzip" if zipped else None), accepted
        assert (gzip.decompress(raw) if zipped else raw) == MAIN
        assert "Accept-Encoding" in answer.headers.get_list("vary")


def test_no_other_file_can_be_reached(gateway: GatewayProcess) -> None:
    for path in (
        "/static/secret.js",
        "/static/package.json",
        "/static/../package.json",
        "/static/..%2fpackage.json",
        "/static/..%2Fdist%2Farray.js",
        "/static/%2e%2e/package.json",
        "/static/array.js%00.txt",
        "/static/ARRAY.js",
        "/static//array.js",
        "/static/",
    ):
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status = int(answer.split()[1])
        assert SECRET not in answer, path
        assert status in (400, 404), (path, answer[:200])
    known = ask(gateway, "/static/surveys.js")
    assert known.status_code == 404
    assert "is not in the folder" in known.json()["message"]


def test_without_a_folder_the_answer_says_what_to_do(world: GatewayWorld) -> None:
    with world.running() as gateway:
        for path in ("/static/array.js", "/array/wk_any/array.js", "/static/recorder.js"):
            answer = ask(gateway, path)
            assert answer.status_code == 404
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
            assert "HEADRACE_POSTHOG_JS_DIR" in answer.json()["message"]


def test_a_folder_that_is_none_of_posthog_js_is_refused_at_the_start(folder: Path, world: GatewayWorld) -> None:
    request: Any = Request("GET", "/static/{script}", "http", {}, {}, b"", 0, {"script": "array.js"})
    assert Scripts(folder).answer(request).body == MAIN
    (folder / "recorder.js").write_bytes(b"x" * (SCRIPT_BYTES_MAX + 1))
    with pytest.raises(ConfigurationError, match="has more than"):
        Scripts(folder)
    (folder / "recorder.js").unlink()
    (folder / "surveys.js").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Scripts(folder)
    (folder / "array.js").unlink()
    (folder / "surveys.js").rmdir()
    with pytest.raises(ConfigurationError, match=r"has no array\.js"):
        Scripts(folder)
    assert all("/" not in name and name.endswith(".js") for name in SCRIPTS)
    gateway = GatewayProcess(replace(world.settings, posthog_js_dir=str(folder)), world.folder / "refused.log")
    assert gateway.process.wait(20) == ConfigurationError.exit_code
    assert "has no array.js" in gateway.log
