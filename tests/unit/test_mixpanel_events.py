"""What becomes of the fields of Mixpanel's events and profile updates."""

import json
from typing import Any

import pytest

from headrace.errors import PoisonError
from headrace.shards.policy import OPEN, Policy
from producers.gateway.json_body import Unusable
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols.decoder import RawEvent
from producers.gateway.timestamps import as_sent_us
from schemas.codec import event_arrow
from tests.unit.test_mixpanel_bodies import decode

NORMALISER = Normaliser(EventLimits(event_bytes_max=262_144, properties_max=1000, depth_max=64), lambda: None)
RECEIVED_US = 1_800_000_000_000_000


def all_of(*messages: Any, path: str = "/track", **query: str) -> list[RawEvent | Unusable]:
    body: Any = list(messages)
    return list(decode(json.dumps(body).encode(), path, query=query).events)


def one(message: dict[str, Any], path: str = "/track") -> RawEvent:
    (event,) = decode(json.dumps(message).encode(), path).events
    assert isinstance(event, RawEvent)
    return event


def tracked(name: Any = "e", /, **properties: Any) -> RawEvent:
    return one({"event": name, "properties": properties})


def row(event: RawEvent | Unusable, policy: Policy = OPEN) -> dict[str, Any]:
    values = NORMALISER.row(event, Origin(1, policy, RECEIVED_US, "mixpanel", frozenset()))
    return dict(zip(event_arrow().names, values, strict=True))


@pytest.mark.parametrize(
    ("properties", "user", "device"),
    [
        ({"distinct_id": "u"}, "u", None),
        ({"distinct_id": "$device:d"}, None, "d"),
        ({"distinct_id": "$device:d", "$device_id": "d2"}, None, "d2"),
        ({"distinct_id": "u", "$device_id": "d"}, "u", "d"),
        ({"distinct_id": "u", "$device_id": "d", "$user_id": "u2"}, "u2", "d"),
        ({"distinct_id": "$device:d", "$user_id": "u"}, "u", "d"),
        ({"distinct_id": "d", "$device_id": "d"}, None, "d"),
        ({"distinct_id": "d", "$device_id": "d", "$user_id": "u"}, "u", "d"),
        ({"distinct_id": 7}, 7, None),
        ({"distinct_id": "", "$device_id": "", "$user_id": ""}, None, None),
        ({"distinct_id": "$device:"}, None, None),
        ({}, None, None),
    ],
)
def test_a_distinct_id_is_a_users_or_a_devices(properties: dict[str, Any], user: Any, device: Any) -> None:
    event = tracked(**properties)
    assert (event.user_id, event.anonymous_id) == (user, device)
    profile = one({"$set": {}, **{"$" + key.lstrip("$"): value for key, value in properties.items()}}, "/engage")
    assert (profile.user_id, profile.anonymous_id) == (user, device)


@pytest.mark.parametrize(
    ("time", "expected_us"),
    [
        (1709164835.332, 1_709_164_835_332_000),
        (1709164835, 1_709_164_835_000_000),
        (1709164835332, 1_709_164_835_332_000),
        ("1709164835", 1_709_164_835_000_000),
        (" 1709164835.5 ", 1_709_164_835_500_000),
        ("2024-02-29T00:00:35", 1_709_164_835_000_000),
        (None, RECEIVED_US),
        ("", RECEIVED_US),
    ],
)
def test_times_are_seconds_or_milliseconds_and_are_believed(time: Any, expected_us: int) -> None:
    assert row(tracked(time=time))["timestamp_us"] == expected_us
    assert tracked().time_rule is one({"$set": {}}, "/engage").time_rule is as_sent_us


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("soon", "timestamp_invalid"),
        ("١٧٠٩١٦٤٨٣٥", "timestamp_invalid"),
        ([1], "timestamp_invalid"),
        (True, "timestamp_invalid"),
        (5, "timestamp_out_of_range"),
        ("9" * 16, "timestamp_out_of_range"),
    ],
)
def test_other_times_are_refused_by_name(time: Any, reason: str) -> None:
    with pytest.raises(PoisonError) as caught:
        row(tracked(time=time))
    assert caught.value.reason == reason


def test_an_events_id_is_its_insert_id_else_its_content_if_it_has_a_time() -> None:
    timed = {"distinct_id": "u", "time": 1709164835}
    assert row(tracked(**timed, **{"$insert_id": "i"}))["message_id"] == "i"
    first = row(tracked(**timed))["message_id"]
    assert first.startswith("content-")
    assert row(tracked(**timed))["message_id"] == first
    for other in ({**timed, "distinct_id": "v"}, {**timed, "time": 1709164836}, {**timed, "x": 1}):
        assert row(tracked(**other))["message_id"] != first
    assert row(tracked(distinct_id="u"))["message_id"] != row(tracked(distinct_id="u"))["message_id"]


