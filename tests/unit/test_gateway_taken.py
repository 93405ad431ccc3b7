"""The last net: whatever stands beside a good event in a batch, the good one is stored and nothing is raised."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.settings import Settings
from headrace.shards.plan_violations import RULES_MAX, Rule, other_than
from headrace.shards.plans import parse_plan
from headrace.shards.policy import OPEN, Policy
from producers.gateway.answers import Rejection
from producers.gateway.devices import device_lookup
from producers.gateway.encode import encode_rows
from producers.gateway.enrich import Enriched
from producers.gateway.json_body import BodyError
from producers.gateway.normalise import REASONS, EventLimits, Normaliser, Origin
from producers.gateway.plan import PLAN_VIOLATION, CompiledPlan
from producers.gateway.protocols import routes
from producers.gateway.protocols.decoder import Decoded, Request
from producers.gateway.sender import Senders
from producers.gateway.taken import UNPROCESSABLE, Taken
from schemas.codec import decode_events

EVENTS_MAX = 1_000
SENDERS = Senders(Settings())
NOW_US = 1_790_000_000_000_000
GOOD = {"type": "track", "event": "fine", "messageId": "good", "userId": "u"}
HUGE = 10**400
MESSAGE_KEYS = [
    "type",
    "event",
    "name",
    "messageId",
    "userId",
    "anonymousId",
    "groupId",
    "previousId",
    "sessionId",
    "timestamp",
    "originalTimestamp",
    "sentAt",
    "properties",
    "traits",
    "context",
    "integrations",
]
CONTEXT_KEYS = [
    "ip",
    "page",
    "campaign",
    "library",
    "userAgent",
    "userAgentData",
    "os",
    "device",
    "location",
    "traits",
    "sessionId",
    "url",
    "referrer",
    "search",
    "brands",
    "mobile",
    "platform",
    "name",
    "version",
    "revenue",
    "value",
    "currency",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from((HUGE, -HUGE, 10**4000))
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ("track", "page", "2026-06-01T12:00:00Z", "", "9999-12-31T23:59:60Z", "http://[", "\x00", "1e999")
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(CONTEXT_KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
MESSAGES = VALUES | st.dictionaries(st.sampled_from(MESSAGE_KEYS), VALUES, max_size=8).map(
    lambda some: {"type": "track", "event": "e", "messageId": "m"} | some
)


def take(
    body: bytes,
    headers: Mapping[str, str] | None = None,
    user_agent: str = "",
    plan: CompiledPlan | None = None,
    policy: Policy = OPEN,
) -> Taken:
    """What the gateway makes of a batch, without its network."""
    found = routes().find("/v1/batch")
    assert found is not None
    assert found[0].decoder is not None
    decoder = found[0].decoder
    decoded = decoder.decode(Request("POST", "/v1/batch", "http", {}, headers or {}, body, NOW_US), EVENTS_MAX)
    origin = Origin(42, policy, NOW_US, decoder.name, decoder.volatile_keys, user_agent=user_agent)
    normaliser = Normaliser(EventLimits(262_144, 1000, 64), lambda: None, device_lookup)
    taken = Taken(decoded, normaliser, origin, body, plan)
    for index in range(len(decoded.events)):
        taken.take(index)
    return taken


def ids(taken: Taken) -> list[str]:
    """The stored events' message ids, after they went through the wire format."""
    decoded = decode_events(encode_rows(taken.rows))
    assert not decoded.poison
    return [row["message_id"] for row in decoded.events.to_pylist()]


def usable(context: Any) -> Any:
    """A batch's context without the one field of it that makes every event invalid, and rightly."""
    return {k: v for k, v in context.items() if k != "sessionId"} if isinstance(context, dict) else context


@given(MESSAGES, st.none() | VALUES, st.none() | VALUES.map(usable))
@settings(max_examples=300, deadline=None)
def test_any_json_as_a_message_next_to_a_good_one(message: Any, sent_at: Any, context: Any) -> None:
    body = {"batch": [message, GOOD], "sentAt": sent_at, "context": context}
    taken = take(json.dumps(body).encode())
    assert ids(taken)[-1] == "good"
    assert len(taken.rows) + len(taken.rejections) == 2
    for rejection, rejected in zip(taken.rejections, taken.rejected, strict=True):
        assert rejection.index == 0
        assert rejection.reason == rejected.reason in REASONS - {UNPROCESSABLE}, "foreseen, not caught by the net"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"type": ["track"]}, "unknown_type"),
        ({"type": {"a": 1}}, "unknown_type"),
        ({"type": "track", "event": "e", "timestamp": HUGE}, "timestamp_out_of_range"),
        ({"type": "track", "event": "e", "timestamp": 10**4000}, "timestamp_out_of_range"),
    ],
)
def test_what_once_escaped_is_a_named_rejection(message: dict[str, Any], reason: str) -> None:
    taken = take(json.dumps({"batch": [message, GOOD], "sentAt": HUGE}).encode())
    assert [(item.index, item.reason) for item in taken.rejections] == [(0, reason)]
    assert ids(taken) == ["good"]


