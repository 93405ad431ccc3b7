"""The recorded requests of real SDKs (tests/fixtures/sdk_requests.jsonl), read for tests."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "fixtures" / "sdk_requests.jsonl"
SEGMENT_DRIVERS = frozenset(("segment-python", "segment-node", "rudder-node", "analytics-next"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request, and the canonical events that it must yield."""

    driver: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    received_at_us: int
    expect: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.driver} {self.method} {self.path}"


def recorded(drivers: frozenset[str] = SEGMENT_DRIVERS) -> list[Recorded]:
    """The requests of `drivers`, in the file's order."""
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    return [
        Recorded(
            row["driver"],
            row["method"],
            row["path"],
            row["query"],
            row["headers"],
            base64.b64decode(row["body_b64"]),
            microseconds(row["received_at"]),
            row["expect"],
        )
        for row in rows
        if row["driver"] in drivers
    ]


def microseconds(text: str) -> int:
    """ISO-8601 as microseconds since the epoch."""
    elapsed = datetime.fromisoformat(text) - EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
