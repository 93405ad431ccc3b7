"""What real Amplitude SDKs sent yields the canonical events that were recorded with it."""

import json
from typing import Any

import pytest

from headrace.shards.policy import OPEN
from producers.gateway.encode import encode_rows
from producers.gateway.limits import InflightBytes, Reservation, inflate
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols.amplitude import BATCH, routes
from producers.gateway.protocols.decoder import Decoded, Request, RouteTable
from schemas.codec import decode_events
from tests.unit.sdk_requests import Recorded, microseconds, recorded

LIMITS = EventLimits(event_bytes_max=262_144, properties_max=1000, depth_max=64)
REQUESTS = recorded(frozenset(("amplitude-node-httpapi",)))
TABLE = RouteTable(routes())


def decode(item: Recorded, shift_us: int = 0) -> tuple[Decoded, list[dict[str, Any]]]:
    """The request as decoded, and its stored events after a trip through Avro; received `shift_us` later."""
    found = TABLE.find(item.path)
    assert found is not None and found[0].decoder is not None
    decoder = found[0].decoder
    received_us = item.received_at_us + shift_us
    body = inflate(item.body, item.headers.get("content-encoding", ""), 10**7, Reservation(InflightBytes(10**8)))
    decoded = decoder.decode(Request("POST", item.path, "http", item.query, item.headers, body, received_us), 1000)
    normaliser = Normaliser(LIMITS, lambda: pytest.fail("no value here is out of bounds"))
    origin = Origin(7, OPEN, received_us, decoder.name, decoder.volatile_keys)
    back = decode_events(encode_rows([normaliser.row(event, origin) for event in decoded.events]))
    assert not back.poison
    stored: list[dict[str, Any]] = back.events.to_pylist()
    return decoded, stored


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
    found = TABLE.find("/2/httpapi/")
    assert found is not None and found[0].decoder is BATCH
    assert TABLE.find("/batch") is None