def test_page_views_are_pages() -> None:
    event = tracked(
        "$mp_web_page_view",
        current_page_title="Tïtle", current_url_path="/p", current_url_search="?utm_medium=mail", mp_lib="web",
        utm_source="nl", utm_campaign="spring", mp_country_code="CH", ip="203.0.113.9",
        **{"$current_url": "https://ex.com/p?utm_medium=mail", "$referrer": "https://ref.example/a", "$os": "Linux",
           "$browser": "Chrome", "$lib_version": "2.83.0", "$model": "M"},
    )  # fmt: skip
    stored = row(event)
    assert (stored["type"], stored["name"]) == ("page", "$mp_web_page_view")
    assert (stored["path"], stored["referrer_domain"]) == ("/p", "ref.example")
    assert (stored["utm_source"], stored["utm_campaign"], stored["country"]) == ("nl", "spring", "CH")
    assert (stored["browser"], stored["os"], stored["library"]) == ("Chrome", "Linux", "web/2.83.0")
    context = json.loads(stored["context"])
    assert context["page"]["title"] == "Tïtle"
    assert context["ip"] == "203.0.113.9"
    assert json.loads(stored["properties"]) == event.properties
    assert "ip" not in json.loads(row(event, Policy(address="drop"))["context"])


def test_reserved_properties_of_another_type_are_no_context() -> None:
    odd = {"$current_url": 5, "$os": ["x"], "utm_source": None, "mp_lib": {}, "$browser": 7, "ip": 9, "$model": ""}
    assert tracked(**odd).context == {}
    assert tracked().context == {}


def test_identify_names_who_the_user_was() -> None:
    event = tracked("$identify", distinct_id="u", **{"$anon_distinct_id": "$device:d"})
    assert (event.type, event.user_id, event.anonymous_id, event.previous_id) == ("identify", "u", "d", "d")
    event = tracked("$identify", distinct_id="u", **{"$anon_distinct_id": "v", "$device_id": "d"})
    assert (event.type, event.user_id, event.anonymous_id, event.previous_id) == ("identify", "u", "d", "v")
    event = tracked("$identify", **{"$identified_id": "u", "$anon_id": "v"})
    assert (event.user_id, event.anonymous_id, event.previous_id) == ("u", None, "v")


def test_aliases_and_merges() -> None:
    event = tracked("$create_alias", distinct_id="old", alias="new")
    assert (event.type, event.user_id, event.previous_id, event.name) == ("alias", "new", "old", "$create_alias")
    event = tracked("$create_alias", distinct_id="$device:d", alias="new")
    assert (event.user_id, event.anonymous_id, event.previous_id) == ("new", "d", "d")
    event = tracked("$merge", **{"$distinct_ids": ["a", "$device:b"]})
    assert (event.type, event.user_id, event.previous_id) == ("alias", "a", "b")
    event = tracked("$merge", **{"$distinct_ids": ["a"]})
    assert (event.type, event.user_id, event.previous_id) == ("alias", None, None)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"event": "e", "properties": [1]}, "invalid_properties"),
        ({"event": "e", "properties": "x"}, "invalid_properties"),
        ({"properties": {}}, "missing_event_name"),
        ({"event": "", "properties": {}}, "missing_event_name"),
        ({"event": ["e"], "properties": {}}, "missing_event_name"),
        ({"event": "e", "properties": {"distinct_id": {}}}, "invalid_id"),
        ({"event": "e", "properties": {"$insert_id": [1]}}, "invalid_id"),
    ],
)
def test_events_of_another_shape_are_refused_by_name(message: dict[str, Any], reason: str) -> None:
    with pytest.raises(PoisonError) as caught:
        row(one(message))
    assert caught.value.reason == reason


def test_an_event_without_properties_is_one() -> None:
    assert row(one({"event": "e"}))["properties"] == "{}"


def test_fields_beside_the_properties_are_kept() -> None:
    assert one({"event": "e", "properties": {}, "meta": 1}).context == {"mixpanel": {"meta": 1}}
    assert one({"event": "e", "meta": 1}).context == {"mixpanel": {"meta": 1}}


