"""Memory of services that make tens of thousands of short-lived objects, and large arrays, at a time.

With the interpreter's thresholds (a first pass every 700 objects) the garbage collector walks parsed events again and
again: a sixth of a worker's CPU, a fifth of a gateway's. They die by reference counting; what is in cycles waits
longer. And allocators keep what arrays leave behind: glibc 90 MB of a worker's 340 after three minutes, growing;
Arrow's own (mimalloc) 4 MB more every minute, although nothing was allocated in it any more.
"""

import ctypes
import gc
import os
from functools import cache
from typing import Any, Final

THRESHOLDS: Final = (200_000, 20, 100)
_M_ARENA_MAX: Final = -8
"""mallopt's parameter, from glibc's malloc.h."""


def calm_collector() -> None:
    """Take what exists now out of the collector's sight, and let it look more rarely. Once, when all is imported."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def use_one_heap() -> None:
    """Let Arrow and all threads allocate from one heap of the C library, whose free pages `release_free_memory` gives
    back. Before Arrow and NumPy are imported: they start threads. The environment may name another pool.

    A worker holds a fifth less so; its interpreter's lock keeps its threads apart, so that none waits for the heap.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if (mallopt := _from_c_library("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


def release_free_memory() -> None:
    """Give free pages back to the system, where the C library can (glibc). Takes milliseconds: use a thread."""
    if (trim := _from_c_library("malloc_trim")) is not None:
        trim(0)


@cache
def _from_c_library(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):  # another C library than glibc
        return None
