"""Nothing that is sent to PostHog's paths breaks them, and one bad event spares its neighbours."""

import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PoisonError
from headrace.shards.policy import OPEN
from producers.gateway.answers import Rejection
from producers.gateway.json_body import BodyError, NotPlainError
from producers.gateway.normalise import CONTEXT, Origin
from producers.gateway.protocols import posthog
from producers.gateway.protocols.decoder import RawEvent, Request
from producers.gateway.protocols.posthog_body import FORM_BYTES_MAX, INNER_BYTES_MAX
from tests.unit.test_posthog_protocol import (
    EVENT,
    JSON_BODY,
    NORMALISER,
    NOW_US,
    V1,
    b64,
    decode,
    decoder_of,
    one,
    row,
    unusable,
)


@pytest.mark.parametrize(
    ("path", "body", "reason", "status"),
    [
        ("/e", b"", "empty_body", 400),
        ("/e", b"hello there!", "malformed_json", 400),
        ("/e", b"{", "malformed_json", 400),
        ("/e", b"5", "not_an_object", 400),
        ("/e", {"api_key": "k"}, "batch_missing", 400),
        ("/e", {"batch": {}}, "batch_missing", 400),
        ("/e", b"data=%%%", "malformed_encoding", 400),
        ("/e", b"data=" + b64(b"\x1f\x8b\x08broken"), "malformed_encoding", 400),
        ("/e", b"data=" + b64(gzip.compress(JSON_BODY)[:-4]), "malformed_encoding", 400),
        ("/e", b"data=" + quote(b64(gzip.compress(b" " * (INNER_BYTES_MAX + 1)))).encode(), "body_too_large", 413),
        ("/e", b"data=" + b"A" * FORM_BYTES_MAX, "body_too_large", 413),
        ("/e", [EVENT] * 101, "too_many_events", 413),
        ("/batch", {"api_key": "k", "batch": [EVENT] * 101}, "too_many_events", 413),
        (V1, {"batch": [EVENT] * 101}, "too_many_events", 413),
        (V1, {"event": "e"}, "batch_missing", 400),
        (V1, [EVENT], "batch_missing", 400),
        (V1, b"", "empty_body", 400),
    ],
)
def test_bodies_of_no_use_are_refused(path: str, body: Any, reason: str, status: int) -> None:
    with pytest.raises(BodyError) as caught:
        decode(path, body)
    assert (caught.value.reason, caught.value.status) == (reason, status)


def test_lz_string_is_refused_by_name() -> None:
    with pytest.raises(BodyError) as caught:
        decode("/e", b"data=NoXSA", compression="lz64")
    assert (caught.value.reason, caught.value.status) == ("unknown_encoding", 415)


def test_long_runs_of_space_are_looked_at_once() -> None:
    with pytest.raises(BodyError):
        decode("/e", b"a" + b" " * (FORM_BYTES_MAX - 2) + b"!")


def test_one_bad_event_spares_its_neighbours() -> None:
    body = b'{"api_key":"k","batch":[{"event":"a"},{"event":"b","properties":{"x":NaN}},7,{"event":"c"}]}'
    with pytest.raises(NotPlainError):
        posthog.BATCH.decode(Request("POST", "/batch", "http", {}, {}, body, NOW_US, lenient=False), 10)
    decoded = decode("/batch", body)
    assert unusable(decoded) == ["non_finite_number", "not_an_object"]
    assert [event.name for event in decoded.events if isinstance(event, RawEvent)] == ["a", "c"]


def test_a_fault_deep_in_a_single_event_is_that_events() -> None:
    decoded = decode("/e", b'{"api_key":"k","event":"e","list":[{"x":NaN}]}')
    assert unusable(decoded) == ["non_finite_number"]
    assert decoded.write_keys == ["k"]


@pytest.mark.parametrize("properties", [[], "x", 5])
@pytest.mark.parametrize("name", ["e", "$set", "$groupidentify"])
def test_properties_that_are_none_are_not_lost_silently(name: str, properties: Any) -> None:
    with pytest.raises(PoisonError) as caught:
        row(one({"event": name, "properties": properties}))
    assert caught.value.reason == "invalid_properties"


def test_properties_may_be_absent() -> None:
    for body in ({"event": "e"}, {"event": "e", "properties": None}):
        assert json.loads(row(one(body))[CONTEXT]) == {}


NAMES = (
    "api_key", "token", "batch", "event", "uuid", "distinct_id", "timestamp", "sent_at", "offset", "properties",
    "options", "library", "session_id", "window_id", "$set", "$set_once", "$unset", "$group_type", "$group_key",
    "$group_set", "$anon_distinct_id", "$device_id", "$is_identified", "$process_person_profile", "$ip", "$os",
    "$referrer", "$ignore_sent_at", "disable_skew_correction", "alias", "$lib", "$device_type", "$screen_name",
)  # fmt: skip
EVENT_NAMES = ("e", "$identify", "$set", "$set_once", "$groupidentify", "$create_alias", "$pageview", "$screen")
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS | st.sampled_from(EVENT_NAMES),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=8)
    ),
    max_leaves=40,
)
EVENTS = st.fixed_dictionaries(
    {"event": st.sampled_from(EVENT_NAMES)},
    optional={name: VALUES for name in NAMES if name not in ("event", "batch")},
)
BODIES = VALUES | EVENTS | st.lists(EVENTS | VALUES, max_size=3) | st.fixed_dictionaries({"batch": st.lists(EVENTS)})


def survives(path: str, content: bytes, query: dict[str, str]) -> None:
    """Whatever arrives: a refusal, or events each of which is stored or set aside with a reason."""
    asked = Request("POST", path, "http", query, {"posthog-attempt": "x"}, content, NOW_US)
    decoder = decoder_of(path)
    try:
        decoded = decoder.decode(asked, 20)
    except BodyError as error:
        assert error.status in (400, 413, 415)
        return
    rejections = []
    for index, event in enumerate(decoded.events):
        try:
            NORMALISER.row(event, Origin(7, OPEN, NOW_US, decoder.name, decoder.volatile_keys))
        except PoisonError as error:
            rejections.append(Rejection(index, error.reason))
    assert decoder.success(asked, decoded, rejections).status == 200


@pytest.mark.parametrize("path", ["/e", V1])
@given(BODIES, st.dictionaries(st.sampled_from(("_", "retry_count", "compression", "data")), st.text(max_size=20)))
@settings(max_examples=300, deadline=None)
def test_no_json_breaks_it(path: str, body: Any, query: dict[str, str]) -> None:
    survives(path, json.dumps(body).encode(), query)


@given(st.binary(max_size=60), st.sampled_from((b"", b"data=", b"&data=", b"[", b'{"batch":[')))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_it(body: bytes, before: bytes) -> None:
    survives("/e", before + body, {})
    survives(V1, before + body, {})
    survives("/e", b"", {"data": (before + body).decode("latin-1")})
