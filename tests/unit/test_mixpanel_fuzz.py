"""Whatever a Mixpanel request holds, it ends as events, as events set aside, or as a refusal with a name."""

import base64
import json
from urllib.parse import quote_plus

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PoisonError
from headrace.shards.policy import OPEN
from producers.gateway.answers import Refusal, Rejection
from producers.gateway.json_body import BodyError, NotPlainError, Unusable
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols.decoder import RawEvent
from tests.unit.round_trip import decoder_of
from tests.unit.test_mixpanel_bodies import PATHS, request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
RESERVED = st.sampled_from(
    ["token", "distinct_id", "time", "$insert_id", "$device_id", "$user_id", "alias", "$distinct_ids", "ip", "$os",
     "$anon_distinct_id", "$browser", "mp_lib", "$current_url", "utm_source"]
)  # fmt: skip
NAMES = st.sampled_from(["$identify", "$create_alias", "$merge", "$mp_web_page_view", "a"]) | JSON
EVENTS = st.fixed_dictionaries(
    {"event": NAMES, "properties": st.dictionaries(RESERVED, JSON, max_size=6) | JSON}, optional={"meta": JSON}
)
FIELDS = [
    "$set",
    "$add",
    "$unset",
    "$delete",
    "$token",
    "$distinct_id",
    "$group_id",
    "$time",
    "$ip",
    "$insert_id",
    "x",
]
PROFILES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)
MESSAGES = EVENTS | PROFILES | JSON
TEXTS = st.one_of(
    (MESSAGES | st.lists(MESSAGES, max_size=4)).map(lambda value: json.dumps(value).encode()),
    st.lists(MESSAGES, max_size=4).map(lambda values: b"\n".join(json.dumps(value).encode() for value in values)),
    st.binary(max_size=80),
)
SPLICED = st.builds(lambda text, at, cut, more: text[:at] + more + text[at + cut :], TEXTS, st.integers(0, 90),
                    st.integers(0, 9), st.binary(max_size=3)) | TEXTS  # fmt: skip
WRAPPED = st.builds(
    lambda text, wrap: wrap(text),
    SPLICED,
    st.sampled_from(
        [
            bytes,
            lambda text: b"data=" + text,
            lambda text: b"data=" + quote_plus(text).encode() + b"&verbose=1",
            lambda text: b"ip=0&data=" + base64.b64encode(text),
            lambda text: b"data=" + base64.b64encode(text)[:-1],
        ]
    ),
)
LIMITS = EventLimits(event_bytes_max=262_144, properties_max=1000, depth_max=64)
NORMALISER = Normaliser(LIMITS, lambda: None)
QUERIES = st.dictionaries(st.sampled_from(["verbose", "_", "data", "strict", "img", "token"]), st.text(max_size=12))


@settings(max_examples=400, deadline=None)
@given(WRAPPED, st.sampled_from(PATHS), st.booleans(), QUERIES)
def test_whatever_comes_ends_as_events_or_named_refusals(
    body: bytes, path: str, is_get: bool, query: dict[str, str]
) -> None:
    decoder = decoder_of(path)
    if is_get:
        query = {**query, "data": body.decode("utf-8", "replace")}
    asked = request(path, body, query, "GET" if is_get else "POST")
    try:
        decoder.decode(request(path, body, query, asked.method, lenient=False), 100)
    except (BodyError, NotPlainError):
        pass
    try:
        decoded = decoder.decode(asked, 100)
    except BodyError as error:
        json.loads(decoder.failure(asked, Refusal(error.status, error.reason, error.message)).body)
        return
    assert all(isinstance(key, str) and key for key in decoded.write_keys)
    rejections = []
    for index, event in enumerate(decoded.events):
        assert isinstance(event, RawEvent | Unusable)
        try:
            NORMALISER.row(event, Origin(1, OPEN, 10**15, decoder.name, decoder.volatile_keys))
        except PoisonError as error:
            rejections.append(Rejection(index, error.reason))
    answer = decoder.success(asked, decoded, rejections)
    assert answer.status == 200 or (answer.status == 400 and path == "/import" and rejections)
