"""Several comparisons at once: a verdict on the best of many siblings needs a correction."""

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.counts import (
    CountPairs,
    FloatVector,
    IntVector,
    finite_vector,
    unit_array,
)

_AS_LIKELY = 1e-9
"""Relative difference of two chances that rounding alone makes: they count as equal."""


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
    given = unit_array("p_values", finite_vector("p_values", p_values))
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(given.size, 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def fisher_p_values(
    solved: IntVector, tries: IntVector, solved_after: IntVector, tries_after: IntVector
) -> FloatVector:
    """Two-sided p-values that two success rates are one, of many prompts at once.

    Fisher's exact test: of all ways to deal the successes of both sides out, the share that is at
    most as likely as what was seen. ``scipy.stats`` has it for one table at a time and takes
    longer to load than a comparison of versions takes.

    Args:
        solved: Successes before, shape ``[P]``.
        tries: Tries before, shape ``[P]``, at least ``solved``.
        solved_after: Successes after, shape ``[P]``.
        tries_after: Tries after, shape ``[P]``, at least ``solved_after``.

    Returns:
        P-values in ``(0, 1]``, shape ``[P]``.

    Raises:
        StatisticsError: Counts are no integers, negative, more successes than tries, or of another
            number of prompts on one side.

    >>> one = np.array([1])
    >>> fisher_p_values(8 * one, 10 * one, one, 5 * one).round(4)  # as scipy.stats.fisher_exact
    array([0.0889])
    """
    counts = (solved, tries, solved_after, tries_after)
    if {np.size(each) for each in counts} == {0}:
        return np.empty(0)
    sides = (CountPairs.of(solved, tries), CountPairs.of(solved_after, tries_after))
    if sides[0].num_prompts != sides[1].num_prompts:
        sizes = f"{counted(sides[0].num_prompts, 'prompt')} before and {sides[1].num_prompts} after"
        raise StatisticsError(f"solved_after: {sizes}: both sides need the same ones")
    tables = np.stack([np.asarray(each, dtype=np.int64) for each in counts], axis=1)
    distinct, place = np.unique(tables, axis=0, return_inverse=True)
    own, size, other, other_size = (column[:, None] for column in distinct.T)
    dealt = np.arange(size.max(initial=0) + 1)
    # Outside of what can be dealt a factorial of a negative number makes the chance 0.
    log_chance = _log_choose(size, dealt) + _log_choose(other_size, own + other - dealt)
    chance = np.exp(log_chance - log_chance.max(axis=1, keepdims=True))
    seen = np.take_along_axis(chance, own, axis=1)
    shares = (chance * (chance <= seen * (1.0 + _AS_LIKELY))).sum(axis=1) / chance.sum(axis=1)
    return np.asarray(np.minimum(shares, 1.0)[np.ravel(place)])


def _log_choose(size: IntVector, taken: IntVector) -> FloatVector:
    return np.asarray(gammaln(size + 1) - gammaln(taken + 1) - gammaln(size - taken + 1))


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