class _Failing(Normaliser):
    """A normaliser with a fault of its own for events of one name."""

    def row(self, event: Any, origin: Origin) -> Any:
        if event.name == "fault":
            raise ZeroDivisionError
        return super().row(event, origin)


def test_a_fault_of_ours_sets_one_event_aside_and_keeps_it() -> None:
    found = routes().find("/v1/batch")
    assert found is not None
    assert found[0].decoder is not None
    bad = {"type": "track", "event": "fault"}
    body = json.dumps({"batch": [GOOD, bad, bad]}).encode()
    decoded: Decoded = found[0].decoder.decode(Request("POST", "/v1/batch", "http", {}, {}, body, 0), 10)
    normaliser = _Failing(EventLimits(262_144, 1000, 64), lambda: None)
    taken = Taken(decoded, normaliser, Origin(42, OPEN, NOW_US, "segment-v1", frozenset()), body)
    for index in range(3):
        taken.take(index)
    assert ids(taken) == ["good"]
    assert [(item.index, item.reason) for item in taken.rejections] == [(1, UNPROCESSABLE), (2, UNPROCESSABLE)]
    assert [json.loads(item.raw) for item in taken.rejected] == [bad, bad]
    assert UNPROCESSABLE in REASONS


# A batch's shared context


def shared(context_bytes: int, messages: int) -> bytes:
    context = {"x": "y" * (context_bytes - len('{"x":""}'))}
    return json.dumps({"batch": [GOOD] * messages, "context": context}).encode()


def test_a_shared_context_is_merged_into_each_message() -> None:
    body = {"batch": [GOOD, GOOD | {"context": {"b": 2, "c": 3}}], "context": {"a": 1, "b": 1}}
    contexts = [
        row["context"] for row in decode_events(encode_rows(take(json.dumps(body).encode()).rows)).events.to_pylist()
    ]
    assert [json.loads(context) for context in contexts] == [{"a": 1, "b": 1}, {"a": 1, "b": 2, "c": 3}]


@pytest.mark.parametrize(("context_bytes", "messages"), [(32 * 1024 + 1, 1), (200 * 1024, 100)])
def test_a_context_that_would_be_stored_too_often_is_too_large(context_bytes: int, messages: int) -> None:
    with pytest.raises(BodyError) as caught:
        take(shared(context_bytes, messages))
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")


def test_the_copies_of_a_context_are_bounded_together() -> None:
    decoder = routes().find("/v1/batch")
    assert decoder is not None
    assert decoder[0].decoder is not None
    decode = decoder[0].decoder.decode
    fits, too_many = shared(16 * 1024, 1024), shared(16 * 1024, 1025)
    assert len(decode(Request("POST", "/v1/batch", "http", {}, {}, fits, 0), 2000).events) == 1024
    with pytest.raises(BodyError) as caught:
        decode(Request("POST", "/v1/batch", "http", {}, {}, too_many, 0), 2000)
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")


# What a user agent tells

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 Safari/604"


def devices(context: Mapping[str, Any] | None, header: str) -> list[tuple[Any, ...]]:
    body = json.dumps({"batch": [GOOD | ({"context": context} if context else {})]}).encode()
    rows = decode_events(
        encode_rows(take(body, user_agent=SENDERS.of({"user-agent": header}, None).user_agent).rows)
    ).events.to_pylist()
    return [(row["browser"], row["os"], row["device"]) for row in rows]


@pytest.mark.parametrize(
    ("context", "header", "told"),
    [
        ({"userAgent": IPHONE}, "analytics-python/2.3", ("Safari", "iOS", "mobile")),
        ({"userAgent": IPHONE}, FIREFOX, ("Safari", "iOS", "mobile")),
        (None, FIREFOX, ("Firefox", "Linux", "desktop")),
        (None, "python-requests/2.32", (None, None, None)),
        ({"os": {"name": "Plan 9"}, "userAgent": FIREFOX}, "", ("Firefox", "Plan 9", "desktop")),
        ({"device": {"type": "tv"}}, "node-fetch/1.0", (None, None, "tv")),
    ],
)
def test_a_browsers_agent_fills_what_the_sender_leaves_open(
    context: Mapping[str, Any] | None, header: str, told: tuple[Any, ...]
) -> None:
    assert devices(context, header) == [told]


