"""JSON with all that JSON cannot or should not say: a writer for it, nasty values, and mutations of a tree.

A tree is Python's own values, and beside them `Literal` (bytes as they are), `Inner` (JSON as a text within JSON) and
`Again` (a key that comes twice).
"""

import base64
import gzip
import json
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any, Final

DEEP_LEVELS: Final = (60, 64, 65, 66, 100, 1_000, 5_000)
NODES_MAX: Final = 400
"""Places of a tree that a mutation chooses from."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that stand in the JSON as they are."""

    text: bytes


@dataclass(slots=True)
class Inner:
    """JSON that stands in a text; `wrap`: how, see `wrapped`."""

    wrap: str
    value: Any


class Again(str):
    """A key that is not the same as another of its spelling."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def dump(value: Any, *, escape: bool = True) -> bytes:
    """The tree as JSON; `escape`: all but ASCII in escapes, else as UTF-8 (unpaired surrogates too, as CESU-8)."""
    if isinstance(value, dict):
        members = [_text(str(key), escape) + b":" + dump(item, escape=escape) for key, item in value.items()]
        return b"{" + b",".join(members) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join([dump(item, escape=escape) for item in value]) + b"]"
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, Inner):
        return _text(wrapped(dump(value.value, escape=escape), value.wrap).decode("utf-8", "surrogateescape"), escape)
    if isinstance(value, str):
        return _text(value, escape)
    return json.dumps(value).encode()


def wrapped(text: bytes, wrap: str) -> bytes:
    """`text` as senders wrap it."""
    if wrap == "base64":
        return base64.b64encode(text)
    if wrap == "base64url":
        return base64.urlsafe_b64encode(text).rstrip(b"=")
    if wrap == "gzip64":
        return base64.b64encode(gzip.compress(text, 1, mtime=0))
    return text


def _text(text: str, escape: bool) -> bytes:
    return json.dumps(text, ensure_ascii=escape).encode("utf-8", "surrogatepass")


TIMES: Final[tuple[Any, ...]] = (
    "2024-02-29T00:00:35.332Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2024-02-30T00:00:00Z",
    "+275760-09-13T00:00:00.000Z", "2024-01-01T24:00:00Z", "2024-01-01T00:00:60Z", "2024-01-01T00:00:00+25:00",
    "2024-01-01T00:00:00-00:00", "2024-01-01", "2024-W01-1", "20240101T000000Z", "now", "２０２４-01-01",
    "1709164835", "1709164835332", "-1", "1e3",
    1709164835, 1709164835332, 1709164835332000, 1709164835.332, -1, 0, 1e18, 2**63,
    -62135596801, 253402300800, 1e-320, Literal(b"1e308"),
)  # fmt: skip
NUMBERS: Final[tuple[Any, ...]] = (
    0, -1, 1, 1.5, -0.0, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, 5e-324,
    Literal(b"1e400"), Literal(b"-1e400"), Literal(b"NaN"), Literal(b"-Infinity"), Literal(b"Infinity"),
    Literal(b"9" * 400), Literal(b"9" * 5_000), Literal(b"0." + b"1" * 400), Literal(b"1E-999"), Literal(b"01"),
    Literal(b"1."), Literal(b"-"), Literal(b"+1"), Literal(b"0x10"),
)  # fmt: skip
TEXTS: Final[tuple[Any, ...]] = (
    "", " ", "\x00", "a\x00b", "\ud800", "\udc00\ud800", "\ud83d\ude00", "\U0001f389", "\ufeff", "\u202e", "\x7f\x1f",
    "é", "a" * 101, "a" * 513, "é" * 300, "x" * 5_000, "null", "true", "[]", "{}", '{"a":NaN}', "1e999999999", "NaN",
    "sNaN", "Infinity", "1_000", "٣", "1" * 39, "1,5", "$remote", "***", "wk_open", "wk_nobody", "__proto__",
    "http://[::1", "http://[", "//", "http://a:99999/", "http://a:b/", "https://x.y/?utm_source=%ff%00&utm_medium",
    "https://user:pw@shop.example/p?q=1#f", "javascript:alert(1)", "999.1.1.1", "fe80::1%eth0", "::ffff:1.2.3.4",
    "203.0.113.9", "0x7f.1", "track", "identify", "alias", "group", "page", "$identify", "$create_alias",
    "$groupidentify", "$set", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0", "-----",
    "=", "eyJ9", "eyJhIjoxfQ==", "iglu:com.acme/event/jsonschema/1-0-0", "iglu:/", "1920x1080", "js-", "\r\n",
    Literal(b'"\\u12"'), Literal(b'"\\ud83d"'), Literal(b'"\\x"'), Literal(b'"\xff\xfe"'), Literal(b'"\xed\xa0\x80"'),
    Literal(b'"\n"'), Literal(b'"'), Literal(b'"\\u0000"'), Literal(b'"\\\\u0000"'),
)  # fmt: skip
OTHERS: Final[tuple[Any, ...]] = (
    None, True, False, [], {}, [[]], [None], [{}], {"": None}, {"a": {"b": {}}}, [1, "a", None, {}], {"\x00": 1},
    {"\ud800": "\udc00"}, Literal(b""), Literal(b"tru"), Literal(b"undefined"), Literal(b"{,}"), Literal(b"[1,]"),
    Literal(b'{"a":1,}'), Literal(b'{"a" 1}'), Literal(b"{1:2}"), Literal(b"/**/1"), Literal(b"}"), Literal(b"]"),
)  # fmt: skip
NAMES: Final = (
    "type", "event", "name", "messageId", "userId", "anonymousId", "groupId", "previousId", "sessionId",
    "timestamp", "originalTimestamp", "sentAt", "properties", "traits", "context", "integrations", "batch",
    "writeKey", "library", "version", "ip", "page", "campaign", "os", "device", "location", "locale", "userAgent",
    "userAgentData", "url", "path", "referrer", "search", "title", "source", "medium", "term", "content", "country",
    "model", "brands", "mobile", "platform", "revenue", "value", "total", "currency", "products", "doNotTrack",
    "email", "api_key", "token", "distinct_id", "uuid", "$set", "$set_once", "$unset", "$group_set", "$group_type",
    "$group_key", "$groups", "$lib", "$lib_version", "$os", "$browser", "$device_type", "$current_url", "$referrer",
    "$ip", "$session_id", "$anon_distinct_id", "$process_person_profile", "sent_at", "historical_migration", "data",
    "$token", "$distinct_id", "$group_id", "$time", "$insert_id", "$add", "$append", "$union", "$remove", "$delete",
    "$ignore_time", "mp_lib", "time", "alias", "$identified_id", "$anon_id", "$distinct_ids", "$user_id",
    "$device_id", "event_type", "user_id", "device_id", "insert_id", "session_id", "event_id", "user_properties",
    "group_properties", "event_properties", "groups", "group_type", "group_value", "app_version", "os_name",
    "language", "events", "options", "client", "upload_time", "uuid", "schema", "e", "eid", "aid", "p", "tv", "tna",
    "uid", "duid", "nuid", "tnuid", "sid", "dtm", "ttm", "stm", "refr", "res", "lang", "tz", "ua", "ue_pr", "ue_px",
    "co", "cx", "se_ca", "se_ac", "se_la", "se_pr", "se_va", "tr_id", "tr_tt", "tr_cu", "ti_id", "specversion",
    "id", "subject", "datacontenttype", "datacontentencoding", "data_base64", "dataschema", "user", "anonymousid",
    "__proto__", "utm_source", "gclid",
)  # fmt: skip
"""Fields that the protocols know."""
BAD_NAMES: Final = ("", "\x00", "\ud800", "a.b", "k" * 300)


def nasty(rng: Random) -> Any:
    """A value that a field was not made for."""
    chosen = rng.random()
    if chosen < 0.25:
        return rng.choice(TEXTS)
    if chosen < 0.45:
        return rng.choice(NUMBERS)
    if chosen < 0.6:
        return rng.choice(TIMES)
    if chosen < 0.9:
        return _other(rng)
    if chosen < 0.94:
        levels = rng.choice(DEEP_LEVELS)
        opens, closes = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        return Literal(opens * levels + b"1" + closes * rng.choice((levels, levels, levels - 1)))
    if chosen < 0.95:
        return {f"k{number}": number for number in range(rng.choice((10, 999, 1_001)))}
    if chosen < 0.96:
        return rng.choice(("y", "é", "\U0001f389", "\\", '"')) * rng.choice((1_000, 20_000, 70_000))
    if chosen < 0.98:
        return [_other(rng) for _ in range(rng.choice((2, 20, 300)))]
    return Inner(rng.choice(("", "base64", "base64url", "gzip64")), {"a": _other(rng)})


def _other(rng: Random) -> Any:
    """One of OTHERS, to change."""
    return deepcopy(rng.choice(OTHERS))


def mutated(tree: Any, rng: Random, times: int) -> Any:
    """`tree` (changed in place where it can be) after `times` mutations."""
    holder = [tree]
    for _ in range(times):
        places: list[tuple[Any, Any]] = []
        _collect(holder, places)
        container, key = rng.choice(places)
        _mutate(container, key, rng, places)
    return holder[0]


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    """All (container, key) pairs below, NODES_MAX of them."""
    if len(places) >= NODES_MAX:
        return
    if isinstance(value, Inner):
        places.append((value, None))
        _collect(value.value, places)
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            _collect(item, places)


def _get(container: Any, key: Any) -> Any:
    return container.value if isinstance(container, Inner) else container[key]


def _put(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, Inner):
        container.value = value
    else:
        container[key] = value


def _mutate(container: Any, key: Any, rng: Random, places: list[tuple[Any, Any]]) -> None:
    """One change at one place."""
    old = _get(container, key)
    kind = rng.randrange(12)
    if kind <= 3:
        _put(container, key, nasty(rng))
    elif (kind == 4 and isinstance(container, dict)) or (
        kind == 4 and isinstance(container, list) and len(container) > 1
    ):
        del container[key]
    elif kind == 5 and isinstance(container, dict):
        container[Again(key)] = nasty(rng) if rng.random() < 0.5 else old
    elif kind == 5 and isinstance(container, list):
        container[key:key] = [old] * rng.choice((1, 2, 15, 60))
    elif kind == 6 and isinstance(container, dict):
        container[
            rng.choice(NAMES) if rng.random() < 0.8 else rng.choice(("", "\x00", "\ud800", "a.b", "k" * 300))
        ] = container.pop(key)
    elif kind == 7:
        target = old if isinstance(old, dict) else container
        if isinstance(target, dict):
            target[rng.choice(NAMES)] = nasty(rng)
    elif kind == 8:
        other, place = rng.choice(places)
        try:
            taken = _get(other, place)
        except (KeyError, IndexError):
            return
        if not isinstance(taken, dict | list | Inner):  # a tree within itself could not be written
            _put(container, key, taken)
    elif kind == 9:
        _put(container, key, rng.choice(([old], {"a": old}, [old, None], {rng.choice(NAMES): old})))
    elif kind == 10 and isinstance(old, str):
        at = rng.randint(0, len(old))
        more = rng.choice(TEXTS)
        _put(container, key, old[:at] + (more if isinstance(more, str) else "\udfff") + old[at + rng.randint(0, 3) :])
    elif kind == 10 and isinstance(old, int | float) and not isinstance(old, bool):
        _put(container, key, rng.choice((-old, old * 10, old + 0.5, str(old), old / 1000)))
    else:
        _put(container, key, rng.choice(TEXTS + TIMES))
