"""CloudEvents' modes, identity and data, and what becomes of events that are none."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PoisonError
from headrace.shards.policy import OPEN
from producers.gateway.answers import Refusal, Rejection
from producers.gateway.json_body import BodyError, NotPlainError, Unusable
from producers.gateway.normalise import REASONS, EventLimits, Normaliser, Origin
from producers.gateway.protocols.cloudevents import CloudEvents, header_text
from producers.gateway.protocols.decoder import Decoded, RawEvent, Request

DECODER = CloudEvents()
ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"
NOW_US = 1_795_489_036_055_000
UUID = "013274f5-2000-5c21-9352-d2f18373e5c2"
REQUIRED = {"specversion": "1.0", "id": UUID, "source": "/s", "type": "com.acme.bought"}
HEADERS = {f"ce-{key}": value for key, value in REQUIRED.items()}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
DATA_KEYS = st.sampled_from(["event", "name", "properties", "traits", "userId", "previousId", "context", "timestamp"])
ATTRIBUTE_KEYS = st.sampled_from(
    ["specversion", "id", "source", "type", "time", "subject", "userid", "datacontenttype", "data_base64", "data"]
)
DATA = st.dictionaries(DATA_KEYS, JSON_VALUES) | JSON_VALUES
EVENTS = (
    st.builds(lambda data, more: {**REQUIRED, "data": data, **more}, DATA, st.dictionaries(ATTRIBUTE_KEYS, DATA))
    | st.builds(lambda data: {**REQUIRED, "type": "a.identify", "data": data}, DATA)
    | JSON_VALUES
)


def decode(body: Any, content_type: str | None = ONE, headers: dict[str, str] | None = None) -> Decoded:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = dict(headers or {})
    if content_type is not None:
        sent["content-type"] = content_type
    return DECODER.decode(Request("POST", "/v1/cloudevents", "http", {}, sent, content, NOW_US), 100)


def only(decoded: Decoded) -> RawEvent:
    (found,) = decoded.events
    assert isinstance(found, RawEvent), found
    return found


def event(data: Any = None, **attributes: Any) -> RawEvent:
    return only(decode({**REQUIRED, **attributes, "data": data}))


def fault(body: Any, content_type: str | None = ONE, headers: dict[str, str] | None = None) -> Unusable:
    (found,) = decode(body, content_type, headers).events
    assert isinstance(found, Unusable), found
    return found


# Modes


@pytest.mark.parametrize(
    ("content_type", "headers", "body"),
    [
        (ONE, {}, {**REQUIRED, "data": {"a": 1}}),
        (ONE + "; charset=utf-8", HEADERS, {**REQUIRED, "data": {"a": 1}}),
        ("Application/CloudEvents+JSON", {}, {**REQUIRED, "data": {"a": 1}}),
        (MANY, {}, [{**REQUIRED, "data": {"a": 1}}]),
        (MANY, {}, {**REQUIRED, "data": {"a": 1}}),
        (ONE, {}, [{**REQUIRED, "data": {"a": 1}}]),
        ("application/json", HEADERS, {"a": 1}),
        ("application/vnd.acme+json", HEADERS, {"a": 1}),
        (None, HEADERS, {"a": 1}),
        (None, {}, {**REQUIRED, "data": {"a": 1}}),
        (None, {}, [{**REQUIRED, "data": {"a": 1}}]),
        ("text/plain", {}, {**REQUIRED, "data": {"a": 1}}),
        ("application/json", {}, {**REQUIRED, "data": {"a": 1}}),
    ],
)
def test_every_mode_yields_the_event(content_type: str | None, headers: dict[str, str], body: Any) -> None:
    found = only(decode(body, content_type, headers))
    assert (found.type, found.name, found.message_id, found.properties) == (
        "track", "com.acme.bought", UUID, {"a": 1},
    )  # fmt: skip
    assert found.context == {"source": "/s", "type": "com.acme.bought"}


def test_a_batch_has_many_and_a_bad_one_spares_the_others() -> None:
    good, bad, broken, worse = decode(
        b'[{"specversion":"1.0","id":"1","source":"s","type":"t"},5,{"a":NaN},{"specversion":"1.0"}]', MANY
    ).events
    assert isinstance(good, RawEvent)
    assert [(item.reason, item.raw) for item in (bad, broken, worse) if isinstance(item, Unusable)] == [
        ("not_an_object", b"5"),
        ("non_finite_number", b'{"a":NaN}'),
        ("invalid_id", b'{"specversion":"1.0"}'),
    ]
    assert not decode([], MANY).events


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("plain", "plain"),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("100%25", "100%"),
        ("%2525", "%25"),
        ("50%", "50%"),
        ("%zz", "%zz"),
        ('"a \\"b\\" \\\\ c%20d"', 'a "b" \\ c d'),
        ('"', '"'),
        ("é".encode().decode("latin-1"), "é"),
        ("%FF", "\ufffd"),
        ("a+b", "a+b"),
    ],
)
def test_headers_are_unquoted_and_decoded_once(header: str, text: str) -> None:
    assert header_text(header) == text


def test_attributes_in_headers_are_decoded_and_cleaned() -> None:
    headers = {**HEADERS, "ce-subject": "%E8%B4%AD%00", "ce-traceparent": "00-1", "ce-time": "2024-02-29T00:00:00Z"}
    decoded = decode({}, "application/json", headers)
    found = only(decoded)
    assert decoded.cleaned
    assert (found.user_id, found.timestamp) == ("购\ufffd", "2024-02-29T00:00:00Z")
    assert found.context["traceparent"] == "00-1"


# Identity


@pytest.mark.parametrize(
    ("source", "id", "message_id"),
    [
        ("/s", UUID, UUID),
        ("/s", UUID.upper(), UUID.upper()),
        ("/s", "1", "/s 1"),
        ("/s", 1, "/s 1"),
        ("/s", "a b", "/s a b"),
        ("/s a", "b", "/s%20a b"),
        ("/s", UUID + "-1", f"/s {UUID}-1"),
    ],
)
def test_source_and_id_are_the_identity(source: str, id: Any, message_id: str) -> None:
    assert event(source=source, id=id).message_id == message_id


def test_ids_come_from_extensions_then_data_then_subject() -> None:
    message = {"event": "e", "properties": {}, "userId": "d", "anonymousId": "a"}
    found = event(message, subject="s", userid="x")
    assert (found.user_id, found.anonymous_id, found.context.get("subject")) == ("x", "a", "s")
    assert event(message, subject="s").user_id == "d"
    found = event({"event": "e"}, subject="s", sessionid="9", groupid="g")
    assert (found.user_id, found.session_id, found.group_id) == ("s", "9", "g")
    assert found.context == {"source": "/s", "type": "com.acme.bought"}
    assert event(subject="s", userid="s").context == {"source": "/s", "type": "com.acme.bought"}


# Data


def test_data_that_is_a_message_is_taken_apart() -> None:
    found = event({"event": "e", "properties": {"a": 1}, "context": {"page": {"path": "/"}}, "more": 2})
    assert (found.type, found.name, found.properties) == ("track", "e", {"a": 1})
    assert found.context == {
        "page": {"path": "/"}, "data": {"more": 2}, "source": "/s", "type": "com.acme.bought",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ce_type", "data", "type_", "name", "properties"),
    [
        ("com.acme.identify", {"traits": {"a": 1}}, "identify", None, {"a": 1}),
        ("com.acme.page", {"name": "n", "properties": {"a": 1}}, "page", "n", {"a": 1}),
        ("com.acme.Screen", {"event": "n", "properties": {}}, "screen", "n", {}),
        ("com.acme.group", {"groupId": "g", "traits": {"a": 1}}, "group", None, {"a": 1}),
        ("com.acme.alias", {"userId": "u", "previousId": "p"}, "alias", None, None),
        ("track", {"properties": {"a": 1}}, "track", "track", {"a": 1}),
        ("com.acme.group", {"a": 1}, "track", "com.acme.group", {"a": 1}),
        ("com.acme.bought", {"event": "e", "amount": 1}, "track", "com.acme.bought", {"event": "e", "amount": 1}),
        ("com.acme.bought", {"properties": {}}, "track", "com.acme.bought", {"properties": {}}),
        ("com.acme.bought", {}, "track", "com.acme.bought", {}),
        ("com.acme.bought", None, "track", "com.acme.bought", None),
        ("com.acme.bought", [1], "track", "com.acme.bought", {"data": [1]}),
        ("com.acme.bought", "text", "track", "com.acme.bought", {"data": "text"}),
    ],
)
def test_the_type_of_a_message_is_the_last_label(
    ce_type: str, data: Any, type_: str, name: Any, properties: Any
) -> None:
    found = event(data, type=ce_type)
    assert (found.type, found.name, found.properties) == (type_, name, properties)


@pytest.mark.parametrize(
    ("content_type", "body", "properties"),
    [
        ("text/plain", "é{".encode(), {"data": "é{"}),
        ("application/xml", b"<a/>", {"data": "<a/>"}),
        ("image/png", b"\x89PNG", {"data_base64": base64.b64encode(b"\x89PNG").decode()}),
        ("text/plain", b"a\x00b", {"data_base64": base64.b64encode(b"a\x00b").decode()}),
        ("application/json", b"", None),
        ("text/plain", b"", None),
        ("application/json", b"[1,2]", {"data": [1, 2]}),
        ("application/json", b'{"a":"\\u0000"}', {"a": "\ufffd"}),
    ],
)
def test_binary_data_is_json_text_or_bytes(content_type: str, body: bytes, properties: Any) -> None:
    found = only(decode(body, content_type, HEADERS))
    assert found.properties == properties
    assert found.context.get("datacontenttype") == (None if content_type.endswith("json") else content_type)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8"])
def test_a_type_that_the_http_client_made_up_hides_no_json(content_type: str) -> None:
    found = only(decode(b' {"a":1}', content_type, HEADERS))
    assert (found.properties, found.context) == ({"a": 1}, {"source": "/s", "type": "com.acme.bought"})
    for body in (b'{"a":NaN}', b"{", b"5"):
        found = only(decode(body, content_type, HEADERS))
        assert (found.properties, found.context["datacontenttype"]) == ({"data": body.decode()}, content_type)


@pytest.mark.parametrize(
    ("attributes", "properties"),
    [
        ({"data_base64": base64.b64encode(b'{"a":1}').decode()}, {"a": 1}),
        ({"data_base64": base64.b64encode(b"plain").decode()}, {"data": "plain"}),
        ({"data_base64": "/w==", "datacontenttype": "image/png"}, {"data_base64": "/w=="}),
        (
            {"data": base64.b64encode(b'{"a":1}').decode(), "datacontentencoding": "base64", "specversion": "0.3"},
            {"a": 1},
        ),
        ({"data_base64": ""}, None),
    ],
)
def test_data_in_base64_is_decoded(attributes: Any, properties: Any) -> None:
    assert only(decode({**REQUIRED, **attributes})).properties == properties


def test_json_in_base64_may_need_the_slow_way_too() -> None:
    body = json.dumps({**REQUIRED, "data_base64": base64.b64encode(b'{"a":NaN}').decode()}).encode()
    with pytest.raises(NotPlainError):
        DECODER.decode(Request("POST", "/", "http", {}, {}, body, 0, lenient=False), 100)
    assert fault(body).reason == "non_finite_number"


# Bad events and bodies


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"specversion": "2.0"}, "unknown_type"),
        ({"specversion": None}, "unknown_type"),
        ({"specversion": 1.0}, "unknown_type"),
        ({"id": None}, "invalid_id"),
        ({"id": ""}, "invalid_id"),
        ({"id": True}, "invalid_id"),
        ({"id": 10**30}, "invalid_id"),
        ({"source": ""}, "invalid_id"),
        ({"source": {}}, "invalid_id"),
        ({"type": None}, "missing_event_name"),
        ({"type": ""}, "missing_event_name"),
        ({"data_base64": "!"}, "invalid_properties"),
        ({"data_base64": {}}, "invalid_properties"),
        ({"data_base64": "é"}, "invalid_properties"),
    ],
)
def test_an_event_without_what_it_needs_is_set_aside(change: dict[str, Any], reason: str) -> None:
    sent = {**REQUIRED, **change}
    found = fault(sent)
    assert found.reason == reason
    assert reason in REASONS
    assert json.loads(found.raw) == sent


def test_a_binary_event_without_what_it_needs_is_set_aside_with_its_data() -> None:
    found = fault(b"text", "text/plain", {"ce-id": "1"})
    assert found.reason == "unknown_type"
    assert json.loads(found.raw) == {"id": "1", "datacontenttype": "text/plain", "data": "text"}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":[{"a":NaN}]}'),
        ({}, b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":NaN}}'),
        (HEADERS, b'[{"a":NaN}]'),
        (HEADERS, b'{"a":[{"b":NaN}]}'),
    ],
)
def test_a_fault_deep_in_one_event_is_that_events(headers: dict[str, str], body: bytes) -> None:
    found = fault(body, None, headers)
    assert found.reason == "non_finite_number"
    if headers:
        assert json.loads(found.raw) == {**REQUIRED, "data": body.decode()}
    else:
        assert found.raw == body


@pytest.mark.parametrize(
    ("content_type", "headers", "body", "status", "reason"),
    [
        (ONE, {}, b"", 400, "empty_body"),
        (ONE, {}, b"{", 400, "malformed_json"),
        (ONE, {}, b"5", 400, "not_an_object"),
        (MANY, {}, b'"x"', 400, "not_an_object"),
        ("application/json", HEADERS, b"{", 400, "malformed_json"),
        (MANY, {}, b"[" + b"{}," * 100 + b"{}]", 413, "too_many_events"),
        ("application/cloudevents+avro", {}, b"", 415, "unknown_format"),
        ("application/cloudevents+xml", HEADERS, b"", 415, "unknown_format"),
    ],
)
def test_bodies_of_another_shape_are_refused(
    content_type: str, headers: dict[str, str], body: bytes, status: int, reason: str
) -> None:
    with pytest.raises(BodyError) as caught:
        decode(body, content_type, headers)
    assert (caught.value.status, caught.value.reason) == (status, reason)


def judge(headers: dict[str, str], body: bytes) -> None:
    """Decode and judge every event; whatever is wrong must have a name."""
    try:
        decoded = DECODER.decode(Request("POST", "/", "http", {}, headers, body, NOW_US, lenient=False), 100)
    except NotPlainError:
        try:
            decoded = DECODER.decode(Request("POST", "/", "http", {}, headers, body, NOW_US), 100)
        except BodyError:
            return
    except BodyError:
        return
    normaliser = Normaliser(EventLimits(262_144, 1000, 64), lambda: None)
    origin = Origin(7, OPEN, NOW_US, DECODER.name, DECODER.volatile_keys)
    for raw in decoded.events:
        try:
            normaliser.row(raw, origin)
        except PoisonError as error:
            assert error.reason in REASONS


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=3) | EVENTS, st.sampled_from([ONE, MANY, "", "text/plain"]))
def test_no_json_causes_another_error(sent: Any, content_type: str) -> None:
    judge({"content-type": content_type}, json.dumps(sent).encode())


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["ce-id", "ce-source", "ce-type", "ce-specversion", "ce-time", "ce-subject", "ce-x", "ce-"]),
        st.text(st.characters(max_codepoint=255)),
    ),
    st.text(st.characters(max_codepoint=255)),
    st.binary(max_size=50) | st.builds(lambda data: json.dumps(data).encode(), DATA),
)
def test_no_headers_and_bytes_cause_another_error(headers: dict[str, str], content_type: str, body: bytes) -> None:
    judge({**headers, "content-type": content_type}, body)
    judge({**HEADERS, **headers}, body)


# Answers


def test_answers_are_the_familys() -> None:
    asked = Request("POST", "/v1/cloudevents", "http", {}, {}, b"", 0)
    assert DECODER.success(asked, Decoded([]), []).body == b'{"success":true}'
    told = json.loads(DECODER.success(asked, Decoded([]), [Rejection(3, "too_deep", "why")]).body)
    assert told == {"success": True, "rejected": [{"index": 3, "reason": "too_deep", "detail": "why"}]}
    refused = DECODER.failure(asked, Refusal(429, "quota", "later", 2))
    assert (refused.status, refused.headers) == (429, ((b"retry-after", b"2"),))
    assert json.loads(refused.body)["code"] == 429
