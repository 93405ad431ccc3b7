"""PostHog's paths, shapes of bodies, types, ids, times and context."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest

from headrace.shards.policy import OPEN
from producers.gateway.json_body import Unusable
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols import posthog
from producers.gateway.protocols.decoder import Decoded, Decoder, RawEvent, Request, RouteTable
from producers.gateway.protocols.posthog_events import COOKIELESS_ID, FUTURE_US_MAX, OFFSET_MS_MAX
from schemas.codec import event_arrow

TABLE = RouteTable(posthog.routes())
NOW_US = 1_795_489_015_272_123
SENT = "2026-11-24T02:56:50+00:00"
SENT_US = 1_795_489_010_000_000
SECOND_US = 1_000_000
V1 = "/i/v1/analytics/events"
NORMALISER = Normaliser(EventLimits(262_144, 1000, 64), lambda: None)
TIMESTAMP = event_arrow().get_field_index("timestamp_us")
MESSAGE_ID = event_arrow().get_field_index("message_id")
ORIGINAL = event_arrow().get_field_index("original_timestamp_us")


def decoder_of(path: str) -> Decoder:
    if path in ("/batch", "/track"):
        return posthog.BATCH if path == "/batch" else posthog.CAPTURE
    found = TABLE.find(path)
    assert found is not None and found[0].decoder is not None
    return found[0].decoder


def request(
    path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = "POST", **query: Any
) -> Request:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request(method, path, "http", query, headers or {}, content, NOW_US, {"write_key": "wk"})


def decode(path: str, body: Any = None, headers: dict[str, str] | None = None, **query: Any) -> Decoded:
    return decoder_of(path).decode(request(path, body, headers, **query), 100)


def only(decoded: Decoded) -> RawEvent:
    (event,) = decoded.events
    assert isinstance(event, RawEvent)
    return event


def one(event: dict[str, Any], **query: Any) -> RawEvent:
    """The event as a v0 batch carries it."""
    return only(decode("/batch", {"api_key": "k", "batch": [event]}, None, **query))


def unusable(decoded: Decoded) -> list[str]:
    return [event.reason for event in decoded.events if isinstance(event, Unusable)]


def row(event: RawEvent) -> tuple[Any, ...]:
    return NORMALISER.row(event, Origin(7, OPEN, NOW_US, "posthog-v0", posthog.BATCH.volatile_keys))


# Paths and shapes of bodies

EVENT = {"event": "e", "distinct_id": "u", "properties": {"a": "é+/"}}
OLD_EVENT = {"event": "e", "properties": {"a": "é+/", "token": "k", "distinct_id": "u"}}


@pytest.mark.parametrize("path", ["/e/", "/capture", "/i/v0/e/", "/batch", "/track", "/i/v0/ai/batch/"])
@pytest.mark.parametrize(
    "body",
    [
        {"api_key": "k", "batch": [EVENT]},
        {"token": "k", "batch": [EVENT]},
        {"api_key": "k", **EVENT},
        {"$token": "k", **EVENT},
        [OLD_EVENT],
        OLD_EVENT,
        [{"token": "k", **EVENT}],
        {"batch": [{"api_key": "k", **EVENT}]},
    ],
)
def test_all_shapes_are_taken_on_all_paths(path: str, body: Any) -> None:
    decoded = decode(path.rstrip("/"), body)
    event = only(decoded)
    assert (event.type, event.name, event.user_id, event.properties["a"]) == ("track", "e", "u", "é+/")
    assert decoded.write_keys == ["k"]


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


JSON_BODY = json.dumps([OLD_EVENT], ensure_ascii=False).encode()
PLUS_BODY = json.dumps([{**OLD_EVENT, "filler": "~~~???>>>"}]).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"data=" + quote(b64(JSON_BODY)).encode(),
        b"data=" + b64(PLUS_BODY),  # not escaped: a plus arrives as a space
        b"ver=1.2&data=" + quote(b64(JSON_BODY), safe="").encode() + b"&compression=base64",
        b"data=" + quote(JSON_BODY).encode(),
        b"data=" + base64.urlsafe_b64encode(PLUS_BODY).rstrip(b"="),
        b"data=" + quote(b64(gzip.compress(JSON_BODY))).encode(),
        b64(JSON_BODY),
        b64(gzip.compress(JSON_BODY)) + b"\n",
    ],
)
def test_forms_and_base64_are_undone(body: bytes) -> None:
    decoded = decode("/e", body)
    assert only(decoded).properties["a"] == "é+/"
    assert decoded.write_keys == ["k"]


def test_a_get_has_its_events_in_the_query() -> None:
    asked = request("/e", b"", method="GET", data=b64(JSON_BODY).decode())
    assert only(decoder_of("/e").decode(asked, 10)).user_id == "u"
    assert "GET" in TABLE.find("/e")[0].methods  # type: ignore[index]


def test_the_hint_at_gzip_is_no_matter_once_it_is_undone() -> None:
    assert only(decode("/e", JSON_BODY, compression="gzip-js", ver="1.100.0", ip="1")).user_id == "u"


# Write keys


def test_a_key_may_stand_in_the_query() -> None:
    assert decode("/e", [EVENT], api_key="q").write_keys == ["q"]
    assert decode("/e", {"api_key": " k\n", "batch": []}, api_key="q").write_keys == ["k"]
    assert decode("/e", [EVENT]).write_keys == []


def test_an_event_with_another_key_is_set_aside() -> None:
    decoded = decode("/e", [OLD_EVENT, {"token": "other", **EVENT}, OLD_EVENT])
    assert unusable(decoded) == ["other_write_key"]
    assert isinstance(decoded.events[1], Unusable)
    assert json.loads(decoded.events[1].raw)["token"] == "other"
    assert unusable(decode("/batch", {"api_key": "k", "batch": [{**EVENT, "api_key": "other"}]})) == [
        "other_write_key"
    ]


def test_a_property_of_that_name_is_the_users_own_where_the_body_names_the_key() -> None:
    body = {"api_key": "k", "batch": [{**EVENT, "properties": {"token": "mine"}}]}
    assert only(decode("/batch", body)).properties == {"token": "mine"}


# Types


def test_special_events_have_their_types_and_keep_their_names() -> None:
    types = {
        name: one({"event": name, "distinct_id": "u"}).type
        for name in ("$identify", "$set", "$set_once", "$groupidentify", "$create_alias", "$pageview", "$screen", "x")
    }
    assert list(types.values()) == ["identify", "identify", "identify", "group", "alias", "page", "screen", "track"]
    assert one({"event": "$set"}).name == "$set"


def test_traits_stand_beside_or_within_the_properties() -> None:
    inner = {"event": "$identify", "properties": {"$set": {"a": 1, "b": 1}, "$set_once": {"c": 1}, "$lib": "l"}}
    event = one({**inner, "$set": {"a": 2}, "$unset": ["x"]})
    assert event.properties == {"a": 2, "b": 1}
    assert event.context["$set_once"] == {"c": 1}
    assert event.context["$unset"] == ["x"]
    assert event.context["properties"] == {"$lib": "l"}
    once = one({"event": "$set_once", "$set_once": {"a": 1}, "properties": {"$lib": "l"}})
    assert once.properties == {"a": 1}
    assert "$set_once" not in once.context


def test_what_other_events_set_is_kept() -> None:
    event = one({"event": "e", "$set": {"a": 1}, "$set_once": {"b": 2}, "properties": {"$set": {"c": 3}}})
    assert event.properties == {"$set": {"c": 3}}
    assert (event.context["$set"], event.context["$set_once"]) == ({"a": 1}, {"b": 2})


def test_a_group_call() -> None:
    told = {"$group_type": "company", "$group_key": 5, "$group_set": {"n": 1}, "$lib": "l"}
    event = one({"event": "$groupidentify", "distinct_id": "u", "properties": told})
    assert (event.group_id, event.user_id, event.properties) == (5, "u", {"n": 1})
    assert event.context["properties"] == {"$group_type": "company", "$group_key": 5, "$lib": "l"}
    without_person = one({"event": "$groupidentify", "distinct_id": "$company_5", "properties": told})
    assert (without_person.user_id, without_person.anonymous_id) == (None, None)


def test_an_alias_call() -> None:
    event = one(
        {"event": "$create_alias", "distinct_id": "old", "properties": {"distinct_id": "old", "alias": "new"}}
    )
    assert (event.user_id, event.previous_id, event.anonymous_id) == ("new", "old", None)
    assert event.properties == {"distinct_id": "old", "alias": "new"}


def test_identify_names_the_user_and_who_that_was() -> None:
    told = {"$anon_distinct_id": "a", "$is_identified": False}
    event = one({"event": "$identify", "distinct_id": "u", "properties": told})
    assert (event.user_id, event.anonymous_id) == ("u", "a")


# Ids


@pytest.mark.parametrize(
    ("told", "anonymous"),
    [
        ({}, False),
        ({"$is_identified": False}, True),
        ({"$is_identified": True, "$device_id": "id"}, False),
        ({"$is_identified": True, "$process_person_profile": False}, False),
        ({"$device_id": "id"}, True),
        ({"$device_id": "other"}, False),
        ({"$process_person_profile": False}, True),
        ({"$process_person_profile": "false"}, True),
        ({"$process_person_profile": True}, False),
        ({"$process_person_profile": None}, False),
    ],
)
def test_who_is_not_identified_is_anonymous(told: dict[str, Any], anonymous: bool) -> None:
    event = one({"event": "e", "distinct_id": "id", "properties": told})
    assert (event.user_id, event.anonymous_id) == ((None, "id") if anonymous else ("id", None))


def test_the_id_is_found_where_it_may_stand() -> None:
    assert one({"event": "e", "$distinct_id": "a"}).user_id == "a"
    assert one({"event": "e", "distinct_id": "", "properties": {"distinct_id": 7}}).user_id == 7
    assert one({"event": "e", "distinct_id": " a "}).user_id == "a"
    assert one({"event": "e", "distinct_id": 0}).user_id == 0


def test_the_id_of_all_cookieless_browsers_is_nobodys() -> None:
    event = one({"event": "e", "distinct_id": COOKIELESS_ID, "properties": {"$is_identified": False}})
    assert (event.user_id, event.anonymous_id) == (None, None)


def test_message_and_session_ids() -> None:
    event = one({"event": "e", "uuid": "U", "properties": {"$insert_id": "i", "$session_id": "s"}})
    assert (event.message_id, event.session_id) == ("U", "s")
    assert one({"event": "e", "properties": {"$insert_id": "i", "$session_id": 5}}).message_id == "i"


# Time


@pytest.mark.parametrize(
    ("told", "expected_us"),
    [
        ({}, NOW_US - 10 * SECOND_US),
        ({"$ignore_sent_at": True}, SENT_US - 10 * SECOND_US),
        ({"$ignore_sent_at": "true"}, SENT_US - 10 * SECOND_US),
        ({"$ignore_sent_at": False}, NOW_US - 10 * SECOND_US),
    ],
)
def test_an_event_is_moved_by_when_it_was_sent(told: dict[str, Any], expected_us: int) -> None:
    event = {"event": "e", "timestamp": "2026-11-24T02:56:40Z", "properties": told}
    stored = row(only(decode("/e", {"api_key": "k", "sent_at": SENT, "batch": [event]})))
    assert stored[TIMESTAMP] == expected_us
    assert stored[ORIGINAL] == SENT_US - 10 * SECOND_US


def test_the_query_may_say_when_it_was_sent() -> None:
    event = only(decode("/e", [{"event": "e", "timestamp": "2026-11-24T02:56:40Z"}], _=str(SENT_US // 1000)))
    assert event.sent_at == SENT_US // 1000
    assert row(event)[TIMESTAMP] == NOW_US - 10 * SECOND_US
    for text in ("", "soon", "9" * 17, "-5", "1.5", "٣"):
        assert only(decode("/e", [EVENT], _=text)).sent_at is None


def test_a_single_event_may_say_when_it_was_sent() -> None:
    event = only(decode("/capture", {**EVENT, "timestamp": "2026-11-24T02:56:40Z", "sent_at": SENT}))
    assert row(event)[TIMESTAMP] == NOW_US - 10 * SECOND_US


def test_an_offset_counts_from_receipt() -> None:
    without = only(decode("/e", [{**EVENT, "offset": 1500}]))
    assert row(without)[TIMESTAMP] == NOW_US - 1_500_000
    with_sent = only(decode("/e", [{**EVENT, "offset": 1500}], _=str(SENT_US // 1000)))
    assert row(with_sent)[TIMESTAMP] == NOW_US - 1_500_000
    assert row(with_sent)[ORIGINAL] == SENT_US - 1_500_000
    ignoring = only(
        decode("/e", [{"event": "e", "offset": 0.5, "properties": {"$ignore_sent_at": 1}}], _="1795489010000")
    )
    assert row(ignoring)[TIMESTAMP] == NOW_US - 500
    strange: list[Any] = [True, "5", None, [], {}]
    for offset in strange:
        assert only(decode("/e", [{**EVENT, "offset": offset}])).timestamp is None
    assert unusable(decode("/e", [{**EVENT, "offset": OFFSET_MS_MAX + 1}])) == ["timestamp_out_of_range"]


def test_equal_offsets_at_different_times_are_different_events() -> None:
    moments = [str(SENT_US // 1000), str(SENT_US // 1000), str(SENT_US // 1000 + 1)]
    first, again, later = [row(only(decode("/e", [{**EVENT, "offset": 0}], _=text)))[MESSAGE_ID] for text in moments]
    assert first == again != later


@pytest.mark.parametrize("ignored", [True, False])
def test_a_time_far_ahead_becomes_that_of_receipt(ignored: bool) -> None:
    for ahead_us, expected_us in ((FUTURE_US_MAX, NOW_US + FUTURE_US_MAX), (FUTURE_US_MAX + 1000, NOW_US)):
        event = {"event": "e", "timestamp": (NOW_US + ahead_us) / 1000, "properties": {"$ignore_sent_at": ignored}}
        assert row(one(event))[TIMESTAMP] == expected_us


@pytest.mark.parametrize(("count", "attempt"), [("", 0), ("3", 4), ("x", 0), ("99999", 0), ("9" * 30, 0)])
def test_a_retry_of_a_browser_says_so(count: str, attempt: int) -> None:
    assert one(EVENT, retry_count=count).attempt == attempt


# Context


def test_an_address_goes_where_the_policy_finds_it() -> None:
    event = one({"event": "e", "properties": {"$ip": "203.0.113.9", "a": 1}})
    assert event.properties == {"a": 1}
    assert event.context["ip"] == "203.0.113.9"
    identify = one({"event": "$set", "$set": {}, "properties": {"$ip": "203.0.113.9"}})
    assert "203" not in json.dumps(identify.context.get("properties", {}))


def test_the_context_says_what_columns_are_made_of() -> None:
    told = {
        "$current_url": "https://a.example/p?q", "$pathname": "/p", "$referrer": "https://b.example/",
        "utm_medium": "mail", "$os": "iOS", "$os_version": "17", "$browser": "Safari", "$browser_version": 17,
        "$device_type": "Tablet", "$raw_user_agent": "Mozilla/5.0", "$timezone": "UTC", "$browser_language": "de",
        "$geoip_country_code": "CH", "$lib": "web", "$lib_version": "1", "utm_source": None,
    }  # fmt: skip
    context = one({"event": "e", "properties": told}).context
    assert context == {
        "page": {"url": "https://a.example/p?q", "path": "/p", "referrer": "https://b.example/"},
        "campaign": {"medium": "mail"},
        "library": {"name": "web", "version": "1"},
        "os": {"name": "iOS", "version": "17"},
        "browser": {"name": "Safari"},
        "device": {"type": "tablet"},
        "location": {"country": "CH"},
        "userAgent": "Mozilla/5.0",
        "locale": "de",
        "timezone": "UTC",
    }


def test_an_older_servers_library_stands_beside_the_properties() -> None:
    event = one({"event": "e", "library": "posthog-node", "library_version": "2.0"})
    assert event.context["library"] == {"name": "posthog-node", "version": "2.0"}
