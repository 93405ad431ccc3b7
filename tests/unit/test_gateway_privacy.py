"""A customer's policy at the door: nothing that it names is written, in rows or in what is set aside."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigurationError, PoisonError
from headrace.settings import Settings
from headrace.shards.policy import OPEN, Policy, Quota
from producers.gateway.enrich import Enriched
from producers.gateway.json_body import Unusable
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.privacy import (
    CUSTOMERS_MAX,
    HASH_MARK,
    NAMES_REMEMBERED_MAX,
    NotTrackedError,
    Privacies,
    Privacy,
)
from producers.gateway.protocols.segment import to_event
from schemas.codec import event_arrow

KEY = "a secret of this installation"
LIMITS = EventLimits(event_bytes_max=262_144, properties_max=1000, depth_max=64)
ORIGIN = Origin(42, OPEN, 1_780_000_000_000_000, "segment-v1", frozenset(("sentAt",)))
NAMES = event_arrow().names
ADDRESS, PEER = "203.0.113.77", "198.51.100.7"
EMAIL = "ada@example.org"


def row_of(message: Mapping[str, Any], policy: Policy, *, key: str = KEY, **more: Any) -> dict[str, Any]:
    normaliser = Normaliser(LIMITS, lambda: None, more.pop("lookup", None), Privacies(key))
    event = to_event({"type": "track", "event": "e", "messageId": "m"} | dict(message), None, None, None, 0)
    origin = replace(ORIGIN, policy=policy, address=PEER, **more)
    row = dict(zip(NAMES, normaliser.row(event, origin), strict=True))
    return row | {name: json.loads(row[name]) for name in ("properties", "context")}


def made(policy: Policy, customer_id: int = 42, key: str = KEY) -> Privacy:
    privacy = Privacies(key).of(customer_id, policy)
    assert privacy is not None
    return privacy


def hash_of(value: Any, customer_id: int = 42, key: str = KEY) -> Any:
    return made(Policy(hash=("x",)), customer_id, key).hashed(value)


# Names


def test_named_values_go_on_every_level_in_properties_traits_and_context() -> None:
    policy = Policy(drop=("email", "card"), hash=("phone",))
    person = {"email": EMAIL, "phone": "123", "plan": "pro"}
    expected = {"phone": hash_of("123"), "plan": "pro"}
    row = row_of({"properties": {**person, "list": [person, [person]], "$set": {"deep": person}, "card": {"no": 1}},
                  "context": {"traits": person, "Email": EMAIL}}, policy)  # fmt: skip
    assert row["properties"] == {**expected, "list": [expected, [expected]], "$set": {"deep": expected}}
    assert row["context"] == {"traits": expected}
    traits = row_of({"type": "identify", "traits": person}, policy)
    assert traits["properties"] == expected


@pytest.mark.parametrize("name", ["email", "Email", "EMAIL", "$email", "$Email"])
@pytest.mark.parametrize("named", ["email", "$Email"])
def test_neither_case_nor_a_dollar_of_a_name_counts(name: str, named: str) -> None:
    assert row_of({"properties": {name: EMAIL, "e_mail": 1}}, Policy(drop=(named,)))["properties"] == {"e_mail": 1}


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("https://x.org/?a=1&email=ada%40example.org&b=2#email=q", "https://x.org/?a=1&email=&b=2#email="),
        ("?EMAIL=x", "?EMAIL="),
        ("email=x", "email="),
        ("?phone=12+3&x", "?phone=" + hash_of("12 3") + "&x"),
        ("?my_email=x", "?my_email=x"),
        ("about email = x", "about email = x"),
        ('{"email": "x", "a": [1]}', '{"a":[1]}'),
        ('[{"deep": "{\\"email\\": 1}"}]', '[{"deep":"{}"}]'),
        ('{"a": 1}', '{"a": 1}'),
        ("{email}", "{email}"),
        ("[", "["),
        ("eyJ", "eyJ"),
        (base64.b64encode(b'{"email": "x", "a": 1}').decode(), base64.b64encode(b'{"a":1}').decode().rstrip("=")),
    ],
)
def test_texts_that_hold_names_are_looked_through(text: str, stored: str) -> None:
    policy = Policy(drop=("email",), hash=("phone",))
    assert row_of({"properties": {"t": text}}, policy)["properties"] == {"t": stored}


def test_columns_are_taken_from_what_is_stored() -> None:
    message = {
        "properties": {"revenue": 5, "currency": "EUR"},
        "context": {"page": {"path": "/secret", "url": "https://x.org/other", "referrer": "https://r.org/"}},
    }
    row = row_of(message, Policy(drop=("revenue", "referrer", "url"), hash=("path",)))
    assert (row["value_e6"], row["currency"], row["referrer_domain"], row["path"]) == (None, None, None, None)
    assert row["context"] == {"page": {"path": hash_of("/secret")}}
    assert row_of(message, Policy(drop=("other",)))["value_e6"] == 5_000_000


def test_a_column_that_is_named_stays_empty_whoever_could_tell_it() -> None:
    def lookup(enriched: Enriched, *, address: str, user_agent: str) -> Enriched:
        return enriched._replace(country=enriched.country or "DE", os=enriched.os or "Linux")

    row = row_of({"context": {"os": {"name": "Plan 9"}}}, Policy(drop=("country",)), lookup=lookup)
    assert (row["country"], row["os"]) == (None, "Plan 9")


# Hashes


def test_a_hash_is_stable_personal_to_the_customer_and_keyed() -> None:
    assert hash_of(EMAIL) == "hash-b13bb47291253a33b4459d1509e26e7d", "a change of it breaks every distinct count"
    assert len({hash_of(EMAIL), hash_of(EMAIL, 43), hash_of(EMAIL, key="another of 16 chars"), hash_of("b")}) == 4
    assert hash_of(5) == hash_of("5") != hash_of(5.5)
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    assert (hash_of(None), hash_of("")) == (None, "")
    assert hash_of("\ud800").startswith(HASH_MARK)
    assert hash_of(EMAIL, -5).startswith(HASH_MARK)


def test_without_a_key_hashed_names_are_dropped() -> None:
    row = row_of({"properties": {"email": EMAIL, "a": 1}}, Policy(hash=("email",)), key="")
    assert row["properties"] == {"a": 1}


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="privacy_key has 5 characters"):
        Privacies.of_settings(Settings(privacy_key="short"))


def test_an_id_made_of_the_event_tells_nothing_of_it() -> None:
    message = {"messageId": None, "timestamp": "2026-05-28T20:00:00Z", "properties": {"email": EMAIL}}
    policy = Policy(drop=("email",))
    first = row_of(message, policy)["message_id"]
    assert first == row_of({**message, "sentAt": "x"}, policy)["message_id"]
    assert first != row_of(message, OPEN)["message_id"]
    assert first != row_of(message, policy, key="another of 16 chars")["message_id"]
    assert first != row_of({**message, "properties": {"email": "b"}}, policy)["message_id"], "two events, two ids"


# Addresses


def addressed() -> dict[str, Any]:
    return {
        "properties": {"$ip": ADDRESS, "seen_from": ADDRESS, "list": [ADDRESS, "a"], "peer": PEER,
                       "x-forwarded-for": f"{ADDRESS}, 2001:db8:1:2::3", "ips": 3},
        "context": {"ip": ADDRESS, "traits": {"ip_address": "2001:db8:1:2::3"}, "locale": "de"},
    }  # fmt: skip


def test_an_address_is_kept() -> None:
    row = row_of(addressed(), Policy(drop=("x",)))
    assert {name: row[name] for name in ("properties", "context")} == addressed()


def test_an_address_is_truncated_wherever_it_stands() -> None:
    row = row_of(addressed(), Policy(address="truncate"))
    assert row["context"] == {"ip": "203.0.113.0", "traits": {"ip_address": "2001:db8:1::"}, "locale": "de"}
    assert row["properties"] == {
        "$ip": "203.0.113.0",
        "seen_from": "203.0.113.0",
        "list": ["203.0.113.0", "a"],
        "peer": "198.51.100.0",
        "x-forwarded-for": "203.0.113.0, 2001:db8:1::",
        "ips": 3,
    }


def test_an_address_is_dropped_wherever_it_stands() -> None:
    row = row_of(addressed(), Policy(address="drop"))
    assert row["context"] == {"traits": {}, "locale": "de"}
    assert row["properties"] == {"list": ["a"], "ips": 3}


@pytest.mark.parametrize("other", ["$remote", "", "0", 5, None, True, {"a": 1}, ["b"]])
def test_what_stands_under_an_addresss_name_and_is_none_stays(other: Any) -> None:
    row = row_of({"context": {"ip": other}}, Policy(address="drop"))
    assert row["context"] == {"ip": other}


@pytest.mark.parametrize("almost", ["203.0.113.77/32", "203.0.113.77 via proxy", "999.0.113.77", "fe80::zz"])
@pytest.mark.parametrize("address", ["drop", "truncate"])
def test_what_looks_like_an_address_is_not_left_to_chance(almost: str, address: Any) -> None:
    assert row_of({"context": {"ip": almost}}, Policy(address=address))["context"] == {}


def test_a_country_is_told_by_the_whole_address_before_it_goes() -> None:
    seen: list[str] = []

    def lookup(enriched: Enriched, *, address: str, user_agent: str) -> Enriched:
        seen.append(address)
        return enriched._replace(country="DE")

    assert row_of({"context": {"ip": ADDRESS}}, Policy(address="drop"), lookup=lookup)["country"] == "DE"
    for told, is_device in (("$remote", False), (None, True), (None, False)):
        row_of({"context": {"ip": told}}, OPEN, lookup=lookup, is_device=is_device)
    assert seen == [ADDRESS, PEER, PEER, ""]


# Do not track


@pytest.mark.parametrize(
    ("policy", "do_not_track", "context", "kept"),
    [
        (OPEN, True, {}, True),
        (Policy(drop=("x",)), True, {"dnt": "1"}, True),
        (Policy(honour_dnt=True), False, {}, True),
        (Policy(honour_dnt=True), False, {"dnt": "0", "gpc": False, "doNotTrack": "unspecified"}, True),
        (Policy(honour_dnt=True), True, {}, False),
        (Policy(honour_dnt=True), False, {"doNotTrack": "1"}, False),
        (Policy(honour_dnt=True), False, {"gpc": True}, False),
        (Policy(honour_dnt=True), False, {"dnt": 1}, False),
    ],
)
def test_who_does_not_want_to_be_tracked_is_not(
    policy: Policy, do_not_track: bool, context: dict[str, Any], kept: bool
) -> None:
    message = {"context": context}
    if kept:
        assert row_of(message, policy, do_not_track=do_not_track)["type"] == "track"
    else:
        with pytest.raises(NotTrackedError):
            row_of(message, policy, do_not_track=do_not_track)


def test_what_would_be_refused_is_not_kept_either() -> None:
    normaliser = Normaliser(LIMITS, lambda: None)
    origin = replace(ORIGIN, policy=Policy(honour_dnt=True), do_not_track=True)
    with pytest.raises(NotTrackedError):
        normaliser.row(Unusable("malformed_json", "no JSON", b"{"), origin)


# What is set aside


def storable(raw: bytes, policy: Policy) -> bytes:
    normaliser = Normaliser(LIMITS, lambda: None, None, Privacies(KEY))
    return normaliser.storable(raw, replace(ORIGIN, policy=policy, address=PEER))


def test_an_event_that_is_set_aside_is_cleaned_as_well() -> None:
    raw = {"type": "tracks", "properties": {"email": EMAIL, "a": 1, "from": PEER, "back": ADDRESS},
           "traits": {"phone": "1"}, "context": {"ip": ADDRESS}}  # fmt: skip
    kept = json.loads(storable(json.dumps(raw).encode(), Policy(address="drop", drop=("email",), hash=("phone",))))
    assert kept == {"type": "tracks", "properties": {"a": 1}, "traits": {"phone": hash_of("1")}, "context": {}}


@pytest.mark.parametrize(
    "raw", [b'{"email": "ada@example.org"', b"data=eyJlbWFpbCI6", b"\xff\xfe", b"[" * 10_000 + b"]" * 10_000,
            b'{"a":' * 70 + b"1" + b"}" * 70, b""]
)  # fmt: skip
def test_what_cannot_be_looked_through_is_withheld(raw: bytes) -> None:
    kept = json.loads(storable(raw, Policy(drop=("email",))))
    assert kept == {"withheld": "the customer's policy could not be applied to it", "bytes": len(raw)}


@pytest.mark.parametrize("policy", [OPEN, Policy(honour_dnt=True), Policy(quota=Quota(per_second=1))])
def test_other_customers_events_are_set_aside_as_they_came(policy: Policy) -> None:
    assert storable(b'{"email": "x"', policy) == b'{"email": "x"'


# Bounds


def test_what_nests_too_deep_is_refused_by_name() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(PoisonError) as caught:
        made(Policy(drop=("x",))).clean({"a": deep}, ())
    assert caught.value.reason == "too_deep"
    for _ in range(500):
        deep = {"a": deep}
    with pytest.raises(PoisonError):
        made(Policy(drop=("x",))).clean(deep if isinstance(deep, dict) else {}, ())


def test_what_is_remembered_is_bounded() -> None:
    privacies = Privacies(KEY)
    policy = Policy(drop=("x",))
    first = privacies.of(1, policy)
    assert privacies.of(1, policy) is first is privacies.of(1, Policy(drop=("x",)))
    assert privacies.of(1, Policy(drop=("y",))) is not first
    for number in range(CUSTOMERS_MAX + 5):
        privacies.of(number, policy)
    assert len(privacies._ready) == CUSTOMERS_MAX
    privacy = made(policy)
    privacy.clean({f"{number}": 1 for number in range(NAMES_REMEMBERED_MAX * 2)} | {"n" * 10_000: 1}, ())
    assert len(privacy._actions) == NAMES_REMEMBERED_MAX
    assert max(map(len, privacy._actions)) < 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=8) | st.just(f"see {EMAIL}"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["email", "Email", "a", "ip"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["email", "$EMAIL", "a", "b"]), JSON))
@settings(deadline=None, max_examples=200)
def test_no_dropped_name_is_left_and_nothing_else_is_lost(value: dict[str, Any]) -> None:
    def without(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: without(each) for key, each in item.items() if key.lower().strip("$") != "email"}
        return [without(each) for each in item] if isinstance(item, list) else item

    privacy = made(Policy(drop=("email",)))
    assert privacy.clean(value, ()) == without(value)
    assert json.loads(privacy.storable(json.dumps(value).encode(), ())) == without(value)
