"""A customer's policy: what becomes of personal data at the door, and how much the customer may send.

One JSON document in the control database (`customers.policy`); an absent field has its default here. Gateways apply
it, the CLI writes it; what is not understood is refused, never ignored.
"""

from typing import Any, Final, Literal, get_args

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from headrace.errors import ConfigurationError, UsageError

NAMES_MAX: Final = 200
"""Properties that one policy may name."""
NAME_CHARS_MAX: Final = 200

Address = Literal["keep", "truncate", "drop"]
ADDRESS_CHOICES: Final[tuple[Address, ...]] = get_args(Address)


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Events a customer may send; None: as many as it likes. `burst` is how many may come at once above the rate."""

    per_second: int | None = None
    burst: int | None = None
    per_month: int | None = None

    def __post_init__(self) -> None:
        for name in ("per_second", "burst", "per_month"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 10**12:
                raise ValueError(f"{name} must be 0 to 10**12, not {value}")
        if self.burst is not None and self.per_second is None:
            raise ValueError("burst needs per_second")


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`address`: what is stored of the sender's IP address (truncated: /24 or /48). `drop` and `hash`: names of
    properties, traits and context fields, on any level, that are removed, or replaced by a keyed hash, before
    anything is written; see `name_key` for which names are the same. `honour_dnt`: events of browsers that send DNT
    or Sec-GPC are not taken."""

    address: Address = "keep"
    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    honour_dnt: bool = False
    quota: Quota = Quota()

    def __post_init__(self) -> None:
        if len(self.drop) + len(self.hash) > NAMES_MAX:
            raise ValueError(f"at most {NAMES_MAX} properties can be named")
        for name in (*self.drop, *self.hash):
            if not name_key(name) or len(name) > NAME_CHARS_MAX:
                raise ValueError(f"a property's name has 1 to {NAME_CHARS_MAX} characters, not {name[:40]!r}")
        both = {name_key(name) for name in self.drop} & {name_key(name) for name in self.hash}
        if both:
            raise ValueError(f"{min(both)!r} cannot be both dropped and hashed")

    @property
    def changes_events(self) -> bool:
        """Whether events must be looked through: something of them is removed, replaced, or not taken at all."""
        return self.address != "keep" or bool(self.drop or self.hash) or self.honour_dnt


OPEN: Final = Policy()
"""Of a customer that decided nothing."""


def name_key(name: str) -> str:
    """What makes two names the same for a policy: neither case nor a leading `$` counts (`Email` is `$email`)."""
    return name.strip().lstrip("$").casefold()


def parse_policy(document: Any) -> Policy:
    """The policy in a parsed JSON document. Raises ConfigurationError, saying which field is wrong."""
    if not document:
        return OPEN
    try:
        return msgspec.convert(document, Policy)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"a customer's policy cannot be read: {error}", remedy="set it again with `headrace customers set`"
        ) from error


def read_policy(connection: psycopg.Connection[Any], customer_id: int, *, lock: bool = False) -> Policy:
    """The customer's policy; `lock`: nobody else changes it until the transaction ends.

    Raises UsageError for an unknown customer, ConfigurationError for an unreadable policy.
    """
    row = connection.execute(
        "SELECT policy FROM customers WHERE customer_id = %s" + (" FOR UPDATE" if lock else ""), (customer_id,)
    ).fetchone()
    if row is None:
        raise UsageError(f"there is no customer {customer_id}", remedy="see `headrace customers list`")
    return parse_policy(row[0])


def write_policy(connection: psycopg.Connection[Any], customer_id: int, policy: Policy) -> None:
    """Set it. Gateways follow within `write_key_cache_s`. Raises UsageError for an unknown customer."""
    changed = connection.execute(
        "UPDATE customers SET policy = %s WHERE customer_id = %s RETURNING customer_id",
        (Jsonb(msgspec.to_builtins(policy)), customer_id),
    ).fetchone()
    if changed is None:
        raise UsageError(f"there is no customer {customer_id}", remedy="see `headrace customers list`")
