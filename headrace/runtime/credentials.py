"""The secrets of one data folder: made once, kept in `credentials.json` (0600), read again by every later start.

Holds the engines' passwords, the customers with their write keys and read tokens, and the administrator's token.
Tokens end; they are renewed at a start when less than RENEW_BEFORE_S of their life is left.
"""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from api.auth.keys import SigningKey, ensure_signing_key
from api.auth.tokens import create_api_token
from headrace.errors import ConfigurationError
from headrace.runtime.process import write_secret
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key

FILE_NAME = "credentials.json"
PASSWORD_BYTES = 24
RENEW_BEFORE_S = 7 * 86_400


class CustomerSecrets(msgspec.Struct, frozen=True):
    """What a customer's scripts need; the field names are the ready file's."""

    customer_id: int
    name: str
    write_key: str
    read_token: str
    read_token_expires_s: int


class Credentials(msgspec.Struct, frozen=True):
    """All secrets of a data folder. `customers` and `admin_token` are empty until the first start is through."""

    owner_password: str
    reader_password: str
    clickhouse_password: str
    redis_password: str
    privacy_key: str = ""
    customers: tuple[CustomerSecrets, ...] = ()
    admin_token: str = ""
    admin_token_expires_s: int = 0


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """A customer to make on the first start, on a shard of its own choosing."""

    name: str
    shard_id: str


def load_or_make(folder: Path) -> Credentials:
    """The folder's credentials, with fresh passwords on first use. Raises ConfigurationError for a broken file."""
    path = folder / FILE_NAME
    if not path.exists():
        made = Credentials(new_password(), new_password(), new_password(), new_password(), new_password())
        save(folder, made)
        return made
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(f"{path} can be read by others", remedy=f"chmod 600 {path}")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Credentials)
    except msgspec.MsgspecError as error:
        raise ConfigurationError(
            f"{path} is not a credentials file: {error}",
            remedy="restore it from a backup; without it the folder's databases cannot be opened",
        ) from error
    if not found.privacy_key:  # of a folder from before there was one
        found = msgspec.structs.replace(found, privacy_key=new_password())
        save(folder, found)
    return found


def new_password() -> str:
    """A random password that needs no quoting in a URL."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def save(folder: Path, credentials: Credentials) -> None:
    """Replace the file as a whole; never readable by others."""
    draft = folder / f".{FILE_NAME}.new"
    write_secret(draft, json.dumps(msgspec.to_builtins(credentials), indent=2) + "\n")
    draft.replace(folder / FILE_NAME)


def complete(
    folder: Path, credentials: Credentials, settings: Settings, wanted: Sequence[NewCustomer]
) -> Credentials:
    """Make the customers on first use, renew tokens that are about to end; saves and returns the result."""
    key, now_s = ensure_signing_key(settings), int(time.time())
    with connect_control(settings) as control:
        known = {customer.name for customer in credentials.customers}
        for new in wanted:
            if new.name not in known:
                made = _make_customer(control, key, settings, new, now_s)
                credentials = msgspec.structs.replace(credentials, customers=(*credentials.customers, made))
                save(folder, credentials)  # at once: a secret that is lost here cannot be had again
        customers = tuple(_renewed(control, key, settings, each, now_s) for each in credentials.customers)
        credentials = msgspec.structs.replace(credentials, customers=customers)
        if credentials.admin_token_expires_s - now_s < RENEW_BEFORE_S:
            token, principal = create_api_token(
                control, key, customer_id=None, now_s=now_s, ttl_s=settings.token_ttl_s
            )
            credentials = msgspec.structs.replace(
                credentials, admin_token=token, admin_token_expires_s=principal.expires_s
            )
    save(folder, credentials)
    return credentials


def _make_customer(
    control: Any, key: SigningKey, settings: Settings, new: NewCustomer, now_s: int
) -> CustomerSecrets:
    customer = create_customer(control, new.name, shard_id=new.shard_id)
    write_key = create_write_key(control, customer.customer_id, label="made by headrace up")
    token, principal = create_api_token(
        control, key, customer_id=customer.customer_id, now_s=now_s, ttl_s=settings.token_ttl_s
    )
    return CustomerSecrets(customer.customer_id, new.name, write_key.secret, token, principal.expires_s)


def _renewed(
    control: Any, key: SigningKey, settings: Settings, customer: CustomerSecrets, now_s: int
) -> CustomerSecrets:
    if customer.read_token_expires_s - now_s >= RENEW_BEFORE_S:
        return customer
    token, principal = create_api_token(
        control, key, customer_id=customer.customer_id, now_s=now_s, ttl_s=settings.token_ttl_s
    )
    return msgspec.structs.replace(customer, read_token=token, read_token_expires_s=principal.expires_s)
