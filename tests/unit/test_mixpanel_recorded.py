"""What Mixpanel's SDKs sent yields the canonical events that were recorded with it."""

import json

import pytest

from tests.unit.round_trip import decode
from tests.unit.sdk_requests import Recorded, microseconds, recorded

RECORDED = recorded(frozenset(("mixpanel-python-direct",)))
LATER_US = 3_600_000_000


@pytest.mark.parametrize("item", RECORDED, ids=str)
def test_recorded_request_yields_its_events(item: Recorded) -> None:
    decoded, stored = decode(item)
    assert len(stored) == len(item.expect) > 0
    for row, expect in zip(stored, item.expect, strict=True):
        assert row["customer_id"] == 7
        assert row["protocol"] == expect["protocol"] == "mixpanel"
        if expect["message_id"] is None:
            assert row["message_id"].startswith("content-")
        else:
            assert row["message_id"] == expect["message_id"]
        assert row["type"] == expect["type"]
        assert row["name"] == expect["event"]
        for column in ("user_id", "anonymous_id", "group_id", "previous_id"):
            assert row[column] == expect[column], column
        assert json.loads(row["properties"]) == expect["properties"]
        assert row["received_at_us"] == microseconds(expect["received_at"])
        assert row["sent_at_us"] is expect["sent_at"] is None
        timestamp = None if expect["timestamp"] is None else microseconds(expect["timestamp"])
        assert row["original_timestamp_us"] == timestamp
        assert row["timestamp_us"] == microseconds(expect["corrected"])
    assert decoded.write_keys == [item.expect[0]["write_key"]]
    assert not decoded.cleaned


@pytest.mark.parametrize("item", RECORDED, ids=str)
def test_a_repeated_request_has_the_same_ids_and_times(item: Recorded) -> None:
    for first, again in zip(decode(item)[1], decode(item, LATER_US)[1], strict=True):
        assert again["message_id"] == first["message_id"]
        if first["original_timestamp_us"] is not None:
            assert again["timestamp_us"] == first["timestamp_us"], "the sender's clock is believed"
