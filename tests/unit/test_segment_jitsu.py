"""jitsu's dialect: what its SDK sent (@jitsu/js 1.11.0, in Node) yields its events; its pixel, its answers."""

import base64
import json
from typing import Any

import pytest

from headrace.shards.policy import OPEN
from producers.gateway.answers import Refusal, Rejection
from producers.gateway.auth import carried_keys
from producers.gateway.encode import encode_rows
from producers.gateway.json_body import BodyError, NotPlainError, Unusable, mentioned_keys
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols import segment_jitsu
from producers.gateway.protocols.decoder import Decoded, Decoder, RawEvent, Request, RouteTable
from producers.gateway.protocols.segment_jitsu import usable_keys
from schemas.codec import decode_events
from tests.unit.sdk_requests import microseconds

TABLE = RouteTable(segment_jitsu.routes())
RECEIVED_US = microseconds("2026-11-24T16:10:45.900Z")
HEADERS = {"content-type": "application/json", "x-write-key": "wk_id:wk_secret", "user-agent": "node"}
ANONYMOUS = "25b59290-5fcc-4d0e-8d46-19065a0bbb4e"
LIBRARY = {"name": "@jitsu/js", "version": "1.11.0", "env": "node"}
TRAITS = {"email": "a@b.c", "plan": "pro"}


def sent(type_: str, message_id: str, context: dict[str, Any], **own: Any) -> dict[str, Any]:
    """A message as the SDK makes it: what all have, and its own."""
    return {
        "type": type_, **own, "userId": "u1", "anonymousId": ANONYMOUS, "timestamp": "2026-11-24T16:10:45.783Z",
        "sentAt": "2026-11-24T16:10:45.783Z", "messageId": message_id, "writeKey": "wk_id:***",
        "context": {"library": LIBRARY, **context, "clientIds": {}, "campaign": {}},
    }  # fmt: skip


PAGE_ADDRESS = {"path": "/p", "url": "https://ex.com/p?utm_source=nl"}
SENT: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (sent("identify", "1nbz15sorcux9o7nd34zt", {"page": {}}, traits=TRAITS), "", TRAITS),
    (
        sent("page", "28ma99ykj7o2rbepecuz8", {"traits": TRAITS, "page": PAGE_ADDRESS},
             properties={"name": "Home", **PAGE_ADDRESS, "category": "x"}),
        "Home", {"name": "Home", **PAGE_ADDRESS, "category": "x"},
    ),
    (
        sent("page", "16lqsilxjv4sfluo9ag4v", {"traits": TRAITS, "page": PAGE_ADDRESS}, properties=PAGE_ADDRESS),
        "", PAGE_ADDRESS,
    ),
    (
        sent("track", "p78w9qpj1hnbyceac1sc", {"traits": TRAITS, "page": {}}, event="Order",
             properties={"revenue": 12.5, "s2s": True}),
        "Order", {"revenue": 12.5, "s2s": True},
    ),
    (
        sent("track", "17gnvelt4k7c3bmu1k4wx", {"ip": "1.2.3.4", "traits": TRAITS, "page": {}}, event="Order 2",
             properties={"a": [1, {"b": 2}]}),
        "Order 2", {"a": [1, {"b": 2}]},
    ),
    (sent("group", "7dql9mdhv1164164tfd72", {"page": {}}, groupId="g1", traits={"name": "A"}), "", {"name": "A"}),
]  # fmt: skip


def decoder_of(path: str) -> Decoder:
    found = TABLE.find(path)
    assert found is not None, path
    assert found[0].decoder is not None
    return found[0].decoder


def post(path: str, body: Any, *, lenient: bool = True, **query: str) -> Request:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", path, "http", query, HEADERS, content, RECEIVED_US, {}, lenient)


def pixel(name: str, query: dict[str, str], *, lenient: bool = True) -> Decoded:
    path = f"/api/px/{name}"
    return decoder_of(path).decode(Request("GET", path, "http", query, {}, b"", RECEIVED_US, {}, lenient), 10)


def stored(path: str, decoded: Decoded) -> list[dict[str, Any]]:
    decoder = decoder_of(path)
    origin = Origin(7, OPEN, RECEIVED_US, decoder.name, decoder.volatile_keys)
    normaliser = Normaliser(EventLimits(262_144, 1000, 64), lambda: None)
    back = decode_events(encode_rows([normaliser.row(event, origin) for event in decoded.events]))
    assert not back.poison
    rows: list[dict[str, Any]] = back.events.to_pylist()
    return rows


@pytest.mark.parametrize("prefix", ["/api/s/", "/api/s/s2s/"])
def test_what_the_sdk_sends_yields_its_events(prefix: str) -> None:
    for message, name, properties in SENT:
        path = prefix + message["type"]
        decoded = decoder_of(path).decode(post(path, message), 10)
        assert list(decoded.write_keys) == [], "the masked key is none"
        (row,) = stored(path, decoded)
        assert (row["type"], row["name"], row["message_id"]) == (message["type"], name, message["messageId"])
        assert (row["user_id"], row["anonymous_id"]) == ("u1", ANONYMOUS)
        assert row["group_id"] == message.get("groupId")
        assert row["timestamp_us"] == row["sent_at_us"] == microseconds(message["timestamp"])
        assert json.loads(row["properties"]) == properties
        assert json.loads(row["context"]) == message["context"]
        assert (row["protocol"], row["library"]) == ("segment-v1", "@jitsu/js/1.11.0")


