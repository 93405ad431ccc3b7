"""Mixpanel's answers, in each dialect, as its SDKs read them."""

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from producers.gateway.answers import Answer, Refusal, Rejection
from producers.gateway.protocols.decoder import Request, RouteTable
from producers.gateway.protocols.mixpanel import TRACK, routes
from tests.unit.round_trip import decoder_of
from tests.unit.test_mixpanel_bodies import request

EVENTS = [
    {"event": "a", "properties": {"token": "wk", "$insert_id": "i0"}},
    {"event": "", "properties": {"token": "wk", "$insert_id": "i1"}},
    {"event": "c", "properties": {"token": "wk", "$insert_id": "i2", "time": 5}},
]
BODY = json.dumps(EVENTS).encode()
NONE: list[Rejection] = []
SOME = [Rejection(1, "missing_event_name"), Rejection(2, "timestamp_out_of_range", "5 is long ago")]
FORM = urlencode({"data": BODY}).encode()
PATHS = ("/track", "/import", "/engage", "/groups")


def success(asked: Request, rejections: list[Rejection]) -> Answer:
    decoder = decoder_of(asked.path)
    return decoder.success(asked, decoder.decode(asked, 100), rejections)


def failure(asked: Request, status: int, retry_after_s: int | None = None) -> Answer:
    return decoder_of(asked.path).failure(asked, Refusal(status, "some_reason", "a sentence", retry_after_s))


def read_as_python(answer: Answer) -> str | None:
    """What mixpanel-python makes of it: None when it is content, else its error."""
    told = json.loads(answer.body)
    return None if told["status"] == 1 else f"Mixpanel error: {told['error']}"


def read_as_node(answer: Answer, *, verbose: bool) -> str | None:
    """What mixpanel-node makes of it, which does not look at the status."""
    if verbose:
        told = json.loads(answer.body)
        return None if told["status"] == 1 else f"Mixpanel Server Error: {told['error']}"
    return None if answer.body == b"1" else f"Mixpanel Server Error: {answer.body.decode()}"


def in_query(path: str, **query: str) -> Request:
    return request(path, FORM, query)


def in_form(path: str, **fields: Any) -> Request:
    return request(path, urlencode({"data": BODY, **fields}).encode())


def by_get(path: str, **query: str) -> Request:
    return request(path, query={"data": base64.b64encode(BODY).decode(), **query}, method="GET")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ask", [in_query, in_form, by_get])
def test_short_and_verbose_answers(path: str, ask: Any) -> None:
    for rejections in (NONE, SOME):
        short = success(ask(path, verbose="0"), rejections)
        assert (short.status, short.body, short.content_type) == (200, b"1", b"text/plain; charset=utf-8")
        assert read_as_node(short, verbose=False) is None
        verbose = success(ask(path, verbose="1"), rejections)
        assert verbose.status == 200
        assert read_as_python(verbose) is read_as_node(verbose, verbose=True) is None
    assert success(ask(path, verbose="1"), NONE).body == b'{"status":1,"error":null}'
    assert json.loads(success(ask(path, verbose="1"), SOME).body)["rejected"] == [
        {"index": 1, "reason": "missing_event_name"},
        {"index": 2, "reason": "timestamp_out_of_range", "detail": "5 is long ago"},
    ]
    told = dict(success(ask(path), SOME).headers)
    assert told[b"x-headrace-rejected"] == b"missing_event_name,timestamp_out_of_range"


@pytest.mark.parametrize("path", ["/track", "/engage", "/groups"])
@pytest.mark.parametrize("body", [BODY, FORM])
def test_without_a_word_the_answer_is_short(path: str, body: bytes) -> None:
    assert success(request(path, body), NONE).body == b"1"


def test_a_setting_that_is_too_long_says_nothing() -> None:
    asked = request("/track", FORM + b"&verbose=" + b"%" * 20_000)
    assert success(asked, NONE).body == b"1"
    assert failure(asked, 401).status == 401


def test_an_image_for_those_who_ask_and_nobody_is_sent_elsewhere() -> None:
    answer = success(by_get("/track", img="1", verbose="1", redirect="https://elsewhere.example/"), NONE)
    assert (answer.status, answer.content_type) == (200, b"image/gif")
    assert answer.body[:10] == b"GIF89a\x01\x00\x01\x00"
    assert answer.body[-1:] == b";"
    assert not {name for name, _ in answer.headers} & {b"location", b"refresh"}
    answer = success(by_get("/track", redirect="https://elsewhere.example/"), NONE)
    assert (answer.status, answer.body, answer.headers) == (200, b"1", ())


