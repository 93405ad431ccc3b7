"""Bodies: what is parsed, what is repaired, what is named unusable without harm to its neighbours."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.gateway.json_body import (
    DEPTH_MAX,
    LENIENT_BYTES_MAX,
    LISTS_MAX,
    MENTIONED_KEYS_MAX,
    BodyError,
    NotPlainError,
    Unusable,
    clean_text,
    key_count,
    mentioned_keys,
    nests_deeper,
    parse,
)

ELEMENTS_MAX = 1000
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nested(levels: int) -> bytes:
    """An object around lists, `levels` deep in all."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def elements(body: bytes) -> list[Any]:
    value = parse(body, ELEMENTS_MAX).value
    batch: list[Any] = value["batch"]
    return batch


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"a":NaN}', "non_finite_number"),
        (b'{"a":-Infinity}', "non_finite_number"),
        (b'{"a":1e400}', "non_finite_number"),
        (b'{"a":{"b":[-1e400]}}', "non_finite_number"),
        (nested(2000), "too_deep"),
        (nested(DEPTH_MAX)[:-1] + b',"b":NaN}', "non_finite_number"),
        (nested(DEPTH_MAX + 1)[:-1] + b',"b":NaN}', "too_deep"),
        (b'{"a":tru}', "malformed_json"),
        (b'{"a":1,}', "malformed_json"),
        (b'{"a":"\\x"}', "malformed_json"),
        (b'{"a":"tab\tbare"}', "malformed_json"),
        (b'{"a":' + b"9" * 5000 + b"}", "malformed_json"),
    ],
)
def test_a_bad_element_spares_its_neighbours(bad: bytes, reason: str) -> None:
    # One neighbour holds all the characters that could confuse a scanner.
    tricky = {"x": '"]},{[\\', "y": [{"z": "\\"}], "ü{": {}}
    body = b'{"sentAt":"now","batch":[{"i":0}, ' + bad + b" ,%s, 5]}" % json.dumps(tricky).encode()
    first, second, third, fourth = elements(body)
    assert (first, third, fourth) == ({"i": 0}, tricky, 5)
    assert isinstance(second, Unusable)
    assert (second.reason, second.raw) == (reason, bad)


def test_depth_up_to_the_bound_is_taken() -> None:
    body = b'{"batch":[' + nested(DEPTH_MAX) + b',{"a":NaN}]}'
    deep, bad = elements(body)
    assert isinstance(bad, Unusable)
    assert not isinstance(deep, Unusable)


def test_a_body_that_is_a_list_is_parsed_element_by_element_too() -> None:
    value = parse(b'[{"a":NaN},{"b":1}]', ELEMENTS_MAX).value
    assert isinstance(value[0], Unusable)
    assert value[1] == {"b": 1}


