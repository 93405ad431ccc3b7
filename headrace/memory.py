"""Memory of services that make tens of thousands of short-lived objects, and large arrays, at a time.

With the interpreter's thresholds (a first pass every 700 objects) the garbage collector walks parsed events again and
again: a sixth of a worker's CPU, a fifth of a gateway's. They die by reference counting; what is in cycles waits
longer. And glibc keeps what arrays leave behind: 90 MB of a worker's 340 after three minutes, growing.
"""

import ctypes
import gc
from functools import cache
from typing import Any, Final

THRESHOLDS: Final = (200_000, 20, 100)


def calm_collector() -> None:
    """Take what exists now out of the collector's sight, and let it look more rarely. Once, when all is imported."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def release_free_memory() -> None:
    """Give free pages back to the system, where the C library can (glibc). Takes milliseconds: use a thread."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library
        return None