def test_the_key_is_in_its_header() -> None:
    assert carried_keys(HEADERS, {}) == ["wk_id:wk_secret", "wk_secret"]
    assert usable_keys(["wk_id:***", "***", "id:secret", "key", "key:"]) == ["id:secret", "secret", "key", "key:"]
    decoded = decoder_of("/api/s/track").decode(post("/api/s/track", {"writeKey": "a:b"}, writekey="c"), 10)
    assert list(decoded.write_keys) == ["a:b", "b", "c"]


def test_the_path_says_the_type_by_its_long_or_short_name() -> None:
    for name, type_ in [("p", "page"), ("page", "page"), ("a", "alias"), ("screen", "screen"), ("event", "")]:
        (event,) = decoder_of(f"/api/s/{name}").decode(post(f"/api/s/{name}", {}), 10).events
        assert isinstance(event, RawEvent)
        assert event.type == type_
    assert TABLE.find("/api/s/unknown") is None
    (event,) = decoder_of("/api/s/event").decode(post("/api/s/event", {"type": "group"}), 10).events
    assert isinstance(event, RawEvent)
    assert event.type == "group"


def test_batches_are_segments() -> None:
    path = "/api/s/s2s/batch"
    body = {"batch": [message for message, _, _ in SENT], "writeKey": "wk_id:wk_secret"}
    decoded = decoder_of(path).decode(post(path, body), 10)
    assert list(decoded.write_keys) == ["wk_id:wk_secret", "wk_secret"]
    assert [row["name"] for row in stored(path, decoded)] == [name for _, name, _ in SENT]
    two = decoded.events[1:3]
    assert [event.name for event in two if isinstance(event, RawEvent)] == ["Home", None]


def test_a_pages_name_among_its_properties_is_only_a_name_when_it_is_a_text() -> None:
    batch = {"batch": [
        {"type": "page", "name": "own", "properties": {"name": "other"}}, {"type": "page", "properties": {"name": 5}},
        {"type": "page", "properties": []}, {"type": "track", "properties": {"name": "n"}}, 5,
    ]}  # fmt: skip
    events = decoder_of("/api/s/batch").decode(post("/api/s/batch", batch), 10).events
    assert [event.name for event in events if isinstance(event, RawEvent)] == ["own", None, None, None]
    assert isinstance(events[4], Unusable)


def test_a_pixel_is_its_data_with_dotted_keys_over_it() -> None:
    data = base64.b64encode(json.dumps({"event": "Open", "context": {"a": 1}, "messageId": "m"}).encode()).decode()
    decoded = pixel("track", {"data": data, "context.page.url": "https://ex.com/", "userId": "u", "writekey": "i:s"})
    (event,) = decoded.events
    assert isinstance(event, RawEvent)
    assert (event.type, event.name, event.message_id, event.user_id) == ("track", "Open", "m", "u")
    assert event.context == {"a": 1, "page": {"url": "https://ex.com/"}}
    assert list(decoded.write_keys) == ["i:s", "s"]
    (bare,) = pixel("p", {"properties.name": "Mail"}).events
    assert isinstance(bare, RawEvent)
    assert (bare.type, bare.name) == ("page", "Mail")


@pytest.mark.parametrize(
    ("data", "why"), [("%%", "malformed_encoding"), ("é", "malformed_encoding"), ("NQ==", "not_an_object")]
)
def test_a_pixels_data_of_another_shape_is_refused(data: str, why: str) -> None:
    with pytest.raises(BodyError) as caught:
        pixel("track", {"data": data})
    assert caught.value.reason == why


def test_a_pixels_data_that_is_not_plain_json_waits_for_the_receivers_leave() -> None:
    data = base64.b64encode(b'{"event":"\\ud800","x":[{"y":1}]}').decode()
    with pytest.raises(NotPlainError) as caught:
        pixel("track", {"data": data, "writekey": "wk"}, lenient=False)
    assert mentioned_keys(caught.value.body) == ["wk"]
    decoded = pixel("track", {"data": data})
    (event,) = decoded.events
    assert isinstance(event, RawEvent)
    assert (event.name, decoded.cleaned) == ("\ufffd", True)
    (faulty,) = pixel("track", {"data": base64.b64encode(b'{"x":[{"y":1e999}]}').decode()}).events
    assert isinstance(faulty, Unusable)
    assert faulty.reason == "non_finite_number"


def test_answers_are_jitsus() -> None:
    single, batch = decoder_of("/api/s/track"), decoder_of("/api/s/s2s/batch")
    image = decoder_of("/api/px/track")
    asked, rejected = post("/api/s/track", {}), [Rejection(1, "too_deep")]
    decoded = batch.decode(post("/api/s/batch", {"batch": [{}, {}]}), 10)
    told = [{"index": 1, "reason": "too_deep"}]
    assert json.loads(single.success(asked, decoded, []).body) == {"ok": True}
    assert json.loads(single.success(asked, decoded, rejected).body) == {
        "ok": False, "error": "too_deep", "rejected": told,
    }  # fmt: skip
    assert json.loads(batch.success(asked, decoded, []).body) == {"ok": True, "receivedEvents": 2, "okEvents": 2}
    assert json.loads(batch.success(asked, decoded, rejected).body) == {
        "ok": False, "receivedEvents": 2, "okEvents": 1, "errors": ["event 1: too_deep"], "rejected": told,
    }  # fmt: skip
    assert image.success(asked, decoded, []).content_type == b"image/gif"
    assert json.loads(single.failure(asked, Refusal(401, "unknown_write_key", "no")).body)["code"] == 401
