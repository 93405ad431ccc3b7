"""When each event of a load is due: how many by a given second, and the second of a given event.

Pure functions of the shape; the average over the whole run is always the asked rate. A schedule is tabulated once
on a grid, so that `due` and `time_of` are inverse to each other and cheap.
"""

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Shape = Literal["steady", "diurnal", "burst"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

GRID_POINTS_MAX = 200_000  # bounds the table; a day then has a point every 0.43 s
GRID_STEP_S = 0.05
DIURNAL_SWING = 0.8  # the quietest moment has 20 %, the busiest 180 % of the average
BURST_PERIOD_S, BURST_LENGTH_S, BURST_FACTOR = 30.0, 3.0, 8.0


class Pace:
    """The schedule of one run of `duration_s` seconds at `rate_per_s` events a second on average.

    steady: even. diurnal: one day's curve drawn over the run, starting at night. burst: every 30 s (or a tenth of a
    shorter run's length) the rate is eight times the rest for a tenth of the time.
    """

    def __init__(self, shape: Shape, rate_per_s: float, duration_s: float) -> None:
        if rate_per_s <= 0 or duration_s <= 0:
            raise ValueError(f"rate and duration must be above zero, got {rate_per_s}/s for {duration_s} s")
        self.rows = max(1, round(rate_per_s * duration_s))
        self.duration_s = duration_s
        points = min(GRID_POINTS_MAX, max(2, math.ceil(duration_s / GRID_STEP_S) + 1))
        self._seconds = np.linspace(0.0, duration_s, points)
        middle = (self._seconds[1:] + self._seconds[:-1]) / 2
        weights = _weights(shape, middle, duration_s)
        cumulative = np.concatenate(([0.0], np.cumsum(weights)))
        self._due = cumulative / cumulative[-1] * self.rows

    def due(self, elapsed_s: float) -> int:
        """How many events are due `elapsed_s` seconds after the start; all of them at the end."""
        return int(np.interp(elapsed_s, self._seconds, self._due))

    def time_of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Seconds after the start at which each event number is due."""
        return np.interp(numbers.astype(np.float64), self._due, self._seconds)

    def time_of_one(self, number: int) -> float:
        """The same for one event."""
        return float(np.interp(float(number), self._due, self._seconds))


def _weights(shape: Shape, seconds: npt.NDArray[np.float64], duration_s: float) -> npt.NDArray[np.float64]:
    if shape == "steady":
        return np.ones_like(seconds)
    if shape == "diurnal":
        return 1.0 - DIURNAL_SWING * np.cos(2 * np.pi * seconds / duration_s)
    period_s = min(BURST_PERIOD_S, duration_s)
    inside = (seconds % period_s) >= period_s * (1 - BURST_LENGTH_S / BURST_PERIOD_S)
    return np.where(inside, BURST_FACTOR, 1.0)
