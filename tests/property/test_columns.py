"""What is stored by columns is what the general way stores of the same request, for any body; or columns decline.

The general way is the oracle. JSON columns are compared parsed (see `record_writer`), all others exactly.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings

from headrace.settings import Settings
from headrace.shards.policy import OPEN
from producers.gateway.answers import Rejection
from producers.gateway.columns import DeclinedError
from producers.gateway.devices import SenderLookup
from producers.gateway.encode import encode_rows
from producers.gateway.json_body import BodyError, NotPlainError
from producers.gateway.limits import InflightBytes, Reservation, inflate
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols import routes
from producers.gateway.protocols.decoder import Decoder, Request, Route
from producers.gateway.record_writer import RecordWriter
from producers.gateway.taken import Taken, TakenColumns
from schemas.codec import decode_events
from tests.property.segment_bodies import AROUND, HARM, HEADERS, LISTS, an_object, harmed
from tests.unit.sdk_requests import SEGMENT_DRIVERS, Recorded, recorded

NOW_US = 1_790_000_000_000_000
EVENTS_MAX = 1_000
LIMITS = EventLimits(event_bytes_max=20_000, properties_max=30, depth_max=8)
TABLE = routes()
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@dataclass
class Stored:
    """What one way made of a request."""

    rows: list[dict[str, Any]]
    rejections: list[Rejection]
    values_dropped: int


def route_of(path: str) -> tuple[Route, Decoder]:
    found = TABLE.find(path)
    assert found is not None
    assert found[0].decoder is not None
    return found[0], found[0].decoder


class Ways:
    """Both ways, with one memory over all the requests of a test. Dropped values are counted in `dropped`."""

    def __init__(self, limits: EventLimits = LIMITS) -> None:
        self.dropped = 0
        self.normaliser = Normaliser(limits, self._count, SenderLookup(Settings()))
        self.writer = RecordWriter(self.normaliser)

    def _count(self) -> None:
        self.dropped += 1

    def general(self, decoder: Decoder, request: Request, origin: Origin) -> Stored:
        self.dropped = 0
        try:
            decoded = decoder.decode(request, EVENTS_MAX)
        except NotPlainError:
            lenient = Request(
                request.method, request.path, "http", {}, request.headers, request.body, request.received_at_us
            )
            decoded = decoder.decode(lenient, EVENTS_MAX)
        taken = Taken(decoded, self.normaliser, origin, request.body)
        for index in range(len(decoded.events)):
            taken.take(index)
        return Stored(read(encode_rows(taken.rows)), taken.rejections, self.dropped)

    def columns(self, route: Route, request: Request, origin: Origin) -> Stored | None:
        self.dropped = 0
        assert route.columns is not None
        batch = route.columns(request, EVENTS_MAX)
        if batch is None:
            return None
        taken = TakenColumns(batch, self.writer, origin)
        half = len(batch) // 2 or 1
        try:
            for start in range(0, len(batch), half):
                taken.take(start, start + half)
        except DeclinedError:
            assert self.dropped == 0, "what the general way will count is not counted twice"
            return None
        return Stored(read(taken.events.values), [], taken.values_dropped)


def read(values: Any) -> list[dict[str, Any]]:
    back = decode_events(values)
    assert not back.poison
    rows: list[dict[str, Any]] = back.events.to_pylist()
    return [row | {name: repr(json.loads(row[name])) for name in ("properties", "context")} for row in rows]


def both(ways: Ways, path: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether columns were taken; asserts that they then are what the general way gives."""
    route, decoder = route_of(path)
    request = Request("POST", path, "http", {}, headers, body, NOW_US, lenient=False)
    origin = Origin(7, OPEN, NOW_US, decoder.name, decoder.volatile_keys, address="192.0.2.7", user_agent=FIREFOX)
    found = ways.columns(route, request, origin)
    if found is None:
        return False
    assert found == ways.general(decoder, request, origin)
    return True


