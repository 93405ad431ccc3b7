"""Bodies of Segment requests for Hypothesis: JSON as it may be written, rather than as a library writes it."""

import json
from collections.abc import Mapping

from hypothesis import strategies as st

NUMBERS = st.sampled_from(
    (
        "0", "1", "-1", "-0", "12.50", "1e2", "1E+2", "0.1e1", "1e15", "1e16", "1e-7", "1e-400", "1e308", "1e309",
        "1e400", "-1E999", "12345678901234567890123", "1000000000", "1000000001", "0.0000005", "1700000000",
        "99999999999999999999.5", "1700000000000", "9" * 199, "9" * 200, "9" * 230 + "e99", "1" + "0" * 400 + ".5",
        "0." + "0" * 250 + "1",
    )
)  # fmt: skip
STRINGS = st.one_of(
    st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text(st.characters(codec="utf-8"), max_size=12).map(json.dumps),
    st.sampled_from(
        (
            '"\\ud83d\\ude00"', '"\\ud800"', '"\\udc00x"', '"\\u0000"', '"a\\/b"', '"\\u007b\\u003a"', '"7d5e4000-1"',
            '"at 12e400 now"', '"{[{[{[{[{["', '"::::"', '"\\\\u0000"', '"é✓"', '"12.5"', '" 7 "', '"1e999"', '"nan"',
            '""',             '"https://www.example.org/a?utm_source=x&utm_medium=y"', '"EUR"', '"eur"', '"x"',
        )
    ),
)  # fmt: skip
SPACES = st.sampled_from(("", "", "", " ", "\n\t"))
NAMES = [
    "ip", "page", "campaign", "library", "userAgent", "userAgentData", "os", "device", "location", "traits",
    "sessionId", "url", "path", "referrer", "search", "name", "version", "revenue", "value", "total", "currency",
    "country", "type",
]  # fmt: skip
KEYS = st.sampled_from([json.dumps(name) for name in NAMES] + ['"revenu\\u0065"', '"a"', '"a"', '""']) | STRINGS


def an_object(members: list[tuple[str, str]], space: str) -> str:
    return "{" + ",".join(f"{space}{key}{space}:{space}{value}" for key, value in members) + space + "}"


def objects(values: st.SearchStrategy[str], most: int = 5) -> st.SearchStrategy[str]:
    return st.builds(an_object, st.lists(st.tuples(KEYS, values), max_size=most), SPACES)


VALUES = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(("true", "false", "null")),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]") | objects(inner),
    max_leaves=10,
)
TIMES = st.sampled_from(
    (
        "2026-11-24T00:00:35.332+00:00", "2026-09-21T12:13:14Z", "2026-09-21T12:13:14.123456789Z", "2026-09-21",
        "2026-09-21T12:13:14", "2026-09-21 12:13:14+02:00", "2026-06-30T23:59:60Z", "1999-12-31T23:59:59Z",
        "2100-01-01T00:00:00Z", "+012026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "yesterday", "",
        "20260921T121314Z",
        "2000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:00", "2026-09-21T14:13:20.000001Z",
    )
).map(json.dumps)  # fmt: skip
IDS = st.sampled_from(('"u-1"', '"u-2"', '""', "null", '"ü✓"', '"\\u00fc"', '"' + "x" * 101 + '"'))
ANY = NUMBERS | STRINGS | VALUES
OBJECTS = objects(VALUES) | objects(VALUES, most=14)
TYPES = st.sampled_from(("track", "page", "screen", "identify", "group", "alias", "profile")).map(json.dumps)
FIELDS: Mapping[str, st.SearchStrategy[str]] = {
    "type": TYPES,
    "event": st.sampled_from(('"e"', '"order"', '"\\u00fc"', '""', "null", '"' + "n" * 300 + '"')),
    "name": st.sampled_from(('"Home"', '""', "null", '"' + "n" * 300 + '"')),
    "messageId": st.sampled_from(('"m-1"', '"m-2"', '"' + "y" * 100 + '"')) | IDS,
    "userId": IDS,
    "anonymousId": IDS,
    "groupId": IDS,
    "previousId": IDS,
    "sessionId": IDS,
    "timestamp": TIMES,
    "originalTimestamp": TIMES,
    "sentAt": TIMES,
    "properties": OBJECTS | st.just("null"),
    "traits": OBJECTS | st.just("null"),
    "context": OBJECTS | st.just("null"),
    "integrations": VALUES,
}
MEMBERS = st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), FIELDS[name]))
ODD_MEMBERS = st.tuples(st.sampled_from(sorted(FIELDS)), ANY)
BASE = [("type", '"track"'), ("event", '"e"'), ("messageId", '"m"')]


def a_message(parts: tuple[list[tuple[str, str]], list[tuple[str, str]], str]) -> str:
    members, odd, space = parts
    return an_object([(json.dumps(name), value) for name, value in (*BASE, *members, *odd)], space)


MESSAGES = st.tuples(st.lists(MEMBERS, max_size=7), st.just([]), SPACES).map(a_message)
ODD_MESSAGES = ANY | st.tuples(st.lists(MEMBERS, max_size=3), st.lists(ODD_MEMBERS, max_size=2), SPACES).map(
    a_message
)
LISTS = st.lists(MESSAGES, max_size=4) | st.lists(MESSAGES | ODD_MESSAGES, max_size=4)
AROUND = st.lists(
    st.one_of(
        st.tuples(st.just('"sentAt"'), TIMES | ANY),
        st.tuples(st.just('"writeKey"'), STRINGS),
        st.tuples(st.just('"context"'), st.sampled_from(("null", "{}", '{"a":1}', "[]"))),
        st.tuples(st.just('"other"'), VALUES),
        st.tuples(st.just('"batch"'), st.just("[]")),
    ),
    max_size=2,
)
HARM = st.none() | st.none() | st.none() | st.tuples(
    st.floats(0, 1), st.sampled_from((b"\xff", b"\xed\xa0\x80", b"\x00", b'"', b"}", b"\xc3\xa9", b"1e400", b"["))
)  # fmt: skip
HEADERS = st.sampled_from(({}, {"sentat": "2026-09-21T14:00:00Z"}, {"x-retry-count": "2"}, {"sentat": "never"}))


def harmed(text: str, harm: tuple[float, bytes] | None) -> bytes:
    body = text.encode("utf-8", "surrogatepass")
    if harm is None:
        return body
    at = int(harm[0] * len(body))
    return body[:at] + harm[1] + body[at:]
