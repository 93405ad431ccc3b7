"""What real PostHog SDKs sent yields the canonical events that were recorded with it."""

import json
from dataclasses import replace

import pytest

from tests.unit.round_trip import decode
from tests.unit.sdk_requests import Recorded, microseconds, recorded

DRIVERS = frozenset(("posthog-python-v0", "posthog-js"))
EVENT_REQUESTS = [item for item in recorded(DRIVERS) if item.method != "OPTIONS"]
LATER_US = 61_000_000
ROUNDED_US = 1000
"""The recording's canonical times have milliseconds."""


def near(us: int, text: str) -> bool:
    return abs(us - microseconds(text)) < ROUNDED_US


def test_every_recorded_sdk_is_here() -> None:
    assert {item.driver for item in EVENT_REQUESTS} == DRIVERS


@pytest.mark.parametrize("item", EVENT_REQUESTS, ids=str)
def test_recorded_request_yields_its_events(item: Recorded) -> None:
    decoded, stored = decode(item)
    assert decoded.write_keys == [item.expect[0]["write_key"]]
    assert len(stored) == len(item.expect) > 0
    for row, expect in zip(stored, item.expect, strict=True):
        assert row["customer_id"] == 7
        assert row["protocol"] == expect["protocol"]
        assert row["message_id"] == expect["message_id"]
        assert row["type"] == expect["type"]
        assert row["name"] == expect["event"]
        for column in ("user_id", "anonymous_id", "group_id", "previous_id"):
            assert row[column] == expect[column], column
        assert json.loads(row["properties"]) == expect["properties"]
        assert row["received_at_us"] == microseconds(expect["received_at"])
        assert near(row["sent_at_us"], expect["sent_at"])
        assert near(row["original_timestamp_us"], expect["timestamp"])
        assert near(row["timestamp_us"], expect["corrected"])


@pytest.mark.parametrize("item", EVENT_REQUESTS, ids=str)
def test_any_difference_of_clocks_moves_the_event(item: Recorded) -> None:
    _, stored = decode(item, LATER_US)
    for row, expect in zip(stored, item.expect, strict=True):
        assert near(row["timestamp_us"] - LATER_US, expect["corrected"])
        assert near(row["original_timestamp_us"], expect["timestamp"])


@pytest.mark.parametrize("item", EVENT_REQUESTS, ids=str)
def test_a_trailing_slash_never_matters(item: Recorded) -> None:
    assert item.path.endswith("/")
    assert decode(replace(item, path=item.path.rstrip("/")))[1] == decode(item)[1]


def test_what_a_browser_tells_becomes_columns() -> None:
    (row,) = decode(next(item for item in EVENT_REQUESTS if item.driver == "posthog-js"))[1]
    assert (row["path"], row["utm_source"], row["utm_campaign"]) == ("/p", "conf", "spécial")
    assert (row["os"], row["device"], row["referrer_domain"]) == ("Linux", "desktop", None)
    assert row["library"] == "web/1.449.2"
    assert row["session_id"] == "01a20b7c-2f4e-7404-b416-8b5c67b8d446"


def test_what_identify_says_beside_its_traits_is_kept() -> None:
    (row,) = decode(next(item for item in EVENT_REQUESTS if item.driver == "posthog-js"))[1]
    context = json.loads(row["context"])
    assert context["$set_once"]["$initial_utm_source"] == "conf"
    assert context["properties"]["$insert_id"] == "xivclrebyev0owpg"


def test_a_servers_own_system_is_nobodys_device() -> None:
    _, stored = decode(next(item for item in EVENT_REQUESTS if item.driver == "posthog-python-v0"))
    assert {row["os"] for row in stored} == {None}
    assert {row["library"] for row in stored} == {"posthog-python/7.91.1"}
    assert [row["path"] for row in stored if row["type"] == "screen"] == ["Page 5 é"]
    assert [row["path"] for row in stored if row["type"] == "page"] == ["/Page 3 é"]
