"""The fold's own XXH64 over columns is the one of the xxhash package, bit for bit, at every length."""

import random

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from streams.fold.hashing import BLOCK, STRINGS_VECTORISED_MIN, hash_utf8, mix


def _expected(texts: list[str]) -> list[int]:
    return [xxhash.xxh64_intdigest(t.encode()) for t in texts]


def test_golden() -> None:
    """Published vectors of XXH64 with seed 0, through the vectorised path."""
    for text, digest in (("", 0xEF46DB3751D8E999), ("a", 0xD24EC4F1A98C6E5B), ("abc", 0x44BC2CF5AD770999)):
        assert hash_utf8(pa.array([text] * STRINGS_VECTORISED_MIN)).tolist() == [digest] * STRINGS_VECTORISED_MIN


@pytest.mark.parametrize("length", range(140))
def test_every_length(length: int) -> None:
    rnd = random.Random(length)
    texts = ["".join(chr(rnd.randrange(32, 127)) for _ in range(length)) for _ in range(STRINGS_VECTORISED_MIN + 3)]
    assert hash_utf8(pa.array(texts)).tolist() == _expected(texts)


def test_mixed_lengths_slices_and_types() -> None:
    rnd = random.Random(2)
    texts = ["".join(rnd.choice("abé日\U0001f600") for _ in range(rnd.randrange(70))) for _ in range(5_000)]
    column = pa.array(texts)
    assert hash_utf8(column).tolist() == _expected(texts)
    assert hash_utf8(column[313:4_001]).tolist() == _expected(texts[313:4_001])
    assert hash_utf8(column.cast(pa.large_string())).tolist() == _expected(texts)
    assert hash_utf8(pa.chunked_array([column[:100], column[100:]])).tolist() == _expected(texts)


def test_more_than_a_block() -> None:
    texts = [f"user-{i:08d}" for i in range(2 * BLOCK + 5)]
    assert hash_utf8(pa.array(texts)).tolist() == _expected(texts)


def test_nulls_and_nothing() -> None:
    column = pa.array([None, "a", None] * 40)
    assert hash_utf8(column).tolist() == _expected(["", "a", ""] * 40)
    assert hash_utf8(column[1:]).tolist() == _expected((["", "a", ""] * 40)[1:])
    assert len(hash_utf8(pa.array([], pa.string()))) == 0


def test_mix_is_stable_and_injective() -> None:
    words = np.arange(200_000, dtype=np.uint64)
    mixed = mix(words)
    assert len(np.unique(mixed)) == len(words)
    assert mixed[:3].tolist() == [0, 0x5692161D100B05E5, 0xDBD238973A2B148A]
    assert np.unique(mixed >> np.uint64(52)).size == 4096
