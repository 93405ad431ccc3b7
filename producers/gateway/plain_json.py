"""Whether the parts of a JSON body that are not parsed are what parsing would have let pass.

msgspec skips what a type does not name, and what it gives out raw, without looking at it as closely as it parses: it
misses bytes that are not UTF-8, halves of surrogate pairs, and numbers beyond a double's range. A body that may hold
one of these, or U+0000, is not plain. This costs a sixth of parsing it, which is what is done where this cannot tell.
"""

import struct
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

DIGITS_MAX: Final = 200
"""A number of fewer digits lies beyond a double's range only with an exponent of three digits."""
SAMPLES: Final = 8
"""So many bytes of a number with more digits are looked at, at the least."""
BYTES_PER_LOOK: Final = 128
"""What looks like such an exponent is looked at as often as this, on average; then the body is parsed."""
LOOK_BACK_BYTES: Final = 40

_DECODE = msgspec.json.Decoder().decode
_STRIDE: Final = DIGITS_MAX // (SAMPLES + 1)
_LONG: Final = b"\x01" * SAMPLES
_ZERO, _TEN, _E, _LOWER = np.uint8(ord("0")), np.uint8(10), np.uint8(ord("e")), np.uint8(0x20)
_DIGITS: Final = b"0123456789"
_WORD: Final = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"


def is_plain(body: bytes) -> bool:
    """Whether `body`, which must be valid JSON as far as msgspec skips, would be parsed without an error and without
    a text that has to be replaced."""
    if not _is_utf8(body):
        return False
    has_surrogates = False
    if b"\\" in body:
        if b"\\u0000" in body:
            return False
        has_surrogates = b"\\ud" in body or b"\\uD" in body
    if not has_surrogates and not _may_have_extreme_numbers(body):
        return True
    try:
        _DECODE(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return False
    return True


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    offsets = pa.py_buffer(struct.pack("<qq", 0, len(body)))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(body)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _may_have_extreme_numbers(body: bytes) -> bool:
    """False if no number in it is beyond a double's range; sure of that for texts such as UUIDs, too."""
    codes = np.frombuffer(body, np.uint8)
    if _LONG in (codes[::_STRIDE] - _ZERO < _TEN).tobytes():
        return True
    after_digit = (codes[:-1] - _ZERO < _TEN) & (codes[1:] | _LOWER == _E)
    looks = len(body) // BYTES_PER_LOOK + 1
    for at in np.flatnonzero(after_digit).tolist():
        exponent = body[at + 2 : at + 6].removeprefix(b"+")[:3]
        if len(exponent) == 3 and not exponent.translate(None, _DIGITS):
            looks -= 1
            if not looks or not _in_word(body, at):
                return True
    return False


def _in_word(body: bytes, at: int) -> bool:
    """Whether a text begins shortly before, with nothing but letters, digits and dashes up to here: a closing quote
    would be followed by something else."""
    quote = body.rfind(b'"', max(0, at - LOOK_BACK_BYTES), at)
    return quote >= 0 and not body[quote + 1 : at].translate(None, _WORD)