def test_an_endless_agent_is_cut_and_a_told_device_is_left_alone() -> None:
    agent = FIREFOX + "x" * 100_000
    assert device_lookup(Enriched(), address="", user_agent=agent).browser == "Firefox"
    full = Enriched(browser="b", os="o", device="d")
    assert device_lookup(full, address="", user_agent=agent) is full


# A tracking plan


def planned(mode: str, unplanned: str = "allow") -> CompiledPlan:
    schema = {"required": ["total"], "properties": {"total": {"type": "number"}}}
    document = {"mode": mode, "unplanned": unplanned, "events": {"fine": {"schema": schema}}}
    return CompiledPlan(parse_plan(json.dumps(document).encode()))


def messages(*properties: Any) -> bytes:
    batch = [GOOD | {"messageId": f"m{i}", "properties": item} for i, item in enumerate(properties)]
    return json.dumps({"batch": batch}).encode()


def test_an_event_that_breaks_its_plan_is_set_aside_alone_and_told_why() -> None:
    taken = take(messages({"total": 1}, {"total": "secret"}, {}, {"total": 2}), plan=planned("reject"))
    assert ids(taken) == ["m0", "m3"]
    detail = "event 'fine' breaks its plan at $.total: type \"number\""
    missing = "event 'fine' breaks its plan at $.total: required"
    assert taken.rejections == [Rejection(1, PLAN_VIOLATION, detail), Rejection(2, PLAN_VIOLATION, missing)]
    assert taken.rejections[0].told() == {"index": 1, "reason": PLAN_VIOLATION, "detail": detail}
    assert [(item.reason, item.message) for item in taken.rejected] == [
        (PLAN_VIOLATION, detail),
        (PLAN_VIOLATION, missing),
    ]
    assert json.loads(taken.rejected[0].raw)["properties"] == {"total": "secret"}, "kept as received"
    assert taken.broken == {
        Rule("fine", "$.total", "type", "reject"): 1,
        Rule("fine", "$.total", "required", "reject"): 1,
    }


def test_a_plan_that_warns_stores_every_event_and_counts_what_breaks_it() -> None:
    taken = take(messages({"total": "x"}, {"total": 1}, {"total": []}), plan=planned("warn"))
    assert ids(taken) == ["m0", "m1", "m2"]
    assert (taken.rejections, taken.rejected) == ([], [])
    assert taken.broken == {Rule("fine", "$.total", "type", "warn"): 2}


def test_what_no_event_can_be_is_told_before_the_plan_is_asked() -> None:
    taken = take(messages([], {"total": 1}), plan=planned("reject"))
    assert taken.rejections == [Rejection(0, "invalid_properties")]
    assert taken.broken == {}


def test_made_up_names_do_not_fill_the_memory_of_a_request() -> None:
    batch = [{"type": "track", "event": f"e{i}", "messageId": f"m{i}"} for i in range(RULES_MAX + 10)]
    taken = take(json.dumps({"batch": batch}).encode(), plan=planned("warn", unplanned="warn"))
    assert len(taken.broken) == RULES_MAX + 1
    assert taken.broken[other_than(Rule("", "", "", "warn"))] == 10
    assert len(taken.rows) == RULES_MAX + 10


@given(MESSAGES)
@settings(max_examples=200, deadline=None)
def test_any_json_is_stored_or_set_aside_under_a_plan_too(message: Any) -> None:
    taken = take(json.dumps({"batch": [message, GOOD | {"event": "unjudged"}]}).encode(), plan=planned("reject"))
    assert len(taken.rows) + len(taken.rejections) == 2
    assert ids(taken)[-1] == "good"
    assert UNPROCESSABLE not in [item.reason for item in taken.rejections]


# What a policy leaves of an event


def test_a_plan_judges_what_would_be_stored_and_what_is_set_aside_is_cleaned_too() -> None:
    policy = Policy(drop=("email",))
    taken = take(
        messages({"total": 1, "email": "a@b.example"}, {"email": "a@b.example"}),
        plan=planned("reject"),
        policy=policy,
    )
    assert ids(taken) == ["m0"]
    assert json.loads(taken.rejected[0].raw)["properties"] == {}
    dropped = take(messages({"total": 1}), plan=planned("reject"), policy=Policy(drop=("total",)))
    assert [item.reason for item in dropped.rejections] == [PLAN_VIOLATION], "a plan says what the stores hold"


def test_an_event_that_must_not_be_kept_leaves_nothing_and_its_neighbours_stay() -> None:
    refused = GOOD | {"messageId": "private", "context": {"doNotTrack": True}}
    taken = take(json.dumps({"batch": [refused, GOOD]}).encode(), policy=Policy(honour_dnt=True))
    assert ids(taken) == ["good"]
    assert (taken.rejections, taken.rejected) == ([], [])
