"""Several comparisons at once: a verdict on the best of many siblings needs a correction."""

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, finite_vector


def holm_adjusted(p_values: npt.ArrayLike) -> FloatVector:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given.

    Rejecting where the adjusted value is at most ``alpha`` keeps the chance of any false
    rejection at ``alpha``, whatever the dependence between the comparisons.

    Args:
        p_values: Shape ``[H]``, each in ``[0, 1]``.

    Returns:
        Adjusted values in ``[0, 1]``, never below the given ones, shape ``[H]``.

    Raises:
        StatisticsError: There is none, or one lies outside ``[0, 1]``.

    >>> holm_adjusted([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    given = finite_vector("p_values", p_values)
    if ((given < 0.0) | (given > 1.0)).any():
        raise StatisticsError(
            f"p_values holds {given[(given < 0.0) | (given > 1.0)][0]}: must lie in [0, 1]"
        )
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(given.size, 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def sign_p_value(draws: npt.ArrayLike) -> float:
    """Two-sided bootstrap p-value that a difference is 0, from draws of `paired_draws`.

    ``2 min(share at or below 0, share at or above 0)`` with one added to both counts, so that
    no finite number of draws claims certainty; at most 1.

    Args:
        draws: Bootstrap draws of a difference, shape ``[B]``.

    Raises:
        StatisticsError: There are no draws or one is not finite.

    >>> sign_p_value([0.1] * 99)
    0.02
    """
    sample = finite_vector("draws", draws)
    fewer = min(int((sample <= 0.0).sum()), int((sample >= 0.0).sum()))
    return min(1.0, 2.0 * (fewer + 1) / (sample.size + 1))
