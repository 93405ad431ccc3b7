"""What Mixpanel's SDKs sent yields the canonical events that were recorded with it."""

import json
from typing import Any

import pytest

from headrace.shards.policy import OPEN
from producers.gateway.encode import encode_rows
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols.decoder import Decoded, Decoder, Request, RouteTable
from producers.gateway.protocols.mixpanel import TRACK, routes
from schemas.codec import decode_events
from tests.unit.sdk_requests import Recorded, microseconds, recorded

LIMITS = EventLimits(event_bytes_max=262_144, properties_max=1000, depth_max=64)
RECORDED = recorded(frozenset(("mixpanel-python-direct",)))
LATER_US = 3_600_000_000
TABLE = RouteTable(routes())


def decoder_of(path: str) -> Decoder:
    if path.rstrip("/") == "/track":
        return TRACK
    found = TABLE.find(path)
    assert found is not None
    assert found[0].decoder is not None
    return found[0].decoder


def decode(item: Recorded, shift_us: int = 0) -> tuple[Decoded, list[dict[str, Any]]]:
    """The request as decoded, and its stored events after a trip through Avro; received `shift_us` later."""
    decoder = decoder_of(item.path)
    received_us = item.received_at_us + shift_us
    request = Request(item.method, item.path, "http", item.query, item.headers, item.body, received_us, lenient=False)
    decoded = decoder.decode(request, 1000)
    origin = Origin(7, OPEN, received_us, decoder.name, decoder.volatile_keys)
    normaliser = Normaliser(LIMITS, lambda: pytest.fail("no value here is out of bounds"))
    back = decode_events(encode_rows([normaliser.row(event, origin) for event in decoded.events]))
    assert not back.poison
    stored: list[dict[str, Any]] = back.events.to_pylist()
    return decoded, stored


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