SHARED = Ways()
MANY = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@given(LISTS, AROUND, HARM, HEADERS)
@example(['{"type":"track","event":"e","messageId":"m","properties":{"a":1e400},"properties":{}}'], [], None, {})
@MANY
def test_any_batch_is_stored_alike(
    messages: list[str], around: list[tuple[str, str]], harm: tuple[float, bytes] | None, headers: dict[str, str]
) -> None:
    body = harmed(an_object([('"batch"', "[" + ",".join(messages) + "]"), *around], ""), harm)
    try:
        taken = both(SHARED, "/v1/batch", body, headers)
    except BodyError as error:
        raise AssertionError("columns took what the general way refuses whole") from error
    event(f"by columns: {taken}")


ORDINARY = {
    "type": "track",
    "event": "order",
    "messageId": "7d5e4000-012f-5dbc-803f-1e0001e00012",
    "userId": "u",
    "anonymousId": None,
    "timestamp": "2026-11-24T00:00:35.332+00:00",
    "integrations": {},
    "properties": {"revenue": 12.5, "currency": "eur", "é": "Ünïcode ✓ 😀", "items": [{"sku": "a", "n": 1}]},
    "context": {"library": {"name": "analytics-python", "version": "2.4.0"}, "page": {"path": "/p"}},
}


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"type": "page", "name": "Home", "properties": {"url": "https://example.org/a?utm_source=x"}, "context": {}},
        {"type": "page", "name": "Home"},
        {"type": "screen", "name": "Home", "context": {}},
        {"type": "identify", "traits": {"email": "a@example.org"}},
        {"type": "identify", "context": {"traits": {"plan": "pro"}}},
        {"type": "group", "groupId": "g", "traits": {}},
        {"type": "alias", "previousId": "p"},
        {"properties": {"value": "12.5"}},
        {"properties": {"revenue": 10**12}},
        {"timestamp": None},
        {"timestamp": "2026-11-24T00:00:35"},
        {"context": {"sessionId": 17, "userAgent": FIREFOX, "ip": "192.0.2.1"}},
        {"context": {"os": {"name": "iOS"}, "device": {"type": "ios"}, "x": "y" * 3000}},
        {"userId": "u" * 5000},
    ],
)
def test_an_ordinary_request_goes_by_columns(change: dict[str, Any], ascii_only: bool) -> None:
    batch = [ORDINARY | change | {"messageId": f"7d5e4000-012f-5dbc-803f-{i:012x}"} for i in range(30)]
    body = {"batch": batch, "sentAt": "2026-11-24T00:00:36.332Z", "writeKey": "k"}
    assert both(Ways(), "/v1/batch", json.dumps(body, ensure_ascii=ascii_only).encode(), {})


@pytest.mark.parametrize(
    "change",
    [
        {"messageId": "m" * 101},
        {"messageId": ""},
        {"messageId": 5},
        {"userId": 5},
        {"event": ""},
        {"type": "tracked"},
        {"timestamp": "1999-01-01T00:00:00Z"},
        {"timestamp": 1_700_000_000},
        {"properties": []},
        {"properties": {str(i): i for i in range(31)}},
        {"properties": {"a": [[[[[[[[]]]]]]]]}},
        {"properties": {"a": "x" * 20_000}},
        {"properties": {"a": "\0"}},
        {"context": "here"},
        {"context": {"sessionId": []}},
        {"context": {"a": [[[[[[[[]]]]]]]]}},
    ],
)
def test_what_has_to_be_judged_one_by_one_is_declined(change: dict[str, Any]) -> None:
    body = {"batch": [ORDINARY, ORDINARY | change], "writeKey": "k"}
    assert not both(Ways(), "/v1/batch", json.dumps(body).encode(), {})


RECORDED = [item for item in recorded() if (found := TABLE.find(item.path)) and found[0].columns and item.body]


@pytest.mark.parametrize("item", RECORDED, ids=str)
def test_recorded_requests_of_sdks_go_by_columns(item: Recorded) -> None:
    body = inflate(item.body, item.headers.get("content-encoding", ""), 10**7, Reservation(InflightBytes(10**8)))
    assert both(Ways(EventLimits(262_144, 1000, 64)), item.path, body, item.headers)


def test_there_are_recorded_requests_of_each_kind() -> None:
    assert {item.driver for item in RECORDED} == SEGMENT_DRIVERS - {"analytics-next"}, "which sends one by one"
