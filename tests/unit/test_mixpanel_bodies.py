"""Every way in which a Mixpanel request carries its messages, and what becomes of those that carry none."""

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus, unquote_to_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.gateway.json_body import LENIENT_BYTES_MAX, BodyError, NotPlainError, Unusable, mentioned_keys
from producers.gateway.protocols.decoder import Decoded, Request
from producers.gateway.protocols.mixpanel_body import unquote
from tests.unit.round_trip import decoder_of

SURPRISE = {"emoji": "👩‍👧 🎉", "plus": "a+b c", "and": "a&b=c", "percent": "100 %", "korean": "한국"}
ONE = {"event": "Ünï ✓", "properties": {"token": "wk", "distinct_id": "u", "time": 1709164835.5, **SURPRISE}}
TWO = {"event": "2", "properties": {"token": "wk", "distinct_id": "u", "time": 1709164836, "x": ">>>???~~~ÿÿÿ"}}
PATHS = ("/track", "/import", "/engage", "/groups")


def request(
    path: str = "/track",
    body: bytes = b"",
    query: dict[str, str] | None = None,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    lenient: bool = True,
) -> Request:
    return Request(method, path, "http", query or {}, headers or {}, body, 0, lenient=lenient)


def decode(body: bytes = b"", path: str = "/track", events_max: int = 100, **more: Any) -> Decoded:
    return decoder_of(path).decode(request(path, body, **more), events_max)


def told(decoded: Decoded) -> list[tuple[Any, Any]]:
    """Name and properties of events, reasons of what is none."""
    return [
        (event.reason, event.raw) if isinstance(event, Unusable) else (event.name, event.properties)
        for event in decoded.events
    ]


def sent(*messages: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(message["event"], message["properties"]) for message in messages]


