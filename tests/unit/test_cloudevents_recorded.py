"""What a real CloudEvents SDK sent yields the canonical event that was recorded with it, in every mode."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from producers.gateway.protocols.cloudevents import routes
from producers.gateway.protocols.decoder import Request, RouteTable
from tests.unit.round_trip import stored
from tests.unit.sdk_requests import Recorded, microseconds, recorded

REQUESTS = recorded(frozenset(("cloudevents-python-structured",)))
HOUR_US = 3_600_000_000


def as_sent(item: Recorded) -> tuple[dict[str, str], bytes]:
    return item.headers, item.body


def as_batch(item: Recorded) -> tuple[dict[str, str], bytes]:
    return {"content-type": "application/cloudevents-batch+json; charset=UTF-8"}, b"[" + item.body + b"]"


def as_binary(item: Recorded) -> tuple[dict[str, str], bytes]:
    event = json.loads(item.body)
    data = event.pop("data")
    headers = {f"ce-{key}": quote(value, safe=":/ ") for key, value in event.items()}
    return {**headers, "content-type": "application/json"}, json.dumps(data).encode()


def without_type(item: Recorded) -> tuple[dict[str, str], bytes]:
    return {}, item.body


def received(headers: dict[str, str], body: bytes, received_us: int) -> list[dict[str, Any]]:
    """The stored events."""
    found = RouteTable(routes()).find("/v1/cloudevents/")
    assert found is not None and found[0].decoder is not None
    request = Request("POST", "/v1/cloudevents", "http", {}, headers, body, received_us)
    decoded, rows = stored(found[0].decoder, request)
    assert not decoded.write_keys
    return rows


def test_there_is_a_recording() -> None:
    assert REQUESTS


@pytest.mark.parametrize("mode", [as_sent, as_batch, as_binary, without_type])
@pytest.mark.parametrize("item", REQUESTS, ids=str)
def test_recorded_event_is_the_same_in_every_mode(item: Recorded, mode: Any) -> None:
    headers, body = mode(item)
    rows = received(headers, body, item.received_at_us + HOUR_US)
    assert len(rows) == len(item.expect) > 0
    for row, expect in zip(rows, item.expect, strict=True):
        assert row["protocol"] == expect["protocol"]
        assert row["message_id"] == expect["message_id"]
        assert row["type"] == expect["type"]
        assert row["name"] == expect["event"]
        for column in ("user_id", "anonymous_id", "group_id", "previous_id"):
            assert row[column] == expect[column], column
        assert json.loads(row["properties"]) == expect["properties"]
        assert json.loads(row["context"]) == expect["context"]
        assert row["sent_at_us"] is expect["sent_at"] is None
        assert row["timestamp_us"] == microseconds(expect["timestamp"]) == microseconds(expect["corrected"])
        assert row["original_timestamp_us"] == microseconds(expect["timestamp"])
