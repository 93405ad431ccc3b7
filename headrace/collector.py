"""Python's garbage collector under services that make tens of thousands of short-lived objects at a time.

With the interpreter's thresholds (a first pass every 700 objects) the collector walks parsed events again and again:
a sixth of a worker's CPU, a fifth of a gateway's. They die by reference counting; what is in cycles waits longer.
"""

import gc
from typing import Final

THRESHOLDS: Final = (200_000, 20, 100)


def calm_collector() -> None:
    """Take what exists now out of the collector's sight, and let it look more rarely. Once, when all is imported."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
