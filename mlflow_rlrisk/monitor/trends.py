"""Lines through the last logs of a noisy column: what it is at its end, and when it will cross."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

TREND_STEPS = 20
"""A local line is drawn through this many steps."""
PROJECTION_LOGS = 20
"""A projection is drawn through this many logs."""
MIN_PROJECTION_LOGS = 5


class Line(NamedTuple):
    """A least-squares line.

    Attributes:
        slope: Change a step.
        intercept: Value at step 0.
        slope_error: Standard error of the slope.
    """

    slope: float
    intercept: float
    slope_error: float

    def at(self, step: float) -> float:
        """Value of the line."""
        return self.intercept + self.slope * step


def line_through(steps: Sequence[float], values: Sequence[float]) -> Line | None:
    """The least-squares line; ``None`` for fewer than three points, or where all steps are one."""
    n = len(steps)
    if n < 3:
        return None
    x0, y0 = sum(steps) / n, sum(values) / n
    spread = sum((x - x0) ** 2 for x in steps)
    if spread == 0.0:
        return None
    slope = sum((x - x0) * (y - y0) for x, y in zip(steps, values, strict=True)) / spread
    rest = sum((y - y0 - slope * (x - x0)) ** 2 for x, y in zip(steps, values, strict=True))
    return Line(slope, y0 - slope * x0, math.sqrt(rest / (n - 2) / spread))


def value_at(steps: Sequence[int], values: Sequence[float], step: int, half_width: int) -> float:
    """The value of a noisy column at a step, from the logs near it.

    The median of a window that reaches equally far to both sides: exact for any monotone curve.
    Where the log begins or ends there, a line through the one side; for lack of three logs the
    nearest one.
    """
    near = [(s, v) for s, v in zip(steps, values, strict=True) if abs(s - step) <= half_width]
    reach = min(step - near[0][0], near[-1][0] - step) if near else 0
    centred = sorted(v for s, v in near if abs(s - step) <= reach)
    if len(centred) >= 3:
        return median(centred)
    line = line_through([s for s, _ in near], [v for _, v in near])
    if line is not None:
        return max(line.at(step), 0.0)
    return min(zip(steps, values, strict=True), key=lambda pair: abs(pair[0] - step))[1]


def end_value(steps: Sequence[int], values: Sequence[float]) -> float:
    """The value at the newest log, by a line through the last `TREND_STEPS` steps."""
    first = len(steps)
    while first and steps[first - 1] > steps[-1] - TREND_STEPS - 1:
        first -= 1
    line = line_through(steps[first:], values[first:])
    return values[-1] if line is None else max(line.at(steps[-1]), 0.0)


def projected_crossing(
    steps: Sequence[int], values: Sequence[float], level: float, *, logarithmic: bool = False
) -> int | None:
    """The step at which a column will cross ``level`` if it goes on as in its last logs.

    ``None`` where it does not move towards the level, or moves by less than two standard errors.
    """
    recent_steps = list(steps[-PROJECTION_LOGS:])
    recent = list(values[-PROJECTION_LOGS:])
    if len(recent) < MIN_PROJECTION_LOGS:
        return None
    if logarithmic:
        if min(recent) <= 0.0 or level <= 0.0:
            return None
        recent, level = [math.log(v) for v in recent], math.log(level)
    line = line_through(recent_steps, recent)
    if line is None or abs(line.slope) <= 2.0 * line.slope_error or line.slope == 0.0:
        return None
    step = (level - line.intercept) / line.slope
    return math.ceil(step) if steps[-1] < step < math.inf else None
