"""What real SDKs sent yields the canonical events that were recorded with it."""

import json
from dataclasses import replace

import pytest

from tests.unit.round_trip import decode
from tests.unit.sdk_requests import Recorded, microseconds, recorded

EVENT_REQUESTS = [item for item in recorded() if item.method != "OPTIONS"]
NEXT_MINUTE_US = 61_000_000


@pytest.mark.parametrize("item", EVENT_REQUESTS, ids=str)
def test_recorded_request_yields_its_events(item: Recorded) -> None:
    decoded, stored = decode(item)
    assert len(stored) == len(item.expect) > 0
    for row, expect in zip(stored, item.expect, strict=True):
        assert row["customer_id"] == 7
        assert row["protocol"] == expect["protocol"]
        assert row["message_id"] == expect["message_id"]
        assert row["type"] == expect["type"]
        assert row["name"] == (expect["event"] or "")
        for column in ("user_id", "anonymous_id", "group_id", "previous_id"):
            assert row[column] == expect[column], column
        assert json.loads(row["properties"]) == expect["properties"]
        assert json.loads(row["context"]) == expect["context"]
        assert row["received_at_us"] == microseconds(expect["received_at"])
        assert row["sent_at_us"] // 1000 == microseconds(expect["sent_at"]) // 1000
        assert row["original_timestamp_us"] == microseconds(expect["timestamp"])
        assert row["timestamp_us"] == microseconds(expect["timestamp"])
    for key in decoded.write_keys:
        assert key == item.expect[0]["write_key"]


@pytest.mark.parametrize("item", EVENT_REQUESTS, ids=str)
def test_clocks_that_differ_by_more_than_a_minute_move_the_event(item: Recorded) -> None:
    _, stored = decode(item, NEXT_MINUTE_US)
    for row, expect in zip(stored, item.expect, strict=True):
        expected = microseconds(expect["corrected"]) + NEXT_MINUTE_US
        assert abs(row["timestamp_us"] - expected) < 1000, "the recording rounds sentAt to milliseconds"
        assert row["original_timestamp_us"] == microseconds(expect["timestamp"])


def test_a_trailing_slash_never_matters() -> None:
    item = next(item for item in EVENT_REQUESTS if item.path == "/v1/batch")
    assert decode(replace(item, path="/v1/batch/"))[1] == decode(item)[1]


def test_page_context_becomes_columns() -> None:
    item = next(item for item in EVENT_REQUESTS if item.path == "/v1/i")
    row = decode(item)[1][0]
    assert (row["path"], row["utm_source"], row["utm_campaign"]) == ("/p", "conf", "spécial")
    assert (row["browser"], row["os"], row["device"]) == ("Chromium", "Linux", "desktop")
    assert row["library"] == "analytics.js/next-1.84.3"
