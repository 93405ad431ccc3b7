"""What every SDK is asked to send: sixty calls of all kinds, with everything that ever broke on its way.

A call says what a person does, not how an SDK spells it; the drivers translate. Deterministic: the same seed gives
the same calls, so that a second run repeats the first one's ids.
"""

import random
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

KINDS: Final = ("track", "page", "track", "identify", "track", "screen", "track", "group", "track", "alias")
"""Of ten calls each."""
COUNT: Final = 60
NAMES: Final = (
    "Order Completed",
    "Заказ оформлен",
    "购买完成",
    "שלום עולם",
    "🎉 emoji 👩‍👩‍👧‍👦",
    "e\u0301 combining",
    "tab\tnewline\nend",
    "quote\" back\\slash 'single'",
    "a+b=c&d%20e?f#g",
    "<b>&amp;</b>",
)
LONG_CHARS: Final = 3000
STEP_S: Final = 7.331
"""Between two calls; not a whole number of anything."""
AGE_S: Final = 900
"""How long ago the first call was made."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `id` is for SDKs that take one; `timestamp` None: the SDK's own clock."""

    seq: int
    kind: str
    id: str
    user: str
    anonymous: str
    name: str
    properties: dict[str, Any]
    timestamp: str | None
    group: str
    previous: str

    def as_json(self) -> dict[str, Any]:
        """For a driver."""
        return asdict(self)


def make_calls(seed: str, until: datetime, count: int = COUNT) -> list[Call]:
    """`count` calls of the quarter of an hour before `until`; every sixth has no time of its own."""
    return list(_calls(seed, until, count))


def _calls(seed: str, until: datetime, count: int) -> Iterator[Call]:
    rng = random.Random(seed)
    start = until - timedelta(seconds=AGE_S)
    for seq in range(count):
        kind = KINDS[seq % len(KINDS)]
        at = start + timedelta(seconds=seq * STEP_S)
        alias = kind == "alias"
        yield Call(
            seq=seq,
            kind=kind,
            id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            user=f"new-{seq:02}" if alias else f"user-{seq % 7}",
            anonymous=f"anon-{seq % 5}",
            name=NAMES[seq // 2 % len(NAMES)] if kind == "track" else f"Page {seq} é",
            properties=properties(rng, seq),
            timestamp=None if seq % 6 == 5 else iso(at),
            group=f"group-{seq:02}",
            previous=f"old-{seq:02}",
        )


def properties(rng: random.Random, seq: int) -> dict[str, Any]:
    """Nested, in many scripts, with numbers at the edges of what a double holds."""
    made: dict[str, Any] = {
        "seq": seq,
        "price": round(rng.uniform(0, 1000), 2),
        "tiny": 1e-07,
        "huge": 1.7976931348623157e308,
        "big_int": 2**53 - 1,
        "negative": -42,
        "sum": 0.1 + 0.2,
        "ok": seq % 2 == 0,
        "text": NAMES[seq % len(NAMES)],
        "empty": "",
        "list": [1, "two", 3.5, False, {"k": ["v"]}],
        "products": [{"sku": f"SKU-{n}", "qty": n + 1, "price": 9.99} for n in range(seq % 3)],
        "nested": {"a": {"b": {"c": {"d": {"e": seq}}}}},
        "key with space": 1,
        "dotted.key": "d",
        "$dollar": "s",
        "ключ": "кириллица",
        "date_str": "2024-02-29T00:00:00Z",
    }
    if seq % 4 == 0:
        made |= {"revenue": round(rng.uniform(1, 500), 2), "currency": "EUR"}
    if seq % 10 == 6:
        made["long"] = f"{'long ' * (LONG_CHARS // 5)}end"
    if seq % 10 == 8:
        made["half"] = "half a pair \ud83d, then a NUL \x00."
    return made


def iso(at: datetime) -> str:
    """As JavaScript writes it: milliseconds and Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
