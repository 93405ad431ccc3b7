"""Memory that arrays leave behind goes back to the system when it is asked to."""

import platform
import subprocess
import sys

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


_ONE_HEAP = """
import threading
from headrace.memory import use_one_heap
use_one_heap()
import pyarrow as pa
def work():
    pa.array(range(100_000))
    bytearray(50_000)
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import ctypes
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
print(pa.default_memory_pool().backend_name)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the other C libraries have one heap")
def test_all_threads_and_arrow_share_one_heap() -> None:
    told = subprocess.run([sys.executable, "-c", _ONE_HEAP], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.count("<heap nr=") == 1
    assert told.stdout.rstrip().endswith("system")
