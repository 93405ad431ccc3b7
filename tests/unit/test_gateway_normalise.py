"""Rows: bounds, ids, times, values, and the columns taken from an event's context."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PoisonError
from headrace.shards.policy import OPEN, Policy
from producers.gateway.enrich import Enriched
from producers.gateway.normalise import REASONS, EventLimits, Normaliser, Origin, Row
from producers.gateway.protocols.segment import to_event
from producers.gateway.timestamps import SKEW_TOLERANCE_US, parse_sent_us, parse_us, stored_us
from producers.gateway.value import OutOfBoundsError, value_e6
from schemas.codec import event_arrow
from schemas.event import VALUE_E6_MAX
from tests.unit.sdk_requests import microseconds

NOW_US = microseconds("2026-06-01T12:00:00+00:00")
ORIGIN = Origin(42, OPEN, NOW_US, "segment-v1", frozenset(("sentAt",)))
LIMITS = EventLimits(event_bytes_max=262_144, properties_max=1000, depth_max=64)
NAMES = event_arrow().names


def row_of(message: dict[str, Any], origin: Origin = ORIGIN, **more: Any) -> dict[str, Any]:
    dropped: list[None] = []
    normaliser = Normaliser(LIMITS, lambda: dropped.append(None), **more)
    row: Row = normaliser.row(to_event({"type": "track", "event": "e"} | message, None, None, None, 0), origin)
    return dict(zip(NAMES, row, strict=True)) | {"dropped": len(dropped)}


def reason_of(message: dict[str, Any]) -> str:
    with pytest.raises(PoisonError) as caught:
        row_of(message)
    assert caught.value.reason in REASONS
    return caught.value.reason


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"type": "tracks"}, "unknown_type"),
        ({"type": None}, "unknown_type"),
        ({"type": 5}, "unknown_type"),
        ({"event": None}, "missing_event_name"),
        ({"event": ""}, "missing_event_name"),
        ({"event": {"a": 1}}, "missing_event_name"),
        ({"userId": ["u"]}, "invalid_id"),
        ({"anonymousId": True}, "invalid_id"),
        ({"messageId": {}}, "invalid_id"),
        ({"properties": [1]}, "invalid_properties"),
        ({"properties": "x"}, "invalid_properties"),
        ({"context": 3}, "invalid_context"),
        ({"timestamp": "yesterday"}, "timestamp_invalid"),
        ({"timestamp": {}}, "timestamp_invalid"),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "timestamp_out_of_range"),
        ({"timestamp": "1999-12-31T23:59:59.999999Z"}, "timestamp_out_of_range"),
        ({"timestamp": "+275760-09-13T00:00:00.000Z"}, "timestamp_out_of_range"),
        ({"timestamp": "-271821-04-20T00:00:00.000Z"}, "timestamp_out_of_range"),
        ({"timestamp": 8.64e15}, "timestamp_out_of_range"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp_out_of_range"),
        ({"properties": {"a": deep(63)}}, "too_deep"),
        ({"context": {"a": deep(63)}}, "too_deep"),
        ({"properties": {str(i): i for i in range(1001)}}, "too_many_properties"),
        ({"properties": {"a": [{str(i): i for i in range(500)}] * 3}}, "too_many_properties"),
        ({"properties": {str(i): i for i in range(10_000)}}, "too_many_properties"),
        ({"properties": {"a": "x" * 262_144}}, "event_too_large"),
        ({"properties": {"a": "é" * 131_073}}, "event_too_large"),
        ({"userId": "u" * 262_145}, "event_too_large"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(message: dict[str, Any], reason: str) -> None:
    assert reason_of(message) == reason


@pytest.mark.parametrize(
    "message",
    [
        {"properties": {"a": deep(62)}},
        {"properties": {"a": [[] for _ in range(200)], "b": [{}, {}, []] * 30}},
        {"properties": {str(i): ":" * 3 for i in range(1000)}},
        {"properties": {"a": "x" * 262_100}},
        {"timestamp": "2000-01-01T00:00:00Z"},
        {"properties": None, "context": None, "userId": None, "messageId": None},
    ],
)
def test_what_reaches_a_bound_is_taken(message: dict[str, Any]) -> None:
    assert row_of(message)["type"] == "track"


def test_the_columns_of_a_plain_event() -> None:
    row = row_of({"userId": 7, "anonymousId": "", "properties": {"b": 1, "a": None}})
    assert (row["customer_id"], row["user_id"], row["anonymous_id"], row["attempt"]) == (42, "7", None, 0)
    assert json.loads(row["properties"]) == {"b": 1, "a": None}
    assert row["context"] == "{}"
    assert (row["timestamp_us"], row["received_at_us"], row["original_timestamp_us"]) == (NOW_US, NOW_US, None)


def test_an_event_without_an_id_keeps_one_over_retries_only_if_it_has_its_own_time() -> None:
    timed = {"timestamp": "2026-06-01T11:59:59Z", "properties": {"a": 1}}
    first, again = row_of({**timed, "sentAt": "x"}), row_of({**timed, "sentAt": "y"})
    assert first["message_id"] == again["message_id"]
    assert row_of({**timed, "userId": "u"})["message_id"] != first["message_id"]
    assert row_of({})["message_id"] != row_of({})["message_id"]


def test_an_id_of_more_than_100_characters_is_hashed_and_kept_in_the_context() -> None:
    assert row_of({"messageId": "i" * 100})["message_id"] == "i" * 100
    row = row_of({"messageId": "i" * 101, "context": {"a": 1}})
    assert row["message_id"] == row_of({"messageId": "i" * 101})["message_id"]
    assert len(row["message_id"]) <= 100
    assert json.loads(row["context"]) == {"a": 1, "original_message_id": "i" * 101}


def test_the_address_is_kept_or_dropped_as_the_customer_wants() -> None:
    message = {"context": {"ip": "203.0.113.9", "locale": "de"}}
    assert json.loads(row_of(message)["context"]) == message["context"]
    dropped = row_of(message, replace(ORIGIN, policy=Policy(address="drop")))
    assert json.loads(dropped["context"]) == {"locale": "de"}


def test_a_lookup_sees_the_address_and_fills_what_is_open() -> None:
    def lookup(enriched: Enriched, *, address: str, user_agent: str) -> Enriched:
        return enriched._replace(country=address, browser=enriched.browser or user_agent)

    origin = replace(ORIGIN, policy=Policy(address="drop"), address="198.51.100.1", user_agent="curl")
    row = row_of({"context": {"ip": "203.0.113.9"}}, origin, lookup=lookup)
    assert (row["country"], row["browser"], row["context"]) == ("203.0.113.9", "curl", "{}")
    assert row_of({}, origin, lookup=lookup)["country"] == "198.51.100.1"


# Times


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2024-02-29T00:00:35.332Z", "2024-02-29T00:00:35.332+00:00"),
        ("2024-02-29T00:00:35.332123+00:00", "2024-02-29T00:00:35.332123+00:00"),
        ("2024-02-29T02:00:35+02:00", "2024-02-29T00:00:35+00:00"),
        ("2024-02-29T00:00:35", "2024-02-29T00:00:35+00:00"),
        ("2024-02-29T00:00:35.332123456Z", "2024-02-29T00:00:35.332123+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2016-12-31T23:59:60.500Z", "2017-01-01T00:00:00.500+00:00"),
        (1_709_164_835, "2024-02-29T00:00:35+00:00"),
        (1_709_164_835_332, "2024-02-29T00:00:35.332+00:00"),
        (1_709_164_835.25, "2024-02-29T00:00:35.250+00:00"),
    ],
)
def test_times_as_senders_write_them(text: Any, same: str) -> None:
    assert parse_us(text) == microseconds(same)


def test_an_empty_time_counts_as_none() -> None:
    row = row_of({"timestamp": ""})
    assert (row["timestamp_us"], row["original_timestamp_us"]) == (NOW_US, None)
    row = row_of({"timestamp": "", "originalTimestamp": "2026-06-01T11:00:00Z"})
    assert row["timestamp_us"] == microseconds("2026-06-01T11:00:00+00:00")


def test_the_skew_rule_begins_past_a_minute() -> None:
    event_us, sent_us = NOW_US - 10_000_000, NOW_US - SKEW_TOLERANCE_US
    assert stored_us(event_us, sent_us, NOW_US) == event_us
    assert stored_us(event_us, sent_us - 1, NOW_US) == NOW_US - (sent_us - 1 - event_us)
    assert stored_us(event_us, None, NOW_US) == event_us


@pytest.mark.parametrize(
    "absurd", ["0001-01-01T00:00:00Z", "+275760-09-13T00:00:00.000Z", "soon", [], 1e300, 10**400, 10**4000, True]
)
def test_an_absurd_sending_time_corrects_nothing(absurd: Any) -> None:
    assert parse_sent_us(absurd) is None
    row = row_of({"timestamp": "2026-06-01T11:00:00Z", "sentAt": absurd})
    assert row["timestamp_us"] == microseconds("2026-06-01T11:00:00+00:00")
    assert row["sent_at_us"] is None


# Values


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"revenue": 12.5}, 12_500_000),
        ({"value": "12.50"}, 12_500_000),
        ({"total": 3}, 3_000_000),
        ({"revenue": 0.1, "value": 5}, 100_000),
        ({"revenue": "n/a", "value": 5}, 5_000_000),
        ({"revenue": None, "total": "-7"}, -7_000_000),
        ({"revenue": 159.64}, 159_640_000),
        ({"revenue": 0.0000005}, 0),
        ({"revenue": 0.0000015}, 2),
        ({"revenue": "1e-999999"}, 0),
        ({"revenue": True}, None),
        ({"revenue": "NaN"}, None),
        ({"revenue": "Infinity"}, None),
        ({"revenue": [1]}, None),
        ({"revenue": 10**9}, VALUE_E6_MAX),
        ({}, None),
    ],
)
def test_a_value_is_exact_in_millionths(properties: dict[str, Any], expected: int | None) -> None:
    assert value_e6(properties) == expected


@pytest.mark.parametrize("value", [10**9 + 1, -(10**9) - 1, 1e300, "1e999999", "-1e99999999", 10**4000])
def test_a_value_that_sums_could_not_hold_is_dropped_and_counted_and_the_event_kept(value: Any) -> None:
    with pytest.raises(OutOfBoundsError):
        value_e6({"revenue": value})
    row = row_of({"properties": {"revenue": value}}) if not isinstance(value, int) or value < 10**300 else None
    if row is not None:
        assert (row["value_e6"], row["currency"], row["dropped"]) == (None, None, 1)


@given(st.decimals(-1_000_000, 1_000_000, places=6))
@settings(deadline=None)
def test_texts_and_integers_of_millionths_agree(amount: Decimal) -> None:
    assert value_e6({"revenue": str(amount)}) == int(amount * 1_000_000)


def test_traits_have_no_value() -> None:
    assert row_of({"type": "identify", "traits": {"total": 5}})["value_e6"] is None


# Columns from the context


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"context": {"page": {"path": "/a"}}}, {"path": "/a"}),
        ({"context": {"page": {"url": "https://x.org/b?utm_source=s&utm_medium=m&utm_campaign=c%20d"}}},
         {"path": "/b", "utm_source": "s", "utm_medium": "m", "utm_campaign": "c d"}),
        ({"context": {"page": {"path": "/a", "search": "?utm_source=s"}}}, {"path": "/a", "utm_source": "s"}),
        ({"context": {"campaign": {"source": "nl", "name": "c1"}, "page": {"search": "?utm_source=s&utm_medium=m"}}},
         {"utm_source": "nl", "utm_medium": "m", "utm_campaign": "c1"}),
        ({"context": {"page": {"referrer": "https://www.Example.org/x"}}}, {"referrer_domain": "example.org"}),
        ({"context": {"page": {"referrer": "https://x.org/1", "url": "https://www.x.org/2"}}},
         {"path": "/2", "referrer_domain": None}),
        ({"context": {"page": {"url": "http://[bad", "referrer": 5}}}, {"path": None, "referrer_domain": None}),
        ({"type": "page", "name": "Home", "properties": {"path": "/p", "referrer": "http://r.io/"}},
         {"path": "/p", "referrer_domain": "r.io"}),
        ({"type": "screen", "name": "Basket"}, {"path": "Basket"}),
        ({"context": {"location": {"country": "Chile"}, "os": {"name": "iOS"}, "device": {"type": "phone"}}},
         {"country": "Chile", "os": "iOS", "device": "mobile"}),
        ({"context": {"userAgentData": {"mobile": True, "platform": "Android", "brands":
            [{"brand": "Not;A=Brand"}, {"brand": "Chromium"}, {"brand": "Google Chrome"}]}}},
         {"browser": "Chrome", "os": "Android", "device": "mobile"}),
        ({"context": {"browser": {"name": "Mobile Safari"}, "os": {"name": "iPadOS"}, "device": {"type": "Tablet"}}},
         {"browser": "Safari", "os": "iOS", "device": "tablet"}),
        ({"context": {"browser": {"name": "Mosaic"}, "os": {"name": "Mac OS X"}, "location": {"country": "cl"}}},
         {"browser": "Mosaic", "os": "macOS", "device": None, "country": "CL"}),
        ({"context": {"library": {"name": "l", "version": "1"}}}, {"library": "l/1"}),
        ({"context": {"page": [], "campaign": "x", "library": "l", "os": 1}}, {"path": None, "library": ""}),
    ],
)  # fmt: skip
def test_columns_from_the_context(message: dict[str, Any], expected: dict[str, Any]) -> None:
    row = row_of(message)
    assert {name: row[name] for name in expected} == expected


def test_dimensions_are_bounded() -> None:
    context = {"page": {"path": "/" + "é" * 3000}, "browser": {"name": "b" * 3000}, "os": {"name": "o" * 3000},
               "device": {"type": "d" * 3000}, "location": {"country": "c" * 3000}}  # fmt: skip
    row = row_of({"event": "n" * 3000, "context": context})
    for name in ("name", "path", "browser", "os", "device", "country"):
        assert 200 < len(row[name].encode()) <= 255, name
