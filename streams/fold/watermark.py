"""The watermark and the monotone receive time, per record.

Both are running maxima over the log, so they never depend on where a batch ends. A record is judged by the
watermark *before* it: the greatest event time seen until then, less the bound.
"""

import numpy as np

from streams.fold.columns import I64


def running_max(values: I64, before: int) -> I64:
    """The greatest of `before` and the values up to and including each."""
    return np.maximum.accumulate(np.maximum(values, before))


def until_each(running: I64, before: int) -> I64:
    """The running maximum before each record, and after the last: one element more than records."""
    return np.concatenate([[before], running])
