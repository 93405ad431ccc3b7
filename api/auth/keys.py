"""The keys that sign tokens: one private Ed25519 key in a file of ours, all public keys in the control database.

The private key never leaves its file (0600, made if absent). A key's id is the RFC 7638 thumbprint of its public
half, so that the same key always has the same id. Rotation: a new file registers itself beside the old key. Once
that is retired it signs nothing more; its sessions end within minutes, its API tokens as they expire or are revoked.
"""

import base64
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from headrace.errors import ConfigurationError, UnavailableError
from headrace.settings import Settings

MODE = 0o600


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key new tokens are signed with."""

    kid: str
    private: Ed25519PrivateKey

    @property
    def public_pem(self) -> str:
        """The public half, as the control database keeps it."""
        pem = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem.decode("ascii")


def ensure_signing_key(settings: Settings) -> SigningKey:
    """Read the key of `settings.signing_key_file`, made if absent, and register its public half.

    Safe when several processes start at once: one file is made, one row inserted. Raises ConfigurationError when
    the file cannot be used, UnavailableError when the control database is away.
    """
    if not settings.signing_key_file:
        raise ConfigurationError(
            "signing_key_file is not set", remedy="set HEADRACE_SIGNING_KEY_FILE to a file that only you can read"
        )
    path = Path(settings.signing_key_file)
    key = load(path) if path.exists() else _make(path)
    try:
        with psycopg.connect(settings.postgres_control, connect_timeout=5, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO signing_keys (kid, public_pem) VALUES (%s, %s) ON CONFLICT (kid) DO NOTHING",
                (key.kid, key.public_pem),
            )
            row = connection.execute("SELECT retired_at FROM signing_keys WHERE kid = %s", (key.kid,)).fetchone()
    except psycopg.errors.UndefinedTable as error:
        raise ConfigurationError(
            "the control database has no table signing_keys", remedy="run `headrace migrate` first"
        ) from error
    except psycopg.OperationalError as error:
        raise UnavailableError(
            "the control database does not answer; the signing key was not registered", remedy="is it running?"
        ) from error
    if row is not None and row[0] is not None:
        raise ConfigurationError(
            f"the signing key {path} was retired", remedy="move the file away; the next start makes a new key"
        )
    return key


def retire_signing_key(connection: psycopg.Connection[Any], kid: str) -> bool:
    """Let a key sign nothing more, from now on. False: there is no such key that still signs."""
    row = connection.execute(
        "UPDATE signing_keys SET retired_at = now() WHERE kid = %s AND retired_at IS NULL RETURNING kid", (kid,)
    ).fetchone()
    return row is not None


def load(path: Path) -> SigningKey:
    """Read a private key. Raises ConfigurationError for another kind of key or a file that others can read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the signing key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigurationError(
            f"the signing key {path} can be read by others (mode {mode:04o})", remedy=f"chmod 600 {path}"
        )
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} holds no private key in PEM") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} holds another kind of key than Ed25519")
    return SigningKey(kid_of(private.public_key()), private)


def public_from_pem(pem: str) -> Ed25519PublicKey:
    """The public key of a row of `signing_keys`. Raises ConfigurationError."""
    try:
        public = load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError("a row of signing_keys holds no public key") from error
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigurationError("a row of signing_keys holds another kind of key than Ed25519")
    return public


def jwk(kid: str, public: Ed25519PublicKey) -> dict[str, Any]:
    """The key as a JSON Web Key (RFC 8037)."""
    return {**_thumbprinted(public), "kid": kid, "use": "sig", "alg": "EdDSA"}


def kid_of(public: Ed25519PublicKey) -> str:
    """RFC 7638 thumbprint: SHA-256 of the required members in lexical order."""
    canonical = msgspec.json.encode(_thumbprinted(public), order="sorted")
    return _base64url(hashlib.sha256(canonical).digest())


def _thumbprinted(public: Ed25519PublicKey) -> dict[str, Any]:
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _make(path: Path) -> SigningKey:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and linked into place: another process sees no file or a whole one, and the first one wins.
    draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "wb") as file:
            file.write(pem)
        try:
            os.link(draft, path)
        except FileExistsError:
            return load(path)
    except OSError as error:
        raise ConfigurationError(f"cannot make the signing key {path}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return SigningKey(kid_of(private.public_key()), private)
