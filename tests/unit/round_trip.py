"""A request through its decoder, the normaliser and Avro: what a gateway would store of it."""

from typing import Any

import pytest

from headrace.shards.policy import OPEN
from producers.gateway.encode import encode_rows
from producers.gateway.limits import InflightBytes, Reservation, inflate
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols import routes
from producers.gateway.protocols.decoder import Decoded, Decoder, Request
from schemas.codec import decode_events
from tests.unit.sdk_requests import Recorded

CUSTOMER_ID = 7
LIMITS = EventLimits(event_bytes_max=262_144, properties_max=1000, depth_max=64)
TABLE = routes()


def stored(decoder: Decoder, request: Request) -> tuple[Decoded, list[dict[str, Any]]]:
    """The request as decoded, and its stored events. All of them must be good."""
    decoded = decoder.decode(request, 1000)
    origin = Origin(CUSTOMER_ID, OPEN, request.received_at_us, decoder.name, decoder.volatile_keys)
    normaliser = Normaliser(LIMITS, lambda: pytest.fail("no value here is out of bounds"))
    back = decode_events(encode_rows([normaliser.row(event, origin) for event in decoded.events]))
    assert not back.poison
    rows: list[dict[str, Any]] = back.events.to_pylist()
    return decoded, rows


def decoder_of(path: str) -> Decoder:
    """The decoder of a path; of a shared one, that which answers before the body is read."""
    found = TABLE.find(path)
    assert found is not None
    assert found[0].decoder is not None
    return found[0].decoder


def decode(item: Recorded, shift_us: int = 0) -> tuple[Decoded, list[dict[str, Any]]]:
    """The same of a recorded request, received `shift_us` later, by the route that the gateway finds for it."""
    found = TABLE.find(item.path)
    assert found is not None and found[0].decoder is not None
    body = inflate(item.body, item.headers.get("content-encoding", ""), 10**7, Reservation(InflightBytes(10**8)))
    received_us = item.received_at_us + shift_us
    request = Request(item.method, item.path, "http", item.query, item.headers, body, received_us, lenient=False)
    return stored(found[0].choose(request) if found[0].choose else found[0].decoder, request)