def test_a_single_bad_event_is_unusable_and_not_a_bad_body() -> None:
    value = parse(nested(2000), ELEMENTS_MAX).value
    assert isinstance(value, Unusable)
    assert value.reason == "too_deep"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b"   ", "empty_body"),
        (b"{", "malformed_json"),
        (b'{"batch":[{"a":1}', "malformed_json"),
        (b'{"batch":[{"a":1}]}]', "malformed_json"),
        (b'{"batch":[{"a":"]}', "malformed_json"),
        (b'{"batch" [{"a":NaN}]}', "malformed_json"),
        (b"a=b&c=d", "malformed_json"),
        (b"\x1f\x8b\x08", "malformed_json"),
        (b"NaN", "not_an_object"),
    ],
)
def test_what_has_no_structure_is_refused_whole(body: bytes, reason: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse(body, ELEMENTS_MAX)
    assert (caught.value.reason, caught.value.status) == (reason, 400)


def test_a_long_list_is_refused_before_its_elements_are_parsed() -> None:
    with pytest.raises(BodyError) as caught:
        parse(b'{"batch":[' + b'{"a":NaN},' * 20 + b"{}]}", 20)
    assert (caught.value.reason, caught.value.status) == ("too_many_events", 413)


def test_lenient_work_is_bounded_before_it_begins() -> None:
    lists = b",".join(b'"k%d":[]' % number for number in range(LISTS_MAX + 1))
    numbers = b"1," * ELEMENTS_MAX + b"1"
    cases = [
        (b"{" + lists + b',"batch":[NaN]}', 400, "malformed_json"),
        (b'{"batch":[' + numbers + b'],"x":NaN}', 413, "too_many_events"),
        (b'{"batch":[NaN],"x":"' + b"y" * LENIENT_BYTES_MAX + b'"}', 413, "body_too_large"),
    ]
    for body, status, reason in cases:
        started = time.process_time()
        with pytest.raises(BodyError) as caught:
            parse(body, ELEMENTS_MAX)
        assert (caught.value.status, caught.value.reason) == (status, reason)
        assert time.process_time() - started < 0.2


def test_without_leave_only_plain_json_is_parsed() -> None:
    assert parse(b'{"batch":[1]}', ELEMENTS_MAX, lenient=False).value == {"batch": [1]}
    for body in (b'{"batch":[NaN]}', b'{"batch":["\\u0000"]}', b"{", b""):
        with pytest.raises(NotPlainError):
            parse(body, ELEMENTS_MAX, lenient=False)


def test_keys_are_found_in_a_body_that_is_not_parsed() -> None:
    assert mentioned_keys(b'{"writeKey" : "wk_a-1","batch":[NaN]}') == ["wk_a-1"]
    assert mentioned_keys(b'{"batch":[NaN]}') == []
    assert len(mentioned_keys(b"".join(b'"writeKey":"%d",' % number for number in range(99)))) == MENTIONED_KEYS_MAX


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b'"\\ud800"', "\ufffd"),
        (b'"a\\udc00b"', "a\ufffdb"),
        (b'"\\ud83c\\udf89"', "🎉"),
        (b'"\\ud83c"', "\ufffd"),
        (b'"x\\u0000y"', "x\ufffdy"),
        (b'"\xed\xa0\xbc\xed\xbe\x89"', "🎉"),  # CESU-8
        (b'"\xff"', "\ufffd"),
    ],
)
def test_text_that_cannot_be_stored_is_replaced(sent: bytes, stored: str) -> None:
    parsed = parse(b'{"batch":[{"k":' + sent + b"}]}", ELEMENTS_MAX)
    assert parsed.value["batch"] == [{"k": stored}]
    if stored != "🎉":
        assert parsed.cleaned


def test_keys_are_cleaned_and_the_last_of_equal_keys_wins() -> None:
    parsed = parse(b'{"batch":[{"a\\u0000":1,"b":2,"b":3,"\\ud800":4}]}', ELEMENTS_MAX)
    assert parsed.value["batch"] == [{"a\ufffd": 1, "b": 3, "\ufffd": 4}]
    assert parsed.cleaned


def test_a_deep_body_with_a_null_character_is_cleaned_within_the_stack() -> None:
    fine, deep = elements(b'{"batch":[{"a":"\\u0000"},' + nested(500) + b"]}")
    assert fine == {"a": "\ufffd"}
    assert isinstance(deep, Unusable)
    assert deep.reason == "too_deep"


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse(b'\xef\xbb\xbf{"batch":[{"a":1}]}', ELEMENTS_MAX).value == {"batch": [{"a": 1}]}


@given(st.text(st.characters(codec=None)))
@settings(deadline=None)
def test_cleaned_text_can_be_encoded_and_good_text_is_left_alone(text: str) -> None:
    cleaned = clean_text(text)
    assert "\x00" not in cleaned
    cleaned.encode()
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert cleaned == text.replace("\x00", "\ufffd")


@given(st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=5), max_size=6), st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_the_lenient_way_gives_what_the_fast_way_gives(events: list[dict[str, Any]], at: int) -> None:
    """A NaN put among good events changes nothing about them."""
    texts = [json.dumps(event) for event in events]
    good = parse(('{"batch":[' + ",".join(texts) + "]}").encode(), ELEMENTS_MAX).value["batch"]
    texts.insert(min(at, len(texts)), '{"bad":NaN}')
    found = parse(('{"batch":[' + ",".join(texts) + "]}").encode(), ELEMENTS_MAX).value["batch"]
    assert sum(isinstance(item, Unusable) for item in found) == 1
    assert [item for item in found if not isinstance(item, Unusable)] == good


@given(JSON_VALUES)
@settings(deadline=None)
def test_depth_and_keys_are_counted_as_a_walk_counts_them(value: Any) -> None:
    encoded = json.dumps(value).encode()
    levels, keys = walk(value)
    assert not nests_deeper(encoded, levels)
    if levels:
        assert nests_deeper(encoded, levels - 1)
    assert key_count(encoded, 0) == keys


def walk(value: Any) -> tuple[int, int]:
    """Depth and keys, counted the plain way."""
    below = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if below is None:
        return 0, 0
    counted = [walk(item) for item in below]
    own = len(value) if isinstance(value, dict) else 0
    return 1 + max((levels for levels, _ in counted), default=0), own + sum(keys for _, keys in counted)
