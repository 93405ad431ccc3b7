"""Write keys: what an SDK sends to say whose events these are. A write key ingests and can do nothing else.

The secret (`wk_` and 192 random bits) exists in full only in the answer to its creation; the control database keeps
its SHA-256 and a hint. Lookups go by that hash, so no comparison of secrets takes place that could leak by its time.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from headrace.errors import UsageError

PREFIX = "wk_"
SECRET_BYTES = 24
HINT_CHARS = 8
"""Characters of the secret, prefix included, that stay visible to tell keys apart (30 of its 192 bits)."""
CHANNEL = "headrace_write_keys"
"""What the control database notifies on when a key is revoked; payload: the key's hash in hex."""

_FIND = "SELECT customer_id FROM write_keys WHERE key_hash = %s AND revoked_at IS NULL"


@dataclass(frozen=True, slots=True)
class WriteKey:
    """A write key as it can be shown after its creation."""

    hint: str
    customer_id: int
    label: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewWriteKey:
    """A write key just made: the only time its secret is at hand."""

    secret: str
    key: WriteKey


def hash_write_key(secret: str) -> bytes:
    """What the control database keeps of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def create_write_key(connection: psycopg.Connection[Any], customer_id: int, label: str = "") -> NewWriteKey:
    """Make a key for a customer. Raises UsageError when there is no such customer."""
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    try:
        row = connection.execute(
            """
            INSERT INTO write_keys (key_hash, hint, customer_id, label) VALUES (%s, %s, %s, %s)
            RETURNING hint, customer_id, label, created_at, revoked_at
            """,
            (hash_write_key(secret), secret[:HINT_CHARS], customer_id, label),
        ).fetchone()
    except psycopg.errors.ForeignKeyViolation as error:
        raise UsageError(f"there is no customer {customer_id}", remedy="`headrace customers list`") from error
    assert row is not None
    return NewWriteKey(secret, WriteKey(*row))


def list_write_keys(connection: psycopg.Connection[Any], customer_id: int | None = None) -> list[WriteKey]:
    """All keys, of one customer if given, by customer and age."""
    rows = connection.execute(
        """
        SELECT hint, customer_id, label, created_at, revoked_at FROM write_keys
        WHERE %(customer)s::int8 IS NULL OR customer_id = %(customer)s ORDER BY customer_id, created_at
        """,
        {"customer": customer_id},
    )
    return [WriteKey(*row) for row in rows]


def find_write_keys(connection: psycopg.Connection[Any], secret_or_hint: str) -> list[WriteKey]:
    """The keys that this secret or hint names; more than one only for a hint."""
    rows = connection.execute(
        """
        SELECT hint, customer_id, label, created_at, revoked_at FROM write_keys
        WHERE key_hash = %s OR hint = %s ORDER BY created_at
        """,
        (hash_write_key(secret_or_hint), secret_or_hint),
    )
    return [WriteKey(*row) for row in rows]


def revoke_write_key(connection: psycopg.Connection[Any], secret_or_hint: str) -> WriteKey:
    """Revoke the one key that this secret or hint names; gateways hear of it within their cache time.

    Revoking a revoked key keeps its first date. Raises UsageError when no key is meant, or more than one.
    """
    with connection.transaction():
        found = find_write_keys(connection, secret_or_hint)
        if len(found) != 1:
            raise UsageError(
                "no write key has this secret or hint" if not found else f"{len(found)} write keys have this hint",
                remedy="`headrace keys list` shows hints; give the whole secret when a hint is not enough",
            )
        row = connection.execute(
            """
            UPDATE write_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_hash = %s OR hint = %s
            RETURNING hint, customer_id, label, created_at, revoked_at
            """,
            (hash_write_key(secret_or_hint), secret_or_hint),
        ).fetchone()
    assert row is not None
    return WriteKey(*row)


def find_customer(connection: psycopg.Connection[Any], secret: str) -> int | None:
    """The customer whose live key this is, or None."""
    row = connection.execute(_FIND, (hash_write_key(secret),)).fetchone()
    return None if row is None else int(row[0])


async def find_customer_async(connection: psycopg.AsyncConnection[Any], secret: str) -> int | None:
    """The customer whose live key this is, or None."""
    row = await (await connection.execute(_FIND, (hash_write_key(secret),))).fetchone()
    return None if row is None else int(row[0])
