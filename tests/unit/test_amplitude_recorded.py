"""What real Amplitude SDKs sent yields the canonical events that were recorded with it."""

import json

import pytest

from producers.gateway.protocols.amplitude import BATCH, routes
from producers.gateway.protocols.decoder import RouteTable
from tests.unit.round_trip import decode
from tests.unit.sdk_requests import Recorded, microseconds, recorded

REQUESTS = recorded(frozenset(("amplitude-node-httpapi",)))


def test_there_is_a_recording() -> None:
    assert REQUESTS


@pytest.mark.parametrize("shift_us", [0, 61_000_000])
@pytest.mark.parametrize("item", REQUESTS, ids=str)
def test_recorded_request_yields_its_events(item: Recorded, shift_us: int) -> None:
    decoded, stored = decode(item, shift_us)
    assert decoded.write_keys == [item.expect[0]["write_key"]]
    assert len(stored) == len(item.expect) > 0
    for row, expect in zip(stored, item.expect, strict=True):
        assert row["protocol"] == expect["protocol"]
        assert row["message_id"] == expect["message_id"]
        assert row["type"] == expect["type"]
        assert row["name"] == (expect["event"] or "")
        for column in ("user_id", "anonymous_id", "group_id", "previous_id"):
            assert row[column] == expect[column], column
        assert json.loads(row["properties"]) == expect["properties"]
        assert expect["context"] is None
        assert row["received_at_us"] == microseconds(expect["received_at"]) + shift_us
        assert row["sent_at_us"] == microseconds(expect["sent_at"])
        assert row["original_timestamp_us"] == microseconds(expect["timestamp"])
        assert row["timestamp_us"] == microseconds(expect["corrected"]) + shift_us, "moved without a tolerance"
        assert row["library"] == "amplitude-node-ts/1.5.73"


def test_the_shared_path_has_the_same_decoder() -> None:
    table = RouteTable(routes())
    found = table.find("/2/httpapi/")
    assert found is not None and found[0].decoder is BATCH
    assert table.find("/batch") is None