@pytest.mark.parametrize(
    ("operations", "name", "properties"),
    [
        ({"$set": {"a": 1}}, "$set", {"a": 1}),
        ({"$set_once": {"a": 1}}, "$set_once", {"a": 1}),
        ({"$add": {"a": -1}}, "$add", {"a": -1}),
        ({"$append": {"a": {"b": 1}}}, "$append", {"a": {"b": 1}}),
        ({"$union": {"a": [1]}}, "$union", {"a": [1]}),
        ({"$remove": {"a": "x"}}, "$remove", {"a": "x"}),
        ({"$unset": ["a", "b"]}, "$unset", {"$unset": ["a", "b"]}),
        ({"$delete": ""}, "$delete", {"$delete": ""}),
        ({"$add": {"n": 1}, "$set": {"a": 1}}, "$set,$add", {"$set": {"a": 1}, "$add": {"n": 1}}),
        ({"$set": {}, "$unset": ["b"]}, "$set,$unset", {"$set": {}, "$unset": ["b"]}),
    ],
)
def test_operations_on_profiles(operations: dict[str, Any], name: str, properties: dict[str, Any]) -> None:
    message = {"$token": "wk", "$distinct_id": "u", "$ip": "203.0.113.9", "$ignore_time": True, **operations}
    stored = row(one(message, "/engage"))
    assert (stored["type"], stored["name"], stored["user_id"], stored["group_id"]) == ("profile", name, "u", None)
    assert json.loads(stored["properties"]) == properties
    assert json.loads(stored["context"]) == {"ip": "203.0.113.9", "mixpanel": {"$ignore_time": True}}
    message = {"$token": "wk", "$group_key": "company", "$group_id": "g", **operations}
    stored = row(one(message, "/groups"))
    assert (stored["type"], stored["name"]) == ("group_profile", name)
    assert (stored["user_id"], stored["group_id"]) == (None, "g")
    assert json.loads(stored["properties"]) == properties
    assert json.loads(stored["context"]) == {"mixpanel": {"$group_key": "company"}}


def test_a_profiles_time_is_no_events_time() -> None:
    stored = row(one({"$distinct_id": "u", "$time": 1709164835, "$set": {}}, "/engage"))
    assert stored["timestamp_us"] == RECEIVED_US
    assert stored["original_timestamp_us"] is None


def test_an_update_without_an_operation_is_refused_by_name() -> None:
    (event,) = all_of({"$token": "wk", "$distinct_id": "u"}, path="/engage")
    assert isinstance(event, Unusable)
    assert (event.reason, json.loads(event.raw)) == ("missing_event_name", {"$token": "wk", "$distinct_id": "u"})


def ids(*events: RawEvent | Unusable) -> list[str]:
    return [row(event)["message_id"] for event in events]


def test_an_update_with_its_own_time_has_the_same_id_again() -> None:
    timed = {"$distinct_id": "u", "$time": 1709164835.25, "$add": {"n": 1}}
    assert ids(one(timed, "/engage")) == ids(one(timed, "/engage"))
    assert ids(one(timed, "/engage")) != ids(one({**timed, "$time": 1709164835.26}, "/engage"))
    assert ids(one({**timed, "$insert_id": "i"}, "/engage")) == ["i"]


def test_updates_without_a_time_are_never_taken_for_one_another() -> None:
    add = {"$distinct_id": "u", "$add": {"n": 1}}
    assert len({*ids(*all_of(add, add, path="/engage")), *ids(*all_of(add, add, path="/engage"))}) == 4
    first = ids(*all_of(add, add, path="/engage", _="1709164835000"))
    assert len(set(first)) == 2
    assert ids(*all_of(add, add, path="/engage", _="1709164835000")) == first, "Chromium resent the request"
    assert not set(ids(*all_of(add, add, path="/engage", _="1709164835001"))) & set(first)
    alone = [decode(json.dumps(add).encode(), "/engage", query={"_": "1709164835000"}).events[0] for _ in range(2)]
    assert len(set(ids(*alone))) == 2, "two of them may be sent in the same millisecond"
    long = {"_": "1" * 33}
    assert ids(*all_of(add, path="/engage", **long)) != ids(*all_of(add, path="/engage", **long))


def test_what_cannot_be_written_again_is_kept_as_it_came() -> None:
    nested = b"[" * 900 + b"]" * 900
    deep = b'[{"properties":{"token":"a"}},{"properties":{"token":"b","x":%s}}]' % nested
    events = list(decode(deep).events)
    assert isinstance(events[1], Unusable)
    assert events[1].reason == "other_write_key"
    assert b"[[[[" in events[1].raw
    timed = {"$distinct_id": "u", "$time": 1, "$set": {"x": json.loads("[" * 400 + "]" * 400)}}
    with pytest.raises(PoisonError) as caught:
        row(one(timed, "/engage"))
    assert caught.value.reason == "too_deep"
