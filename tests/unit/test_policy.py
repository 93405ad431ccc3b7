"""Policies: what is one, which names are the same, and what `headrace customers set` does to one."""

from typing import Any

import msgspec
import pytest

from headrace.errors import ConfigurationError, UsageError
from headrace.shards.policy import NAME_CHARS_MAX, NAMES_MAX, OPEN, Policy, Quota, name_key, parse_policy
from headrace.shards.policy_change import FIELDS, Change, changed, differences, pick


@pytest.mark.parametrize(
    "policy",
    [
        OPEN,
        Policy(address="drop"),
        Policy(drop=("a",), hash=("b", "$C"), honour_dnt=True, quota=Quota(per_second=5, burst=7, per_month=0)),
    ],
)
def test_a_policy_comes_back_as_it_was_written(policy: Policy) -> None:
    assert parse_policy(msgspec.json.decode(msgspec.json.encode(policy))) == policy
    assert parse_policy({}) is parse_policy(None) is OPEN


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"address": "hide"}, "address"),
        ({"adress": "drop"}, "adress"),
        ({"drop": "email"}, "drop"),
        ({"drop": [""]}, "name"),
        ({"drop": ["$"]}, "name"),
        ({"drop": ["n" * (NAME_CHARS_MAX + 1)]}, "name"),
        ({"drop": [str(number) for number in range(NAMES_MAX + 1)]}, "at most"),
        ({"drop": ["$Email"], "hash": ["email"]}, "both"),
        ({"quota": {"burst": 5}}, "per_second"),
        ({"quota": {"per_second": -1}}, "per_second"),
        ([1], "object"),
    ],
)
def test_what_is_not_understood_is_refused(document: Any, field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        parse_policy(document)


def test_which_policies_change_events() -> None:
    assert not OPEN.changes_events and not Policy(quota=Quota(per_second=1)).changes_events
    for policy in (Policy(address="truncate"), Policy(drop=("a",)), Policy(hash=("a",)), Policy(honour_dnt=True)):
        assert policy.changes_events


def test_names_are_the_same_whatever_their_case() -> None:
    assert name_key("$Email") == name_key(" EMAIL ") == "email" != name_key("e_mail")


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (OPEN, Change(address="drop"), Policy(address="drop")),
        (OPEN, Change(drop=("a", "A", "b")), Policy(drop=("a", "b"))),
        (Policy(drop=("a",)), Change(drop=("b",)), Policy(drop=("a", "b"))),
        (Policy(drop=("a", "b")), Change(drop=("c",), clear=("drop",)), Policy(drop=("c",))),
        (Policy(drop=("a", "b")), Change(hash=("$A",)), Policy(drop=("b",), hash=("$A",))),
        (Policy(honour_dnt=True), Change(honour_dnt=False), OPEN),
        (OPEN, Change(quota={"per_second": 5, "burst": 9}), Policy(quota=Quota(per_second=5, burst=9))),
        (Policy(quota=Quota(per_month=9)), Change(quota={"per_month": 0}), Policy(quota=Quota(per_month=0))),
        (Policy(quota=Quota(per_second=5, burst=9)), Change(clear=("burst",)), Policy(quota=Quota(per_second=5))),
        (Policy(address="drop", hash=("a",), quota=Quota(per_month=1)), Change(clear=("all",)), OPEN),
    ],
)
def test_a_change(before: Policy, change: Change, after: Policy) -> None:
    assert changed(before, change) == after
    assert bool(differences(before, after)) == (before != after)


@pytest.mark.parametrize(
    ("before", "change", "told"),
    [
        (OPEN, Change(drop=("a",), hash=("A",)), "both"),
        (OPEN, Change(quota={"burst": 5}), "burst needs per_second"),
        (Policy(quota=Quota(per_second=1, burst=1)), Change(clear=("per-second",)), "burst needs per_second"),
        (OPEN, Change(quota={"per_month": -1}), "per_month"),
        (OPEN, Change(drop=tuple(map(str, range(NAMES_MAX + 1)))), "at most"),
    ],
)
def test_a_change_that_cannot_be(before: Policy, change: Change, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        changed(before, change)


def test_a_choice_is_taken_or_the_nearest_suggested() -> None:
    assert pick("--clear", "honour_DNT", tuple(FIELDS)) == "honour-dnt"
    with pytest.raises(UsageError, match="did you mean truncate"):
        pick("--address", "trunkate", ("keep", "truncate", "drop"))
    with pytest.raises(UsageError, match="--help"):
        pick("--address", "zzz", ("keep", "truncate", "drop"))
