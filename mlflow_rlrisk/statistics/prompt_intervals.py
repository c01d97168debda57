"""Intervals of means and of ratios of sums over prompts, from their bootstrap draws."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.bootstrap import (
    PromptBootstrap,
    interval,
    jackknife_means,
    jackknife_ratios,
)
from mlflow_rlrisk.statistics.confidence import IntervalMethod, confidence_draws
from mlflow_rlrisk.statistics.counts import FloatVector, finite_vector
from mlflow_rlrisk.statistics.intervals import constant_interval

_ROUNDING = 1e-12
"""Values this close, relative to their bounds, differ by rounding only: they are one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanInterval:
    """A mean over prompts with its interval.

    Attributes:
        value: The mean.
        low: Lower end.
        high: Upper end.
        method: How the ends were made; ``constant`` flags a degenerate bootstrap.
        num_prompts: Prompts behind the mean.
    """

    value: float
    low: float
    high: float
    method: IntervalMethod
    num_prompts: int


def ratio_draws(
    draws: npt.ArrayLike,
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    bounds: tuple[float, float] | None = None,
    *,
    is_difference: bool = False,
) -> FloatVector:
    """`confidence_draws` of a ratio of sums over prompts, from its plain bootstrap draws.

    Args:
        draws: Of `PromptBootstrap.ratios`, shape ``[B]``.
        numerators: One a prompt, shape ``[P]``.
        denominators: One a prompt, shape ``[P]``.
        bounds: Smallest and largest ratio a prompt could give; ``None`` where there are none.
        is_difference: Numerators and denominators are of two checkpoints.

    Returns:
        Draws in the same order, shape ``[B]``; as they were where all are alike or one prompt
        tells nothing of a spread.

    Raises:
        StatisticsError: The shapes differ, a value is not finite, or a denominator is 0 without
            one prompt.
    """
    plain, above, below = (
        finite_vector(name, values)
        for name, values in (
            ("draws", draws),
            ("numerators", numerators),
            ("denominators", denominators),
        )
    )
    if above.size < 2 or np.ptp(plain) == 0.0:
        return plain
    return confidence_draws(
        plain,
        float(above.sum() / below.sum()),
        jackknife_ratios(above, below),
        num_prompts=above.size,
        bounds=bounds,
        is_difference=is_difference,
    ).draws


def ratio_interval(
    draws: npt.ArrayLike,
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of a ratio of sums over prompts: percentiles of `ratio_draws`.

    Where all prompts gave the same ratio and it has bounds, that of `constant_interval`: 0 tokens
    of some kind in 50 prompts do not mean that there are none.

    Arguments and errors are those of `ratio_draws`, and a ``confidence`` within (0, 1).

    >>> low, high = ratio_interval([0.0, 0.0], [0.0] * 50, [9.0] * 50, (0.0, 1.0))
    >>> low, round(high, 3)
    (0.0, 0.071)
    """
    above, below = (
        finite_vector("numerators", numerators),
        finite_vector("denominators", denominators),
    )
    if bounds is not None and float(np.ptp(above / below)) == 0.0:
        return constant_interval(float(above.sum() / below.sum()), above.size, bounds, confidence)
    return interval(ratio_draws(draws, above, below, bounds), confidence)


def mean_interval(
    values: npt.ArrayLike,
    bootstrap: PromptBootstrap,
    *,
    bounds: tuple[float, float],
    confidence: float = 0.95,
) -> MeanInterval:
    """Mean over prompts with the interval that fits the data.

    Percentiles of `confidence_draws`. Where all prompts gave the same value, resampling shows no
    spread, and "certain" would be false: the interval is then that of `constant_interval` and
    says so in its ``method``.

    Args:
        values: One value for each prompt, shape ``[P]``.
        bootstrap: Resamples of these prompts.
        bounds: Smallest and largest value a prompt could give.
        confidence: Level, strictly between 0 and 1.

    Returns:
        The mean and its interval.

    Raises:
        StatisticsError: A value is not finite or outside the bounds, or the shape differs.
        ConfigError: ``confidence`` is not strictly between 0 and 1.
    """
    column = finite_vector("values", values)
    lowest, highest = bounds
    if column.min() < lowest or column.max() > highest:
        raise StatisticsError(f"values reach from {column.min()} to {column.max()}: not {bounds}")
    estimate = float(column.mean())
    if np.ptp(column) <= _ROUNDING * (highest - lowest):
        low, high = constant_interval(estimate, column.size, bounds, confidence)
        method = IntervalMethod.CONSTANT
    else:
        draws, method = confidence_draws(
            bootstrap.means(column[:, None])[:, 0],
            estimate,
            jackknife_means(column),
            num_prompts=column.size,
            bounds=bounds,
        )
        low, high = interval(draws, confidence)
    return MeanInterval(value=estimate, low=low, high=high, method=method, num_prompts=column.size)
