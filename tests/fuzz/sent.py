"""One input of the fuzzing: a request as the server hands it to the gateway. Its repr is Python that makes it."""

from dataclasses import dataclass
from typing import Any

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """`path` decoded, `query` as on the wire, header names in lower case; the body comes in pieces of `piece` bytes
    (0: in one)."""

    method: str
    path: str
    query: bytes = b""
    headers: Headers = ()
    body: bytes = b""
    piece: int = 0

    def scope(self) -> dict[str, Any]:
        """As ASGI's scope."""
        return {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "scheme": "https",
            "query_string": self.query,
            "headers": list(self.headers),
            "client": ("203.0.113.7", 40_000),
        }

    def pieces(self) -> list[bytes]:
        """The body as it arrives."""
        if not self.piece:
            return [self.body]
        return [self.body[at : at + self.piece] for at in range(0, len(self.body), self.piece)] or [b""]
