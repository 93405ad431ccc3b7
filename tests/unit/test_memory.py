"""Memory that arrays leave behind goes back to the system when it is asked to."""

import platform

import psutil
import pytest

from headrace.memory import release_free_memory

PIECES, PIECE_BYTES = 4_000, 32 * 1024
"""Below the size from which glibc maps each piece by itself: they all lie in the heap."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps such pages")
def test_free_pages_below_a_living_one_go_back() -> None:
    process = psutil.Process()
    pieces = [bytearray(b"x" * PIECE_BYTES) for _ in range(PIECES)]
    last = pieces[-1]  # lies on top of the heap, so that nothing below it can be cut off
    pieces.clear()
    held = process.memory_info().rss
    release_free_memory()
    assert held - process.memory_info().rss > PIECES * PIECE_BYTES // 2
    assert last[0] == ord("x")