@pytest.mark.parametrize("body", [BODY, b"\n".join(json.dumps(item).encode() for item in EVENTS), FORM])
def test_a_strict_import_counts_and_names_its_records(body: bytes) -> None:
    answer = success(request("/import", body, {"strict": "1"}), NONE)
    assert (answer.status, json.loads(answer.body)) == (200, {"code": 200, "num_records_imported": 3, "status": "OK"})
    answer = success(request("/import", body, {"strict": "1"}), SOME)
    assert answer.status == 400
    told = json.loads(answer.body)
    assert (told["code"], told["num_records_imported"], told["status"]) == (400, 1, "Bad Request")
    assert told["error"]
    first, second = told["failed_records"]
    assert (first["index"], first["insert_id"], first["field"]) == (1, "i1", "event")
    assert first["message"]
    assert (second["index"], second["insert_id"], second["field"]) == (2, "i2", "properties.time")
    assert second["message"] == "5 is long ago"


def test_a_failed_record_without_an_id_or_an_object_is_named_too() -> None:
    body = b'[7, {"properties": {"token": "wk", "$insert_id": [1]}}]'
    rejections = [Rejection(0, "not_an_object"), Rejection(1, "invalid_id")]
    told = json.loads(success(request("/import", body, {"strict": "1"}), rejections).body)
    assert [record["insert_id"] for record in told["failed_records"]] == ["", ""]
    assert told["failed_records"][0]["message"] == "a message must be a JSON object"


def test_a_json_import_that_is_not_strict_is_counted_and_never_fails() -> None:
    for query in ({}, {"strict": "0"}):
        answer = success(request("/import", BODY, query), SOME)
        told = json.loads(answer.body)
        assert (answer.status, told["code"], told["num_records_imported"], told["status"]) == (200, 200, 1, "OK")
        assert len(told["failed_records"]) == 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [400, 401, 408, 413, 429, 500, 503])
@pytest.mark.parametrize(
    "asked",
    [
        request("/", b""),  # of a body that was not read nothing is known
        request("/", FORM + b"&verbose=1"),
        request("/", BODY),
        request("/", FORM, {"verbose": "1"}),
        request("/", query={"verbose": "1", "data": "x"}, method="GET"),
    ],
)
def test_refusals_can_be_read_by_every_sdk(path: str, status: int, asked: Request) -> None:
    answer = decoder_of(path).failure(asked, Refusal(status, "some_reason", "a sentence"))
    assert answer.status == status
    assert read_as_python(answer) == "Mixpanel error: some_reason"
    told = json.loads(answer.body)
    assert (told["code"], told["message"]) == (status, "a sentence")


@pytest.mark.parametrize("asked", [request("/", FORM, {"verbose": "0"}), request("/", query={}, method="GET")])
def test_short_refusals(asked: Request) -> None:
    answer = TRACK.failure(asked, Refusal(401, "some_reason", "a sentence"))
    assert (answer.status, answer.body) == (401, b"0")
    assert read_as_node(answer, verbose=False) == "Mixpanel Server Error: 0"
    assert dict(answer.headers)[b"x-headrace-refused"] == b"some_reason"


@pytest.mark.parametrize("verbose", ["0", "1"])
@pytest.mark.parametrize("status", [429, 503])
def test_what_may_pass_later_says_when(status: int, verbose: str) -> None:
    headers = dict(failure(in_query("/track", verbose=verbose), status, 7).headers)
    assert headers[b"retry-after"] == b"7"


def test_nothing_else_asks_to_come_back() -> None:
    """urllib3 obeys Retry-After on a 413 too, and would send what is too large again."""
    assert b"retry-after" not in dict(failure(in_query("/track"), 413).headers)


def test_the_table_of_paths() -> None:
    table = RouteTable(routes())
    for path in ("/engage", "/engage/", "/groups/", "/import"):
        found = table.find(path)
        assert found is not None
        assert found[0].methods == {"GET", "POST"}
        assert found[0].decoder is not None
        assert (found[0].decoder.name, found[0].decoder.volatile_keys) == ("mixpanel", frozenset())
    for path in ("/track", "/decide", "/flags"):
        assert table.find(path) is None, "these are shared, see the module that shares them"


@pytest.mark.parametrize(("path", "method"), [("/settings/", "GET"), ("/record/", "POST")])
def test_what_browsers_ask_besides_is_answered_and_takes_nothing(path: str, method: str) -> None:
    found = RouteTable(routes()).find(path)
    assert found is not None
    assert found[0].fixed is not None
    assert method in found[0].methods
    answer = found[0].fixed(request(path, b"", method=method))
    assert answer.status == 200
    assert "sdk_config" not in json.loads(answer.body)