def b64(value: Any) -> bytes:
    return base64.b64encode(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def cesu8(text: str) -> bytes:
    """As mixpanel-browser writes text: each half of a pair as a character."""
    units = text.encode("utf-16-le", "surrogatepass")
    halves = [int.from_bytes(units[at : at + 2], "little") for at in range(0, len(units), 2)]
    return b"".join(chr(half).encode("utf-8", "surrogatepass") for half in halves)


BOTH = json.dumps([ONE, TWO], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "body",
    [
        urlencode({"data": json.dumps([ONE, TWO]), "verbose": 1, "ip": 0}).encode(),
        urlencode({"verbose": 1, "data": BOTH}).encode(),
        b"data=" + quote(BOTH, safe="").lower().encode() + b"&verbose=1",
        b"data=" + quote_plus(b64([ONE, TWO])).encode(),
        b"data=" + b64([ONE, TWO]),
        b"data=" + b64([ONE, TWO]).replace(b"+", b" "),
        b"data=" + b64([ONE, TWO]).rstrip(b"=") + b"&ip=1",
        b"data=" + base64.urlsafe_b64encode(BOTH),
        b"data=" + base64.encodebytes(BOTH) + b"\n",
        b"data=" + quote_plus(base64.b64encode(cesu8(BOTH.decode()))).encode(),
        BOTH,
        b"\xef\xbb\xbf \r\n" + BOTH + b"\n",
        json.dumps([ONE, TWO], indent=2).encode(),
        b"\n".join(json.dumps(item).encode() for item in (ONE, TWO)),
        b"\r\n \r\n".join(json.dumps(item).encode() for item in (ONE, TWO)) + b"\r\n",
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8", ""])
@pytest.mark.parametrize("path", ["/track", "/import"])
def test_a_batch_in_every_form(body: bytes, content_type: str, path: str) -> None:
    decoded = decode(body, path, headers={"content-type": content_type} if content_type else {}, lenient=False)
    assert told(decoded) == sent(ONE, TWO)
    assert decoded.write_keys == ["wk"]
    assert not decoded.cleaned


@pytest.mark.parametrize("data", [json.dumps(ONE), b64(ONE).decode(), b64(ONE).decode().replace("+", " ")])
def test_one_event_by_get_and_in_the_query_of_a_post(data: str) -> None:
    assert told(decode(method="GET", query={"data": data, "ip": "0", "verbose": "1"})) == sent(ONE)
    assert told(decode(query={"data": data})) == sent(ONE)
    assert told(decode(b"verbose=1", query={"data": data})) == sent(ONE)


def test_one_object_that_is_written_over_many_lines_is_one_event() -> None:
    assert told(decode(json.dumps(ONE, indent=1).encode(), "/import")) == sent(ONE)


def test_a_broken_line_spares_its_neighbours() -> None:
    lines = [
        json.dumps(ONE).encode(),
        b'{"event":"x","properties":{"v":NaN}}',
        b'{"event":"a\\u0000","properties":{}}',
        b'{"event":',
        b"[1]",
        b"5",
    ]
    body = b"\n".join([*lines, json.dumps(TWO).encode()])
    with pytest.raises(NotPlainError) as caught:
        decode(body, "/import", lenient=False)
    assert mentioned_keys(caught.value.body) == ["wk"]
    decoded = decode(body, "/import")
    assert decoded.cleaned
    assert [name for name, _ in told(decoded)] == [
        ONE["event"], "non_finite_number", "a\ufffd", "malformed_json", "not_an_object", "not_an_object", "2",
    ]  # fmt: skip
    assert told(decoded)[1][1] == lines[1]
    assert decoded.write_keys == ["wk"]


def test_lines_whose_first_is_broken_need_their_content_type() -> None:
    body = b'{"event":\n' + json.dumps(TWO).encode()
    with pytest.raises(BodyError):
        decode(body, "/import")
    headers = {"content-type": "application/x-ndjson"}
    assert [name for name, _ in told(decode(body, "/import", headers=headers))] == ["malformed_json", "2"]


def test_a_bad_event_of_a_batch_spares_its_neighbours() -> None:
    body = b'data=[{"event":"a","properties":{"token":"wk","v":Infinity}},' + quote(json.dumps(ONE)).encode() + b",7]"
    with pytest.raises(NotPlainError) as caught:
        decode(body, lenient=False)
    assert mentioned_keys(caught.value.body) == ["wk"]
    assert [name for name, _ in told(decode(body))] == ["non_finite_number", ONE["event"], "not_an_object"]


def test_a_single_bad_event_still_names_its_key() -> None:
    decoded = decode(urlencode({"data": '{"event":"a","properties":{"token":"wk","v":NaN}}'}).encode())
    assert [name for name, _ in told(decoded)] == ["non_finite_number"]
    assert decoded.write_keys == ["wk"]
    message = b'{"$token":"wk","$distinct_id":"u","$unset":[{"v":NaN}]}'
    assert told(decode(message, "/engage")) == [("non_finite_number", message)]


def test_unpaired_surrogates_become_replacement_characters() -> None:
    data = base64.b64encode(cesu8('{"event":"a\ud800b 🎉","properties":{"token":"wk"}}'))
    with pytest.raises(NotPlainError):
        decode(b"data=" + data, lenient=False)
    decoded = decode(b"data=" + data)
    assert decoded.cleaned
    assert told(decoded)[0][0].endswith("b 🎉")
    assert "\ufffd" in told(decoded)[0][0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b" \n", "empty_body"),
        (b"data=", "empty_body"),
        (b"data=++", "empty_body"),
        (b"verbose=1", "data_missing"),
        (b"\xff\xfe\x00", "data_missing"),
        (b"hello", "data_missing"),
        (b"data=%%%", "malformed_base64"),
        (b"data=abcde", "malformed_base64"),
        (b"data=ab=cd", "malformed_base64"),
        (b"data=\xc3\xa9\xc3\xa9", "malformed_base64"),
        (b"data=NQ==", "not_an_object"),
        (b"data=" + base64.b64encode(b"\xff" * 30), "malformed_json"),
        (b"{", "malformed_json"),
        (b"[{]", "malformed_json"),
        (b'{"event":"x"', "malformed_json"),
        (b"[" + b"{}," * 100 + b"{}]", "too_many_events"),
        (b"{}\n" * 101, "too_many_events"),
        (b'{"a":NaN}\n{}' + b"\n" * 101 + b"{}", None),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_bodies_without_messages_are_refused(body: bytes, reason: str | None, path: str) -> None:
    if reason is None:
        decode(body, path)
        return
    with pytest.raises(BodyError) as caught:
        decode(body, path)
    assert caught.value.reason == reason
    assert caught.value.status == (413 if reason == "too_many_events" else 400)


def test_a_get_without_data_or_with_one_too_deep_to_be_kept_is_refused() -> None:
    for query, reason in (({}, "empty_body"), ({"data": ""}, "empty_body"), ({"data": "[" * 9999}, "too_deep")):
        with pytest.raises(BodyError) as caught:
            decode(b"data=" + b64(ONE), method="GET", query=query)
        assert caught.value.reason == reason


def test_messages_that_are_not_plain_are_bounded_by_the_body_they_came_in() -> None:
    body = b"pad=" + b"x" * LENIENT_BYTES_MAX + b"&data=" + quote('[{"v":NaN}]').encode()
    lines = b'{"v":NaN}\n{}\n' + b" " * LENIENT_BYTES_MAX + b"\n{}"
    for content in (body, lines):
        with pytest.raises(NotPlainError):
            decode(content, lenient=False)
        with pytest.raises(BodyError) as caught:
            decode(content)
        assert (caught.value.status, caught.value.reason) == (413, "body_too_large")


def test_keys_besides_the_messages_come_last() -> None:
    body = urlencode({"data": json.dumps([ONE]), "api_key": "legacy"}).encode()
    assert decode(body, "/import", query={"token": "in_query"}).write_keys == ["wk", "in_query", "legacy"]
    assert decode(b"[]", query={"token": "in_query"}).write_keys == ["in_query"]
    assert decode(b"[]").write_keys == []


def test_an_event_of_another_token_is_set_aside() -> None:
    other = {"event": "3", "properties": {"token": "other"}}
    none = {"event": "4", "properties": {}}
    decoded = decode(json.dumps([none, ONE, other]).encode())
    assert [name for name, _ in told(decoded)] == ["4", ONE["event"], "other_write_key"]
    assert json.loads(told(decoded)[2][1]) == other
    assert decoded.write_keys == ["wk"]


def test_much_cesu8_is_for_known_keys_only() -> None:
    events = [{"event": "🎉" * 99, "properties": {"token": "wk"}}] * 600
    body = b"data=" + base64.b64encode(cesu8(json.dumps(events, ensure_ascii=False)))
    with pytest.raises(NotPlainError) as caught:
        decode(body, events_max=600, lenient=False)
    assert mentioned_keys(caught.value.body) == ["wk"]
    decoded = decode(body, events_max=600)
    assert told(decoded) == sent(*events)
    assert not decoded.cleaned


def test_percent_signs_that_begin_no_escape_are_kept_up_to_a_bound() -> None:
    ninety = {"event": "90 % of 100%", "properties": {"token": "wk", "x": "%%zz%4"}}
    assert told(decode(b"data=" + json.dumps(ninety).encode())) == sent(ninety)
    with pytest.raises(BodyError) as caught:
        decode(b"data=" + b"%" * 10_001)
    assert caught.value.reason == "malformed_form"


@given(st.binary(max_size=60) | st.text("%0123456789aAfFgG=+&\n\r ", max_size=40).map(str.encode))
def test_unquoting_is_what_the_standard_library_does(escaped: bytes) -> None:
    assert unquote(escaped) == unquote_to_bytes(escaped)
