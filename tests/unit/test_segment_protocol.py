"""Segment's table of paths, its keys and the corners of its messages."""

import base64
import json
from typing import Any

import pytest

from producers.gateway.answers import Refusal, Rejection
from producers.gateway.auth import carried_keys
from producers.gateway.json_body import BodyError, Unusable
from producers.gateway.protocols import routes
from producers.gateway.protocols.decoder import Decoded, Decoder, RawEvent, Request
from producers.gateway.protocols.segment_pixel import nest

TABLE = routes()


def decoder_of(path: str) -> Decoder:
    found = TABLE.find(path)
    assert found is not None
    assert found[0].decoder is not None
    return found[0].decoder


def request(path: str, body: Any = None, headers: dict[str, str] | None = None, **query: str) -> Request:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", path, "http", query, headers or {}, content, 0)


def decode(path: str, body: Any = None, headers: dict[str, str] | None = None, **query: str) -> Decoded:
    return decoder_of(path).decode(request(path, body, headers, **query), 100)


def only(decoded: Decoded) -> RawEvent:
    (event,) = decoded.events
    assert isinstance(event, RawEvent)
    return event


@pytest.mark.parametrize(
    "path", ["/v1/batch", "/v1/b/", "/v1/import//", "/pixel/v1/track", "/v1/projects/k/settings/"]
)
def test_paths_are_found_with_and_without_a_slash(path: str) -> None:
    assert TABLE.find(path) is not None


@pytest.mark.parametrize(
    "path", ["/", "", "/v1", "/v1/unknown", "/v1/projects//settings", "/v1/projects/a/b/settings"]
)
def test_other_paths_are_not(path: str) -> None:
    assert TABLE.find(path) is None


def test_a_named_part_of_a_path_is_handed_over() -> None:
    found = TABLE.find("/v1/projects/wk_1/settings")
    assert found is not None
    assert found[1] == {"write_key": "wk_1"}


def test_the_path_says_the_type_unless_the_message_does() -> None:
    assert only(decode("/v1/p", {"name": "n"})).type == "page"
    assert only(decode("/v1/p", {"type": "screen", "name": "n"})).type == "screen"


def test_traits_are_the_properties_of_identify_and_group_wherever_they_stand() -> None:
    assert only(decode("/v1/i", {"traits": {"a": 1}, "properties": {"b": 2}})).properties == {"a": 1}
    assert only(decode("/v1/g", {"context": {"traits": {"a": 1}}})).properties == {"a": 1}
    assert only(decode("/v1/t", {"context": {"traits": {"a": 1}}})).properties is None


def test_the_nearest_sending_time_counts() -> None:
    header = {"sentat": "3"}
    body = {"sentAt": "2", "batch": [{"sentAt": "1"}, {}]}
    assert [event.sent_at for event in decode("/v1/batch", body, header).events if isinstance(event, RawEvent)] == [
        "1",
        "2",
    ]
    assert only(decode("/v1/batch", {"batch": [{}]}, header)).sent_at == "3"
    assert only(decode("/v1/t", {}, header)).sent_at == "3"


def test_the_original_timestamp_is_a_time_only_without_another() -> None:
    assert only(decode("/v1/t", {"originalTimestamp": "o"})).timestamp == "o"
    assert only(decode("/v1/t", {"originalTimestamp": "o", "timestamp": "t"})).timestamp == "t"


@pytest.mark.parametrize(
    ("headers", "attempt"),
    [({}, 0), ({"x-retry-count": "0"}, 1), ({"rsa-retry-attempt": "4"}, 5), ({"x-retry-count": "many"}, 0)],
)
def test_the_attempt_is_what_the_sender_says(headers: dict[str, str], attempt: int) -> None:
    assert only(decode("/v1/batch", {"batch": [{}]}, headers)).attempt == attempt


def test_a_fault_deep_in_a_single_event_is_that_events() -> None:
    (event,) = decode("/v1/t", b'{"writeKey":"k","products":[{"price":NaN}]}').events
    assert isinstance(event, Unusable)
    assert event.reason == "non_finite_number"
    assert decode("/v1/t", b'{"writeKey":"k","products":[{"price":NaN}]}').write_keys == ["k"]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/batch", {"batch": {}}, "batch_missing"),
        ("/v1/batch", {"events": []}, "batch_missing"),
        ("/v1/batch", 5, "batch_missing"),
        ("/v1/t", [{}], "not_an_object"),
        ("/v1/t", "x", "not_an_object"),
        ("/v1/batch", {"batch": [{}] * 101}, "too_many_events"),
    ],
)
def test_bodies_of_another_shape_are_refused(path: str, body: Any, reason: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode(path, body)
    assert caught.value.reason == reason


def test_dotted_keys_of_a_pixel_nest() -> None:
    assert nest({"a.b.c": "1", "a.b.d": "2", "a.x": "3", "e": "4"}) == {
        "a": {"b": {"c": "1", "d": "2"}, "x": "3"},
        "e": "4",
    }
    assert nest({"a": "1", "a.b": "2"}) == {"a": {"b": "2"}}
    assert nest({"a.b": "2", "a": "1"}) == {"a": {"b": "2"}}
    assert nest({".".join("x" * 40): "deep", "n\x00": "\ud800"})["n\ufffd"] == "\ufffd"


def test_answers_are_what_sdks_look_for() -> None:
    decoder, asked = decoder_of("/v1/batch"), request("/v1/batch")
    assert decoder.success(asked, Decoded([]), []).body == b'{"success":true}'
    told = json.loads(decoder.success(asked, Decoded([]), [Rejection(3, "too_deep")]).body)
    assert told == {"success": True, "rejected": [{"index": 3, "reason": "too_deep"}]}
    refused = decoder.failure(asked, Refusal(503, "unavailable", "later", 2))
    assert json.loads(refused.body) == {
        "success": False, "status": 0, "code": 503, "message": "later", "error": "unavailable",
    }  # fmt: skip
    assert refused.headers == ((b"retry-after", b"2"),)


@pytest.mark.parametrize(
    ("headers", "query", "keys"),
    [
        ({"authorization": basic}, {}, keys)
        for basic, keys in (
            ("Basic " + base64.b64encode(b"wk:").decode(), ["wk"]),
            ("basic " + base64.b64encode(b"wk").decode(), ["wk"]),
            ("Basic " + base64.b64encode(b"wk").decode().rstrip("="), ["wk"]),
            ("Basic " + base64.b64encode(b":wk").decode(), ["wk"]),
            ("Basic " + base64.b64encode(b":").decode(), []),
            ("Basic !!", []),
            ("Basic", []),
            ("Bearer abc", ["abc"]),
            ("Bearer", []),
            ("Basic " + base64.b64encode(b"\xff\xfe").decode(), []),
        )
    ]
    + [
        ({"x-write-key": "id:secret"}, {}, ["id:secret", "secret"]),
        ({}, {"writeKey": "wk"}, ["wk"]),
        ({}, {}, []),
    ],
)
def test_keys_are_found_where_they_may_stand(headers: dict[str, str], query: dict[str, str], keys: list[str]) -> None:
    assert carried_keys(headers, query) == keys
