"""What is known of a group of ``g`` rollouts once the success probability is known.

Formulas, no estimators: they hold for one prompt, or for the mean over prompts of their values;
never for a mean success probability, whose signal is always higher than the mean signal.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, check_at_least, unit_array

LARGEST_GROUP = 4096
"""`smallest_group_size` stops looking here; larger groups are no advice anybody can follow."""


def true_signal(success: npt.ArrayLike, group_size: int) -> FloatVector:
    """Signal of a prompt whose success probability is known: ``1 - p**g - (1 - p)**g``.

    Never put a mean over prompts in here; it is concave.

    Args:
        success: Probabilities ``p`` in ``[0, 1]``, any shape.
        group_size: ``g >= 2``.

    Returns:
        Probabilities, the shape of ``success``.

    Raises:
        StatisticsError: A probability lies outside ``[0, 1]``.
        ConfigError: ``g < 2``.

    >>> true_signal([0.0, 0.5], group_size=2)
    array([0. , 0.5])
    """
    size = check_at_least("group_size", group_size, 2)
    p = unit_array("success", success)
    with np.errstate(divide="ignore"):  # log1p(-1) = -inf is meant: its power is 0
        some_wrong = -np.expm1(size * np.log1p(-p))
    return np.asarray(some_wrong - p**size)[()]


def true_group_variance(success: npt.ArrayLike, group_size: int, ddof: int = 0) -> FloatVector:
    """Expected reward variance in a group of a prompt whose success probability is known.

    ``p(1 - p)(g - 1)/g``, without the last factor for ``ddof=1``. Arguments and errors are
    those of `true_signal` and `expected_group_variance`.

    >>> true_group_variance([0.0, 0.5], group_size=2)
    array([0.   , 0.125])
    """
    size = check_at_least("group_size", group_size, 2)
    share, whole = variance_factor(size, ddof)
    p = unit_array("success", success)
    return np.asarray(p * (1.0 - p) * share / whole)[()]


@lru_cache(maxsize=1024)
def critical_success(group_size: int) -> float:
    """Success probability below which more than half of a prompt's groups carry no signal.

    The root ``p*`` in ``(0, 1/2]`` of ``p**g + (1 - p)**g = 1/2``, solved on the polynomial;
    the closed form ``1 - 2**(-1/g)`` drops ``p**g`` and is wrong for small groups.

    Args:
        group_size: ``g >= 2``.

    Returns:
        A probability; 1/2 for ``g = 2``, where the root is double.

    Raises:
        ConfigError: ``g < 2``.

    >>> round(critical_success(8), 10)
    0.0829959573
    """
    size = check_at_least("group_size", group_size, 2)
    if size == 2:
        return 0.5
    # Newton's method climbs to the root: from the closed form, which lies below it, the polynomial
    # falls and is convex. SciPy's solvers take longer to load than all else.
    p, below = -math.expm1(-math.log(2.0) / size), 0.0
    while p > below:
        below = p
        excess = p**size + math.exp(size * math.log1p(-p)) - 0.5
        slope = size * (p ** (size - 1) - math.exp((size - 1) * math.log1p(-p)))
        p -= excess / slope
    return below


def smallest_group_size(
    signal_at: Callable[[int], float], target: float, largest: int = LARGEST_GROUP
) -> int | None:
    """Smallest ``g`` whose signal reaches ``target``, or ``None`` when none up to ``largest`` does.

    Args:
        signal_at: Signal as a function of the group size; must not fall as ``g`` grows.
        target: Signal to reach, strictly between 0 and 1.
        largest: Where the search ends.

    Raises:
        ConfigError: ``target`` is not strictly between 0 and 1, or ``largest < 2``.
        StatisticsError: The signal is not a number.

    >>> smallest_group_size(lambda g: float(true_signal(0.1, g)), target=0.8)
    16
    """
    if not 0.0 < target < 1.0:
        raise ConfigError("target", target, "must lie strictly between 0 and 1")
    high = check_at_least("largest", largest, 2)
    if math.isnan(most := signal_at(high)):
        raise StatisticsError(f"signal_at({high})={most}: must be a number")
    if most < target:
        return None
    low = 2
    while low < high:
        middle = (low + high) // 2
        if signal_at(middle) < target:
            low = middle + 1
        else:
            high = middle
    return low


def group_advantages(num_correct: int, group_size: int, ddof: int = 1) -> tuple[float, float]:
    """Normalised advantages of a correct and of a wrong rollout in a mixed group of 0/1 rewards.

    ``(r - mean) / std``; their squares over the group sum to ``g - ddof`` whatever the split.

    Args:
        num_correct: Correct rollouts in the group, strictly between 0 and ``g``.
        group_size: ``g >= 2``.
        ddof: 1 for ``torch.std`` (TRL, verl), 0 for the population form.

    Returns:
        ``(advantage of a correct rollout, advantage of a wrong one)``.

    Raises:
        StatisticsError: The group is not mixed: it has no standard deviation to divide by.
        ConfigError: ``g < 2`` or ``ddof`` is neither 0 nor 1.

    >>> [round(value, 3) for value in group_advantages(1, 8)]
    [2.475, -0.354]
    """
    size = check_at_least("group_size", group_size, 2)
    variance_factor(size, ddof)
    if not 0 < num_correct < size:
        raise StatisticsError(
            f"num_correct={num_correct}: a group of {size} is mixed from 1 to {size - 1} only"
        )
    odds = (size - num_correct) / num_correct
    scale = (size - ddof) / size
    return math.sqrt(odds * scale), -math.sqrt(scale / odds)


def variance_factor(group_size: int, ddof: int) -> tuple[int, int]:
    """``(g - 1, g)`` for ``ddof=0`` and ``(1, 1)`` for ``ddof=1``, as numerator and denominator.

    Raises:
        ConfigError: ``ddof`` is neither 0 nor 1.

    >>> variance_factor(8, 0)
    (7, 8)
    """
    if ddof not in (0, 1):
        raise ConfigError("ddof", ddof, "must be 0 or 1")
    return (group_size - 1, group_size) if ddof == 0 else (1, 1)
