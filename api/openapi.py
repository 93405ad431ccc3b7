"""The API's contract as a document: `python -m api.openapi > api/openapi.json` writes the committed one.

A test compares the two, so that no change of the contract goes unseen.
"""

import sys
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.app import create_app
from api.auth.keys import SigningKey
from api.serve import make_deps
from headrace.clock import SystemClock
from headrace.settings import Settings


def document() -> dict[str, Any]:
    """openapi.json of an application that is connected to nothing."""
    key = SigningKey("none", Ed25519PrivateKey.generate())
    return create_app(make_deps(Settings(), key, SystemClock())).openapi()


def text() -> str:
    """The document as it is committed: sorted and indented, so that differences can be read."""
    plain = msgspec.json.encode(document(), order="sorted")
    return msgspec.json.format(plain, indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
