"""Stable 64-bit hashes of whole columns.

`hash_utf8` is XXH64 with seed 0 of each string's UTF-8 bytes, bit for bit what the `xxhash` package answers (a test
compares them at every length), computed for all strings of one length at once on the Arrow buffers: a call of the
package per string costs two to five times as much. `mix` is a bijection of 64-bit words (the finaliser of
splitmix64, with the constants of Stafford's variant 13), so that combining keys loses nothing but what the
combination itself loses. Nothing here depends on library versions or on the machine.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash

from streams.fold.columns import I64, U64

P1: Final = np.uint64(0x9E3779B185EBCA87)
P2: Final = np.uint64(0xC2B2AE3D27D4EB4F)
P3: Final = np.uint64(0x165667B19E3779F9)
P4: Final = np.uint64(0x85EBCA77C2B2AE63)
P5: Final = np.uint64(0x27D4EB2F165667C5)

STRINGS_VECTORISED_MIN: Final = 768
"""Fewer strings of one length are hashed one by one: each of some hundred steps costs a microsecond by itself."""
BLOCK: Final = 8192
"""Strings hashed at once; their words stay in the processor's second cache."""


def mix(words: U64) -> U64:
    """A bijection of 64-bit words in which every output bit depends on every input bit."""
    out = words ^ (words >> np.uint64(30))
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out


def hash_utf8(strings: Any) -> U64:
    """XXH64 of each string of an Arrow string array; a null hashes as the empty string."""
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.combine_chunks()
    count = len(strings)
    if not count:
        return np.empty(0, np.uint64)
    if not pa.types.is_string(strings.type):
        strings = strings.cast(pa.string())
    _, offset_buffer, data_buffer = strings.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32, count + 1, strings.offset * 4).astype(np.int64)
    data = memoryview(data_buffer or b"")[int(offsets[0]) : int(offsets[-1])]
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    if strings.null_count:
        lengths = np.where(np.asarray(strings.is_valid()), lengths, 0)
    return _hash_by_length(data, starts, lengths)


def _hash_by_length(data: memoryview, starts: I64, lengths: I64) -> U64:
    counts = np.bincount(lengths)
    common = np.flatnonzero(counts >= STRINGS_VECTORISED_MIN)
    if not len(common):
        return _hash_each(data, starts, lengths)
    out = np.empty(len(starts), np.uint64)
    rare = np.flatnonzero(counts[lengths] < STRINGS_VECTORISED_MIN)
    out[rare] = _hash_each(data, starts[rare], lengths[rare])
    words = np.zeros(len(data) // 8 + 3, np.uint64)
    words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    for length in common:
        picked = np.flatnonzero(lengths == length) if counts[length] < len(starts) else np.arange(len(starts))
        for block in range(0, len(picked), BLOCK):
            some = picked[block : block + BLOCK]
            out[some] = _xxh64(words, starts[some], int(length))
    return out


def _hash_each(data: memoryview, starts: I64, lengths: I64) -> U64:
    spans = zip(starts.tolist(), lengths.tolist(), strict=True)
    return np.array([xxhash.xxh64_intdigest(data[start : start + n]) for start, n in spans], np.uint64)


class _Words:
    """Reads 64-bit little-endian words at any byte of a column of strings."""

    def __init__(self, words: U64, starts: I64) -> None:
        self._words = words
        self._at = starts >> 3
        shift = ((starts & 7) << 3).astype(np.uint64)
        self._down, self._up = shift, np.uint64(63) - shift
        self._last: tuple[int, U64] | None = None

    def word(self, number: int) -> U64:
        """Bytes 8 * number … + 7 of each string (and whatever follows a string's end)."""
        low = self._last[1] if self._last and self._last[0] == number else self._words[self._at + number]
        high = self._words[self._at + (number + 1)]
        self._last = (number + 1, high)
        out: U64 = (low >> self._down) | ((high << np.uint64(1)) << self._up)
        return out


def _xxh64(words: U64, starts: I64, length: int) -> U64:
    """XXH64, seed 0, of strings that all have `length` bytes. Source: the xxHash specification, version 0.1.1."""
    reader = _Words(words, starts)
    number = 0
    with np.errstate(over="ignore"):
        if length >= 32:
            zero = np.zeros(len(starts), np.uint64)
            lanes = [zero + (P1 + P2), zero + P2, zero, zero - P1]
            for _ in range(length // 32):
                for lane in range(4):
                    lanes[lane] = _round(lanes[lane], reader.word(number))
                    number += 1
            out = _rotated(lanes[0], 1) + _rotated(lanes[1], 7) + _rotated(lanes[2], 12) + _rotated(lanes[3], 18)
            for words_of_lane in lanes:
                out = (out ^ _round(zero, words_of_lane)) * P1 + P4
        else:
            out = np.full(len(starts), P5)
        out += np.uint64(length)
        return _avalanche(_tail(out, reader, number, length % 32))


def _tail(out: U64, reader: _Words, number: int, left: int) -> U64:
    while left >= 8:
        out = _rotated(out ^ _round(np.zeros_like(out), reader.word(number)), 27) * P1 + P4
        number, left = number + 1, left - 8
    if not left:
        return out
    word = reader.word(number)
    if left >= 4:
        out = _rotated(out ^ ((word & np.uint64(0xFFFFFFFF)) * P1), 23) * P2 + P3
        word, left = word >> np.uint64(32), left - 4
    for _ in range(left):
        out = _rotated(out ^ ((word & np.uint64(0xFF)) * P5), 11) * P1
        word = word >> np.uint64(8)
    return out


def _round(lane: U64, word: U64) -> U64:
    return _rotated(lane + word * P2, 31) * P1


def _rotated(words: U64, bits: int) -> U64:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _avalanche(out: U64) -> U64:
    out = (out ^ (out >> np.uint64(33))) * P2
    out = (out ^ (out >> np.uint64(29))) * P3
    return out ^ (out >> np.uint64(32))
