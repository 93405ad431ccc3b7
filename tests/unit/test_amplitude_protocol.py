"""Amplitude's bodies, the kinds of its events, and the answers that make its SDKs stop or wait."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PoisonError
from headrace.shards.policy import OPEN
from producers.gateway.answers import Refusal, Rejection
from producers.gateway.json_body import BodyError, NotPlainError, Unusable, mentioned_keys
from producers.gateway.normalise import REASONS, EventLimits, Normaliser, Origin
from producers.gateway.protocols.amplitude import BATCH, THROTTLED_MAX, routes
from producers.gateway.protocols.amplitude_event import to_event
from producers.gateway.protocols.amplitude_form import FORM_BYTES_MAX
from producers.gateway.protocols.decoder import Decoded, Decoder, RawEvent, Request, RouteTable
from producers.gateway.value import currency, value_e6

TABLE = RouteTable(routes())
FORM = "application/x-www-form-urlencoded"
NOW_US = 1_795_489_036_055_000
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
KEYS = st.sampled_from(
    [
        "event_type",
        "user_id",
        "device_id",
        "time",
        "insert_id",
        "session_id",
        "event_properties",
        "user_properties",
        "groups",
        "group_properties",
        "price",
        "quantity",
        "revenue",
        "currency",
        "ip",
        "library",
        "platform",
        "os_name",
        "country",
        "timestamp",
        "uuid",
        "group_type",
    ]
)
EVENTS = st.dictionaries(KEYS, JSON_VALUES) | JSON_VALUES


def decoder_of(path: str) -> Decoder:
    found = TABLE.find(path)
    assert found is not None and found[0].decoder is not None
    return found[0].decoder


def request(path: str, body: bytes, *, lenient: bool = True) -> Request:
    return Request("POST", path, "http", {}, {}, body, NOW_US, lenient=lenient)


def decode(body: Any, path: str = "/2/httpapi") -> Decoded:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decoder_of(path).decode(request(path, content), 100)


def event(**fields: Any) -> RawEvent:
    return to_event({"event_type": "e", "user_id": "u", **fields}, None)


def only(decoded: Decoded) -> RawEvent:
    (found,) = decoded.events
    assert isinstance(found, RawEvent)
    return found


def failure(refusal: Refusal, body: bytes = b"", decoder: Decoder = BATCH) -> tuple[int, dict[str, Any]]:
    answer = decoder.failure(request("/2/httpapi", body), refusal)
    told: dict[str, Any] = json.loads(answer.body)
    return answer.status, told


# Kinds of events


def test_identify_has_the_users_properties_and_their_group() -> None:
    found = event(
        event_type="$identify", user_properties={"$set": {"org": "g"}}, groups={"org": "g"}, event_properties={"a": 1}
    )
    assert (found.type, found.name, found.group_id) == ("identify", "$identify", "g")
    assert found.properties == {"$set": {"org": "g"}}
    assert found.context == {"groups": {"org": "g"}, "event_properties": {"a": 1}}


def test_groupidentify_has_the_groups_properties() -> None:
    found = event(event_type="$groupidentify", groups={"org": "g"}, group_properties={"$set": {"a": 1}})
    assert (found.type, found.name, found.group_id, found.properties) == (
        "group", "$groupidentify", "g", {"$set": {"a": 1}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "group_id"),
    [
        (None, None),
        ({}, None),
        ({"a": "x"}, "x"),
        ({"a": 5}, 5),
        ({"a": ["x"]}, "x"),
        ({"a": ["x", "y"]}, None),
        ({"a": "x", "b": "y"}, None),
        ({"a": []}, None),
        ({"a": True}, None),
        ({"a": {}}, None),
        (["a"], None),
    ],
)
def test_one_group_is_the_events_and_many_are_in_its_context(groups: Any, group_id: Any) -> None:
    found = event(groups=groups)
    assert found.group_id == group_id
    assert found.context == ({} if groups is None else {"groups": groups})


def test_page_views_tell_their_page_and_campaign() -> None:
    properties = {
        "[Amplitude] Page Location": "https://a.example/p?q=1",
        "[Amplitude] Page Path": "/p",
        "[Amplitude] Page Title": "t",
        "[Amplitude] Page URL": "https://a.example/p",
        "referrer": "https://r.example/",
        "utm_source": "s",
        "utm_campaign": "c",
    }
    found = event(event_type="[Amplitude] Page Viewed", event_properties=properties)
    assert (found.type, found.name, found.properties) == ("page", "[Amplitude] Page Viewed", properties)
    assert found.context == {
        "page": {"url": "https://a.example/p?q=1", "path": "/p", "title": "t", "referrer": "https://r.example/"},
        "campaign": {"source": "s", "name": "c"},
    }


def test_clicks_tell_their_page_and_screens_their_name() -> None:
    click = event(event_properties={"[Amplitude] Page URL": "https://a.example/p"})
    assert (click.type, click.context) == ("track", {"page": {"url": "https://a.example/p"}})
    screen = event(event_type="[Amplitude] Screen Viewed", event_properties={"[Amplitude] Screen Name": "Home"})
    assert (screen.type, screen.context) == ("screen", {"page": {"path": "Home"}})


def test_the_device_is_told_in_the_contexts_words_and_nothing_is_dropped() -> None:
    found = event(
        platform="iOS", os_name="ios", os_version="18", device_model="iPhone", device_type="phone", country="Italy",
        language="it", library={"name": "l", "version": "1"}, ip="192.0.2.1", app_version="3", carrier="c",
        user_agent="ua", event_id=4, plan={"branch": "b"}, idfa=None, user_properties={"a": 1}, unknown=[1],
    )  # fmt: skip
    assert found.context == {
        "platform": "iOS", "os": {"name": "ios", "version": "18"}, "device": {"model": "iPhone", "type": "phone"},
        "location": {"country": "Italy"}, "locale": "it", "library": {"name": "l", "version": "1"}, "ip": "192.0.2.1",
        "app": {"version": "3"}, "network": {"carrier": "c"}, "userAgent": "ua", "event_id": 4,
        "plan": {"branch": "b"}, "user_properties": {"a": 1}, "unknown": [1],
    }  # fmt: skip


def test_on_the_web_what_they_call_the_system_is_the_browser() -> None:
    found = event(platform="Web", os_name="Chrome", os_version="140", ip="$remote", library="amplitude-ts/2.1")
    assert found.context == {
        "platform": "Web", "browser": {"name": "Chrome", "version": "140"},
        "library": {"name": "amplitude-ts", "version": "2.1"},
    }  # fmt: skip


def test_ids_and_times_are_the_events_own() -> None:
    body = {"client_upload_time": "s", "events": [{"device_id": "d", "insert_id": "i", "time": 5, "session_id": 9}]}
    found = only(decode(body))
    assert (found.anonymous_id, found.message_id, found.timestamp, found.session_id, found.sent_at) == (
        "d", "i", 5, 9, "s",
    )  # fmt: skip
    assert event(session_id=-1).session_id is None


@pytest.mark.parametrize(
    ("fields", "properties", "value"),
    [
        ({}, {"price": 5, "$dollar": 1}, None),
        ({"revenue": 2.5}, {}, 2_500_000),
        ({"price": 9.99, "quantity": 3}, {}, 29_970_000),
        ({"price": 9.99}, {}, 9_990_000),
        ({"price": 2, "quantity": 3, "revenue": 7}, {}, 6_000_000),
        ({"revenue": 2}, {"revenue": 3}, 3_000_000),
        ({}, {"$revenue": 25, "$price": 0, "$quantity": 1}, 25_000_000),
        ({}, {"$price": 1.1, "$quantity": 3}, 3_300_000),
        ({}, {"$price": "x"}, None),
        ({}, {"$price": True}, None),
        ({"price": 10**30, "quantity": 2}, {}, None),
    ],
)
def test_revenue_is_found_and_properties_stay(fields: Any, properties: Any, value: int | None) -> None:
    found = event(event_properties=properties, **fields)
    assert value_e6(found.properties) == value
    assert properties.items() <= found.properties.items()


def test_a_currency_is_the_properties_own_or_the_revenues() -> None:
    assert currency(event(event_properties={"$revenue": 1, "$currency": "eur"}).properties) == "EUR"
    assert currency(event(revenue=1, currency="usd").properties) == "USD"


# Forms


def form(**fields: Any) -> bytes:
    return urlencode(
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    ).encode()


def test_amplitude_js_sends_a_form() -> None:
    sent = {"event_type": "a b+c & é", "user_id": "u", "timestamp": 5, "uuid": "i", "event_properties": {"a": "%"}}
    decoded = decode(form(client="wk", e=[sent], v="2", upload_time=1_795_489_036_000, checksum="x"), "/httpapi")
    found = only(decoded)
    assert decoded.write_keys == ["wk"]
    assert (found.name, found.timestamp, found.message_id, found.sent_at) == ("a b+c & é", 5, "i", 1_795_489_036_000)
    assert (found.properties, found.context) == ({"a": "%"}, {})


def test_the_old_api_takes_one_event_or_many_and_json() -> None:
    assert only(decode(form(api_key="wk", event={"event_type": "e"}), "/httpapi")).name == "e"
    assert len(decode(form(api_key="wk", event=[{}, {}]), "/httpapi").events) == 2
    assert only(decode({"api_key": "wk", "events": [{"event_type": "e"}]}, "/httpapi")).name == "e"


def test_identifications_are_identify_and_group() -> None:
    user = only(decode(form(api_key="wk", identification={"user_id": "u", "user_properties": {"a": 1}}), "/identify"))
    assert (user.type, user.user_id, user.properties) == ("identify", "u", {"a": 1})
    sent = [{"group_type": "org", "group_value": "g", "group_properties": {"a": 1}}]
    group = only(decode(form(api_key="wk", identification=sent), "/groupidentify"))
    assert (group.type, group.group_id, group.properties) == ("group", "g", {"a": 1})
    assert group.context == {"groups": {"org": "g"}}


def test_a_form_that_needs_the_slow_way_names_its_key() -> None:
    body = form(client="wk", e='[{"event_type":"e","event_properties":{"a":NaN}},{"event_type":"f"}]')
    with pytest.raises(NotPlainError) as caught:
        decoder_of("/httpapi").decode(request("/httpapi", body, lenient=False), 100)
    assert mentioned_keys(caught.value.body) == ["wk"]
    bad, good = decode(body, "/httpapi").events
    assert isinstance(bad, Unusable) and bad.reason == "non_finite_number"
    assert isinstance(good, RawEvent) and good.name == "f"


def test_a_fault_in_a_list_of_an_event_that_is_alone_is_that_events() -> None:
    sent = b'{"event_type":"e","x":[{"a":NaN}]}'
    (bad,) = decode(form(api_key="wk", event=sent.decode()), "/httpapi").events
    assert isinstance(bad, Unusable)
    assert (bad.reason, bad.raw) == ("non_finite_number", sent)


# Bad bodies


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/2/httpapi", b"", "empty_body"),
        ("/2/httpapi", b"{", "malformed_json"),
        ("/2/httpapi", b'{"a":NaN}', "non_finite_number"),
        ("/2/httpapi", {"batch": []}, "events_missing"),
        ("/2/httpapi", {"events": {}}, "events_missing"),
        ("/2/httpapi", [], "events_missing"),
        ("/2/httpapi", {"events": [{}] * 101}, "too_many_events"),
        ("/httpapi", b"", "events_missing"),
        ("/httpapi", b"api_key=a&e=", "events_missing"),
        ("/httpapi", b"api_key=a&e=%7B", "malformed_json"),
        ("/httpapi", b"api_key=a&e=5", "not_an_object"),
        ("/httpapi", b"api_key=a&e=%5B" + b"1," * 100 + b"1%5D", "too_many_events"),
        ("/httpapi", b"e=" + b"1" * FORM_BYTES_MAX, "body_too_large"),
    ],
)
def test_bodies_of_another_shape_are_refused(path: str, body: Any, reason: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode(body, path)
    assert caught.value.reason == reason


def test_what_is_no_event_is_set_aside_alone() -> None:
    bad, good, worse = decode(b'{"events":["x",{"event_type":"e"},{"a":[NaN]}]}').events
    assert isinstance(bad, Unusable) and (bad.reason, bad.raw) == ("not_an_object", b'"x"')
    assert isinstance(good, RawEvent)
    assert isinstance(worse, Unusable) and worse.reason == "non_finite_number"


def judge(path: str, body: bytes) -> None:
    """Decode and judge every event; whatever is wrong must have a name."""
    try:
        decoded = decoder_of(path).decode(request(path, body, lenient=False), 100)
    except NotPlainError:
        try:
            decoded = decoder_of(path).decode(request(path, body), 100)
        except BodyError:
            return
    except BodyError:
        return
    normaliser = Normaliser(EventLimits(262_144, 1000, 64), lambda: None)
    origin = Origin(7, OPEN, NOW_US, "amplitude", frozenset())
    for raw in decoded.events:
        try:
            normaliser.row(raw, origin)
        except PoisonError as error:
            assert error.reason in REASONS


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=4), JSON_VALUES, st.sampled_from(["/2/httpapi", "/httpapi"]))
def test_no_body_causes_another_error(events: list[Any], sent_at: Any, path: str) -> None:
    judge(path, json.dumps({"api_key": "k", "events": events, "client_upload_time": sent_at}).encode())


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.sampled_from(["/httpapi", "/identify", "/groupidentify"]))
def test_no_form_causes_another_error(sent: Any, path: str) -> None:
    judge(path, form(api_key="k", event=json.dumps(sent), identification=json.dumps(sent)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.sampled_from([b"", b"e=", b'{"events":[', b'{"events":[{"event_type":']))
def test_no_bytes_cause_another_error(tail: bytes, head: bytes) -> None:
    judge("/2/httpapi", head + tail)
    judge("/httpapi", head + tail)


# Answers


def test_success_tells_what_the_sdks_wait_for() -> None:
    asked = request("/2/httpapi", b"12345")
    told = json.loads(BATCH.success(asked, Decoded([Unusable("a", "", b"")] * 3), []).body)
    assert told == {
        "code": 200, "events_ingested": 3, "payload_size_bytes": 5, "server_upload_time": NOW_US // 1000,
    }  # fmt: skip
    answer = BATCH.success(asked, Decoded([Unusable("a", "", b"")] * 3), [Rejection(1, "too_deep")])
    told = json.loads(answer.body)
    assert answer.status == 200
    assert (told["code"], told["events_ingested"]) == (200, 2)
    assert told["rejected"] == [{"index": 1, "reason": "too_deep"}]


def test_old_sdks_look_for_a_word() -> None:
    decoder = decoder_of("/httpapi")
    assert decoder.success(request("/httpapi", b"e=1"), Decoded([]), []).body == b"success"
    assert json.loads(decoder.success(request("/httpapi", b"{}"), Decoded([]), []).body)["code"] == 200


@pytest.mark.parametrize(
    ("refusal", "status", "field"),
    [
        (Refusal(401, "unknown_write_key", "the write key is unknown"), 400, "api_key"),
        (Refusal(400, "malformed_json", "no JSON"), 400, "events"),
        (Refusal(415, "unknown_encoding", "what?"), 400, "events"),
        (Refusal(408, "body_timeout", "slow"), 408, None),
        (Refusal(413, "body_too_large", "large"), 413, None),
        (Refusal(500, "internal", "oh"), 500, None),
    ],
)
def test_a_refusal_is_one_that_the_sdks_understand(refusal: Refusal, status: int, field: str | None) -> None:
    got, told = failure(refusal)
    assert (got, told["code"], told.get("missing_field")) == (status, status, field)
    assert told["error"].startswith("Invalid API key: ") is (field == "api_key")
    assert told["message"] == refusal.message
    assert {"success", "status"} <= told.keys()


def test_too_many_events_wait_all_of_them() -> None:
    body = json.dumps({"events": [{"event_type": "e"}] * 3}).encode()
    status, told = failure(Refusal(429, "quota", "slower", 5), body)
    assert (status, told["code"], told["throttled_events"]) == (429, 429, [0, 1, 2])
    _, told = failure(Refusal(429, "quota", "slower", 5), b"event_type" * (THROTTLED_MAX + 1))
    assert len(told["throttled_events"]) == THROTTLED_MAX
    _, told = failure(Refusal(429, "quota", "slower", 5))
    assert len(told["throttled_events"]) == THROTTLED_MAX, "refused before the body was read"


@pytest.mark.parametrize("status", [429, 503])
def test_who_should_come_back_is_told_when(status: int) -> None:
    answer = BATCH.failure(request("/2/httpapi", b""), Refusal(status, "later", "later", 7))
    assert (answer.status, answer.headers) == (status, ((b"retry-after", b"7"),))


@pytest.mark.parametrize("path", ["/config", "/config/wk_1"])
def test_the_browser_gets_no_settings(path: str) -> None:
    found = TABLE.find(path)
    assert found is not None and found[0].fixed is not None
    answer = found[0].fixed(Request("GET", path, "http", {"config_group": "browser"}, {}, b"", 0))
    assert (answer.status, json.loads(answer.body)) == (200, {"configs": {}})
