"""What `headrace customers set` does to a policy. Pure; refuses with UsageError, saying what would be right."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.errors import UsageError
from headrace.shards.policy import OPEN, Policy, Quota, name_key


@dataclass(frozen=True, slots=True)
class Change:
    """`clear` comes first, then the rest; None and empty change nothing."""

    address: str | None = None
    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    honour_dnt: bool | None = None
    quota: Mapping[str, int | None] = field(
        default_factory=lambda: {"per_second": None, "burst": None, "per_month": None}
    )
    clear: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a policy as the command line names it: how it is shown and how it is brought back to its default."""

    shown: Callable[[Policy], str]
    cleared: Callable[[dict[str, Any], dict[str, Any]], None]
    """Takes the values of the policy and those of its quota."""


def _of_policy(name: str, shown: Callable[[Any], str]) -> Field:
    return Field(
        lambda policy: shown(getattr(policy, name)), lambda policy, _: policy.update({name: getattr(OPEN, name)})
    )


def _of_quota(name: str) -> Field:
    def shown(policy: Policy) -> str:
        value = getattr(policy.quota, name)
        return "unlimited" if value is None else f"{value:,}"

    return Field(shown, lambda _, quota: quota.update({name: None}))


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


FIELDS: Final[Mapping[str, Field]] = {
    "address": _of_policy("address", str),
    "drop": _of_policy("drop", _list),
    "hash": _of_policy("hash", _list),
    "honour-dnt": _of_policy("honour_dnt", lambda value: "yes" if value else "no"),
    "per-second": _of_quota("per_second"),
    "burst": _of_quota("burst"),
    "per-month": _of_quota("per_month"),
}


def changed(policy: Policy, change: Change) -> Policy:
    """The policy after the change. Names that move from `drop` to `hash` or back leave the other list."""
    values, quota = msgspec.structs.asdict(policy), msgspec.structs.asdict(policy.quota)
    for name in FIELDS if "all" in change.clear else change.clear:
        FIELDS[name].cleared(values, quota)
    if change.address is not None:
        values["address"] = change.address
    if change.honour_dnt is not None:
        values["honour_dnt"] = change.honour_dnt
    both = {name_key(name) for name in change.drop} & {name_key(name) for name in change.hash}
    if both:
        raise UsageError(f"{min(both)!r} cannot be both dropped and hashed", remedy="name it once")
    values["drop"] = _merged(values["drop"], change.drop, change.hash)
    values["hash"] = _merged(values["hash"], change.hash, change.drop)
    quota |= {name: value for name, value in change.quota.items() if value is not None}
    try:
        return Policy(**values | {"quota": Quota(**quota)})
    except ValueError as error:
        raise UsageError(str(error), remedy="`headrace customers set --help`") from error


def differences(before: Policy, after: Policy) -> list[tuple[str, str, str]]:
    """The fields that differ: name, before, after."""
    shown = [(name, each.shown(before), each.shown(after)) for name, each in FIELDS.items()]
    return [(name, old, new) for name, old, new in shown if old != new]


def pick(option: str, given: str, choices: Sequence[str]) -> Any:
    """`given` if it is one of the choices, `_` for `-` allowed. Raises UsageError that suggests the nearest."""
    plain = given.strip().lower().replace("_", "-")
    if plain in choices:
        return plain
    near = difflib.get_close_matches(plain, choices, n=1)
    raise UsageError(
        f"{option} must be one of {', '.join(choices)}, not {given!r}",
        remedy=f"did you mean {near[0]}?" if near else "`headrace customers set --help`",
    )


def _merged(names: Sequence[str], more: Sequence[str], moved: Sequence[str]) -> tuple[str, ...]:
    """`names` and `more`, each once by its key, without those that moved to the other list."""
    gone = {name_key(name) for name in moved}
    by_key: dict[str, str] = {}
    for name in (*names, *more):
        by_key.setdefault(name_key(name), name)
    return tuple(name for key, name in by_key.items() if key not in gone)
