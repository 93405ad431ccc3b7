"""The corners of Snowplow's protocol: names, times, keys, bad input, and the answers that keep trackers from
repeating what can never pass."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PoisonError
from headrace.shards.policy import OPEN
from producers.gateway.answers import Refusal, Rejection
from producers.gateway.json_body import LENIENT_BYTES_MAX, BodyError, NotPlainError, Unusable, mentioned_keys
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols import snowplow
from producers.gateway.protocols.decoder import Decoded, RawEvent, Request
from producers.gateway.protocols.snowplow_event import milliseconds, self_describing
from producers.gateway.protocols.snowplow_json import from_base64
from producers.gateway.timestamps import parse_us

POST, GET = (route.decoder for route in snowplow.routes())
assert POST is not None
assert GET is not None
DROPPED_BY_TRACKERS = (400, 401, 403, 410, 422)
NORMALISER = Normaliser(EventLimits(262_144, 1000, 64), lambda: None)


def post(body: Any, *, lenient: bool = True) -> Request:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", snowplow.POST_PATH, "http", {}, {}, content, 1_795_536_848_000_000, {}, lenient)


def get(query: dict[str, str], *, lenient: bool = True) -> Request:
    return Request("GET", snowplow.GET_PATH, "http", query, {}, b"", 1_795_536_848_000_000, {}, lenient)


def decode(*events: Any, lenient: bool = True) -> Decoded:
    assert POST is not None
    return POST.decode(post({"data": events}, lenient=lenient), 100)


def only(event: Any) -> RawEvent:
    (found,) = decode(event).events
    assert isinstance(found, RawEvent), found
    return found


def reason(event: Any) -> str:
    """Why an event is set aside, by the decoder or after it."""
    (found,) = decode(event).events
    with pytest.raises(PoisonError) as caught:
        NORMALISER.row(found, Origin(1, OPEN, 1_795_536_848_000_000, "snowplow-tp2", frozenset()))
    return caught.value.reason


def unstruct(data: Any) -> str:
    return json.dumps({"schema": "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0", "data": data})


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"schema": "iglu:com.acme/cart-open/jsonschema/1-0-0", "data": {"a": 1}}, ("track", "cart-open", {"a": 1})),
        ({"schema": "iglu:com.acme/x/jsonschema/1-0-0", "data": {"event": "e", "properties": {"a": 1}}},
         ("track", "e", {"a": 1})),
        ({"schema": "iglu:com.acme/x/jsonschema/1-0-0", "data": {"event": "e", "properties": {}, "more": 1}},
         ("track", "x", {"event": "e", "properties": {}, "more": 1})),
        ({"schema": "iglu:com.acme/x/jsonschema/1-0-0", "data": {"event": "e", "properties": 1}},
         ("track", "x", {"event": "e", "properties": 1})),
        ({"schema": "iglu:com.snowplowanalytics.mobile/screen_view/jsonschema/1-0-0",
          "data": {"name": "S", "id": "i"}},
         ("screen", "S", {"name": "S", "id": "i"})),
        ({"schema": "iglu:com.acme/x/jsonschema/1-0-0"}, ("track", "x", None)),
        ({"schema": "other", "data": {}}, ("track", None, None)),
        ({"schema": 5}, ("track", None, None)),
        (None, ("track", None, None)),
    ],
)  # fmt: skip
def test_self_describing_events_are_named(event: Any, told: tuple[str, Any, Any]) -> None:
    assert self_describing(event) == told


@pytest.mark.parametrize(
    ("sent", "us"),
    [
        ("1795489039290", 1_795_489_039_290_000),
        (1795489039290, 1_795_489_039_290_000),
        ("1795489039290.5", 1_795_489_039_290_500),
        ("1000000000", 1_000_000_000_000),  # a broken clock in January 1970, not the year 2001
        ("2026-11-24T00:00:00Z", 1_795_478_400_000_000),
    ],
)
def test_times_are_milliseconds(sent: Any, us: int) -> None:
    assert parse_us(milliseconds(sent)) == us


def test_a_true_time_needs_no_sending_time() -> None:
    assert only({"e": "se", "se_ac": "a", "ttm": "1709164835332", "dtm": "1", "stm": "2"}).sent_at is None
    event = only({"e": "se", "se_ac": "a", "dtm": "1795489039290", "stm": "1795489039000"})
    assert (event.timestamp, event.sent_at) == (1795489039290, 1795489039000)
    assert only({"e": "se", "se_ac": "a"}).timestamp is None


def test_the_first_anonymous_id_counts() -> None:
    assert only({"e": "pv", "tnuid": "t", "nuid": "n"}).anonymous_id == "n"
    assert only({"e": "pv", "tnuid": "t"}).anonymous_id == "t"
    assert only({"e": "pv", "duid": "", "nuid": "n"}).anonymous_id == "n"
    assert only({"e": "pv"}).anonymous_id is None


def test_a_page_without_url_or_title_is_a_page() -> None:
    event = only({"e": "pv"})
    assert (event.type, event.name, event.properties, event.context) == ("page", None, {}, {"contexts": None})


def test_the_first_app_id_is_the_key_and_others_are_set_aside() -> None:
    decoded = decode({"e": "pv"}, {"e": "pv", "aid": "k"}, {"e": "pv", "aid": "k"}, {"e": "pv", "aid": "j"})
    assert decoded.write_keys == ["k"]
    assert [isinstance(event, Unusable) for event in decoded.events] == [False, False, False, True]
    last = decoded.events[3]
    assert isinstance(last, Unusable)
    assert (last.reason, json.loads(last.raw)) == ("other_write_key", {"e": "pv", "aid": "j"})
    assert decode({"e": "pv", "aid": 5}).write_keys == []


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({}, "unknown_type"),
        ({"e": "xx"}, "unknown_type"),
        ({"e": ["pv"]}, "unknown_type"),
        ({"e": "identify"}, "unknown_type"),
        ({"e": "se"}, "missing_event_name"),
        ({"e": "ue"}, "missing_event_name"),
        ({"e": "ue", "ue_pr": "{}"}, "missing_event_name"),
        ({"e": "ue", "ue_pr": "{"}, "malformed_json"),
        ({"e": "ue", "ue_pr": "5"}, "not_an_object"),
        ({"e": "ue", "ue_pr": 5}, "malformed_json"),
        ({"e": "ue", "ue_px": "é"}, "malformed_json"),
        ({"e": "ue", "ue_px": "a"}, "malformed_json"),
        ({"e": "ue", "ue_px": {"a": 1}}, "malformed_json"),
        ({"e": "ue", "ue_pr": unstruct({"schema": "iglu:a/b/c", "data": [1]})}, "invalid_properties"),
        ({"e": "ue", "ue_pr": '{"data":' + "[" * 3000 + "]" * 3000 + "}"}, "too_deep"),
        ({"e": "ue", "ue_pr": '{"data":{"schema":"iglu:a/b/c","data":{"x":1e999}}}'}, "non_finite_number"),
        ({"e": "pv", "co": '{"data":[{"x":1e999}]}'}, "non_finite_number"),
        ({"e": "pv", "co": "nonsense"}, "malformed_json"),
        ({"e": "pv", "dtm": "yesterday"}, "timestamp_invalid"),
        ({"e": "pv", "dtm": "9" * 5000}, "timestamp_invalid"),
        ({"e": "pv", "dtm": "0"}, "timestamp_out_of_range"),
        ({"e": "pv", "uid": {}}, "invalid_id"),
        (5, "not_an_object"),
        (["pv"], "not_an_object"),
    ],
)
def test_bad_events_are_set_aside_by_name_alone(event: Any, why: str) -> None:
    assert reason(event) == why
    beside = decode({"e": "pv"}, event, {"e": "pv"}).events
    assert isinstance(beside[0], RawEvent)
    assert isinstance(beside[2], RawEvent)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "empty_body"),
        (b"{", "malformed_json"),
        (b"5", "data_missing"),
        ([], "data_missing"),
        ({"data": {}}, "data_missing"),
        ({"data": [{}] * 101}, "too_many_events"),
    ],
)
def test_bodies_of_another_shape_are_refused(body: Any, why: str) -> None:
    assert POST is not None
    with pytest.raises(BodyError) as caught:
        POST.decode(post(body), 100)
    assert caught.value.reason == why


LONE_SURROGATE = '{"data":{"schema":"iglu:a/b/c","data":{"x":"\\ud800"}}}'


def test_inner_json_that_is_not_plain_waits_for_the_receivers_leave() -> None:
    """As for any body; the key is still to be found in what the exception hands over."""
    assert GET is not None
    event = {"e": "ue", "ue_pr": LONE_SURROGATE, "aid": "wk"}
    with pytest.raises(NotPlainError) as by_post:
        decode(event, lenient=False)
    with pytest.raises(NotPlainError) as by_get:
        GET.decode(get(event, lenient=False), 100)
    assert mentioned_keys(by_post.value.body) == mentioned_keys(by_get.value.body) == ["wk"]
    decoded = decode(event)
    assert decoded.cleaned
    assert only(event).properties == {"x": "\ufffd"}
    assert GET.decode(get(event), 100).cleaned


def test_of_bodies_too_large_to_be_taken_apart_only_the_faulty_event_is_lost() -> None:
    events = [
        {"e": "ue", "ue_pr": LONE_SURROGATE, "aid": "wk"},
        {"e": "se", "se_ac": "a", "se_la": "x" * LENIENT_BYTES_MAX},
    ]
    faulty, well = decode(*events).events
    assert isinstance(faulty, Unusable)
    assert (faulty.reason, json.loads(faulty.raw)) == ("malformed_json", events[0])
    assert isinstance(well, RawEvent)


def test_base64_in_all_its_spellings() -> None:
    raw = b'{"a":"\xc3\xbf\xc3\xbe??>>"}'
    urlsafe, standard = base64.urlsafe_b64encode(raw).decode(), base64.b64encode(raw).decode()
    assert urlsafe != standard
    for text in (urlsafe, standard, urlsafe.rstrip("="), standard.replace("+", " ")):
        assert from_base64(text) == raw
    assert from_base64("ab*d") is None


def test_a_get_keeps_texts_fit_and_its_own_parameters_out() -> None:
    assert GET is not None
    (event,) = GET.decode(get({"e": "se", "se_ac": "a\x00", "writeKey": "w", "aid": "k"}), 100).events
    assert isinstance(event, RawEvent)
    assert (event.name, event.context) == ("a\ufffd", {"contexts": None})


def test_success_is_200_with_what_was_set_aside() -> None:
    assert POST is not None
    assert GET is not None
    rejected = [Rejection(3, "too_deep")]
    assert POST.success(post({}), Decoded([]), []).body == b'{"success":true}'
    told = json.loads(POST.success(post({}), Decoded([]), rejected).body)
    assert told == {"success": True, "rejected": [{"index": 3, "reason": "too_deep"}]}
    image = GET.success(get({}), Decoded([]), rejected)
    assert (image.status, image.content_type, image.body[:6]) == (200, b"image/gif", b"GIF89a")
    assert (b"x-headrace-rejected", b"too_deep") in image.headers
    assert (b"cache-control", b"no-store") in image.headers


@pytest.mark.parametrize("status", [400, 401, 403, 413, 415])
def test_what_can_never_pass_is_never_repeated(status: int) -> None:
    assert POST is not None
    answer = POST.failure(post({}), Refusal(status, "why", "a sentence"))
    assert answer.status == 200 or answer.status in DROPPED_BY_TRACKERS
    told = json.loads(answer.body)
    assert (told["success"], told["code"], told["error"]) == (False, status, "why")


def test_too_large_is_told_as_dropped() -> None:
    assert POST is not None
    answer = POST.failure(post({}), Refusal(413, "body_too_large", "a sentence"))
    assert (answer.status, json.loads(answer.body)["dropped"]) == (200, "all events of the request")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_later_is_repeated(status: int) -> None:
    assert POST is not None
    answer = POST.failure(post({}), Refusal(status, "why", "a sentence", 2))
    assert answer.status == status
    assert (b"retry-after", b"2") in answer.headers


def test_a_custom_path_is_not_taken_for_snowplows() -> None:
    assert [route.path for route in snowplow.routes()] == ["/com.snowplowanalytics.snowplow/tp2", "/i"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.text(max_size=60) | JSON_VALUES.map(json.dumps) | JSON_VALUES.map(unstruct)
FIELDS = st.sampled_from(
    [
        "e",
        "eid",
        "aid",
        "uid",
        "duid",
        "sid",
        "dtm",
        "ttm",
        "stm",
        "ue_pr",
        "co",
        "res",
        "tv",
        "p",
        "se_ac",
        "url",
        "x",
    ]
)
ENCODED = TEXTS.map(lambda text: base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode()) | TEXTS
EVENTS = st.builds(
    lambda fields, kind, px, cx: {**fields, "e": kind, "ue_px": px, "cx": cx},
    st.dictionaries(FIELDS, TEXTS | JSON_VALUES, max_size=8),
    st.sampled_from(["pv", "pp", "se", "ue", "tr", "ti", "zz", None]),
    ENCODED | st.just(""),
    ENCODED | st.just(""),
)


@given(st.lists(EVENTS | JSON_VALUES, max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_comes_ends_by_name(events: list[Any], lenient: bool) -> None:
    try:
        decoded = decode(*events, lenient=lenient)
    except (BodyError, NotPlainError):
        return
    assert len(decoded.events) == len(events)
    for event in decoded.events:
        try:
            NORMALISER.row(event, Origin(1, OPEN, 1_795_536_848_000_000, "snowplow-tp2", frozenset(("stm",))))
        except PoisonError:
            msgspec.json.encode(event.raw)


@given(st.dictionaries(FIELDS, TEXTS, max_size=8), st.sampled_from(["pv", "ue", "se", ""]), ENCODED)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_by_get_ends_by_name(query: dict[str, str], kind: str, encoded: str) -> None:
    assert GET is not None
    try:
        decoded = GET.decode(get({**query, "e": kind, "ue_px": encoded}), 10)
    except BodyError:
        return
    assert len(decoded.events) == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    assert POST is not None
    try:
        POST.decode(post(body), 10)
    except BodyError:
        pass
