"""Windows, generations and when a row is final. All in whole seconds UTC, all pure.

An event opens a minute row, unless it is older at receipt than minutes (or hours) are kept: then it starts at the
hour (or the day). A row's generation is its window's start when the event is in time; for an event whose window is
final, it is the window that the watermark is in. A coarser row takes the windows that contain the finer row's
window and generation; since lengths nest, every finer row is final no later than the coarser row it is added to, so
no final row is ever reopened.
"""

from typing import Final

import numpy as np

from schemas.rollups import GRAIN_S, Grain
from streams.fold.columns import I64, Bools
from streams.fold.rules import FoldRules

SECOND_US: Final = 1_000_000
HOUR_US: Final = 3600 * SECOND_US
GRAINS: Final = np.array(GRAIN_S, dtype=np.int64)


def starting_grain(age_us: I64, rules: FoldRules) -> I64:
    """The finest grain that keeps an event of this age at receipt."""
    grain = (age_us > rules.minute_retention_h * HOUR_US).astype(np.int64)
    return np.where(age_us > rules.hour_retention_d * 24 * HOUR_US, Grain.DAY, grain)


def window_start(seconds: I64, grain: I64) -> I64:
    """The start of the window that a time is in."""
    out = seconds // GRAIN_S[0] * GRAIN_S[0]
    for code in (1, 2):
        coarse = grain == code
        if coarse.any():
            out[coarse] = seconds[coarse] // GRAIN_S[code] * GRAIN_S[code]
    return out


def final_at_us(start: I64, grain: I64, grace_s: int) -> I64:
    """The watermark (microseconds) from which a window or generation is final."""
    return (start + GRAINS[grain] + grace_s) * SECOND_US


def generation(window: I64, grain: I64, watermark_us: I64, rules: FoldRules) -> tuple[I64, Bools]:
    """(generation of each event, which are late), by the watermark before it."""
    late = watermark_us >= final_at_us(window, grain, rules.grace_s)
    if not late.any():
        return window, late
    out = window.copy()
    out[late] = window_start(watermark_us[late] // SECOND_US, grain[late])
    return out, late
