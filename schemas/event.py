"""Bounds of an event's parts, applied at the door by whatever writes events."""

import re
import unicodedata
from typing import Final

import xxhash

EVENT_TYPES: Final = frozenset(("track", "page", "screen", "identify", "group", "alias", "profile", "group_profile"))
DIMENSION_BYTES_MAX: Final = 255
"""A path of 2,700 characters would exceed Postgres' btree limit and jam a shard; three of these fit easily."""
MESSAGE_ID_CHARS_MAX: Final = 100
TIMESTAMP_US_MIN: Final = 946_684_800_000_000
"""2000-01-01T00:00:00Z: earlier times are broken clocks, not events."""
TIMESTAMP_US_MAX: Final = 4_102_444_800_000_000
"""2100-01-01T00:00:00Z."""
VALUE_E6_MAX: Final = 10**15
"""A thousand million in units: 9,200 such values in one row would be needed to overflow a 64-bit sum."""

_UNFIT: Final = re.compile(r"[\x00\x1f\ud800-\udfff]")
_HASH_MARK: Final = "~"


def bound_dimension(text: str) -> str:
    """`text` fit to be a rollup's dimension: at most 255 bytes of UTF-8, without U+0000, U+001F (which separates
    dimensions) and unpaired surrogates.

    A longer one keeps its beginning and ends in `~` and a hash of the whole, so that different ones stay
    different.
    """
    clean = _UNFIT.sub("\ufffd", text)
    encoded = clean.encode()
    if len(encoded) <= DIMENSION_BYTES_MAX:
        return clean
    digest = xxhash.xxh64_hexdigest(encoded)
    kept = encoded[: DIMENSION_BYTES_MAX - len(digest) - 1].decode(errors="ignore")
    while kept and unicodedata.combining(kept[-1]):
        kept = kept[:-1]
    return f"{kept}{_HASH_MARK}{digest}"


def bound_message_id(message_id: str) -> tuple[str, bool]:
    """The id as stored, and whether it had to be replaced by its hash (over 100 characters)."""
    if len(message_id) <= MESSAGE_ID_CHARS_MAX:
        return message_id, False
    return "xxh128-" + xxhash.xxh128_hexdigest(message_id.encode(errors="surrogatepass")), True


def record_key(customer_id: int) -> bytes:
    """The Kafka key of a customer's events."""
    return b"%d" % customer_id
