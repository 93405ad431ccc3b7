"""What msgspec skips without a look, and how it is told from what is harmless."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.gateway import plain_json
from producers.gateway.plain_json import is_plain


class _Known(msgspec.Struct):
    known: int = 0


SKIPPED = msgspec.json.Decoder(_Known).decode


def skipped(value: bytes) -> bytes:
    """A body of which `value` is skipped: it must be such as msgspec lets pass."""
    body = b'{"known":1,"other":%s}' % value
    SKIPPED(body)
    return body


@pytest.mark.parametrize(
    "value",
    [
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'{"\xff":1}',
        b"1e400",
        b"-1E+999",
        b"[0.5e0309]",
        b"9" * 230 + b"e99",
        b"1" + b"0" * 309 + b".5",
        b"9" * 5000,
        b'"\\u0000"',
        b'["7d5e400", 1e400]',
    ],
)
def test_what_parsing_refuses_or_replaces_is_not_plain(value: bytes) -> None:
    assert not is_plain(skipped(value))


@pytest.mark.parametrize(
    "value",
    [
        b'"7d5e4000-012f-5dbc-803f-1e0001e00012"',
        b'"a word at 12e400 and after"',
        b"1e-400",
        b"1e308",
        b"123456789012345678901234567890",
        b"9" * 199,
        '"é✓😀"'.encode(),
        b'"\\ud83d\\ude00"',
        b'"\\u00fc"',
        b'"\\n"',
    ],
)
def test_what_parsing_lets_pass_is_plain(value: bytes) -> None:
    assert is_plain(skipped(value))


def test_halves_of_surrogate_pairs_are_not_plain() -> None:
    for value in (b'"\\ud800"', b'"\\udc00x"', b'"\\uD800\\u0041"'):
        assert not is_plain(b'{"other":%s}' % value)


def test_ids_in_hexadecimal_are_not_parsed_for_their_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_json, "_DECODE", lambda _: pytest.fail("parsed"))
    ids = itertools.chain.from_iterable((f'"{i:03d}e4{i:04d}-e400"', f'"{i:06d}e000"') for i in range(200))
    assert is_plain(b'{"ids":[%s]}' % b",".join(f'{{"user":{i},"text":"{"x" * 200}"}}'.encode() for i in ids))


@given(st.sampled_from(("", "-")), st.integers(1, 250), st.integers(0, 5), st.integers(-400, 400), st.booleans())
def test_no_number_that_is_not_finite_is_plain(sign: str, digits: int, more: int, exponent: int, upper: bool) -> None:
    number = f"{sign}{'7' * digits}{'.' + '0' * more if more else ''}{'E' if upper else 'e'}{exponent}"
    try:
        msgspec.json.decode(number)
    except msgspec.DecodeError:
        assert not is_plain(skipped(number.encode()))
