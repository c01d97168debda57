"""What the group signal would be if the verifier made no errors.

A verifier accepts a rollout of true success probability ``p`` with probability ``FPR + J p``. Its
errors therefore look like signal: a group of wrong rollouts some of which are accepted has a
reward difference that teaches nothing. With both rates known the distribution of ``p`` over
prompts can be recovered from the accepted counts.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import xlog1py, xlogy

from mlflow_rlrisk.errors import InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics.counts import CountPairs, FloatVector, check_at_least
from mlflow_rlrisk.statistics.groups import true_signal
from mlflow_rlrisk.statistics.verifier_quality import AuditRates, youden_j

GRID_POINTS = 201
"""Support of the distribution of success probabilities, from 0 to 1."""
ITERATIONS = 400
"""EM steps: more sharpen the masses without moving the signal beyond its sampling error."""


def corrected_group_signal(
    num_accepted: npt.ArrayLike, num_scored: npt.ArrayLike, group_size: int, rates: AuditRates
) -> float:
    """Mean over prompts of ``1 - p**g - (1 - p)**g`` for the true success probabilities ``p``.

    Their distribution is the nonparametric maximum likelihood estimate on a grid (Laird 1978,
    by EM) under accepted counts that are binomial with ``FPR + J p``.

    Args:
        num_accepted: Rollouts the verifier accepted, per prompt, shape ``[P]``.
        num_scored: Rollouts it judged, shape ``[P]``.
        group_size: Rollouts per prompt and step of the RL run, ``g >= 2``.
        rates: Of the verifier; J must be positive.

    Returns:
        A share in ``[0, 1]``; smaller is riskier.

    Raises:
        StatisticsError: ``J <= 0``: accepted counts then say nothing about success; or a rate
            outside ``[0, 1]``.
        InsufficientRolloutsError: A prompt has fewer than 2 scored rollouts.
        ConfigError: ``group_size`` is below 2.

    >>> rates = AuditRates(true_positive=1.0, false_positive=0.0)
    >>> round(corrected_group_signal([0, 8, 16], [16, 16, 16], 2, rates), 2)
    0.17
    """
    pairs = CountPairs.of(num_accepted, num_scored)
    pairs.require_scored(2, "a corrected signal")
    weights = np.bincount(pairs.index, minlength=pairs.num_scored.size) / pairs.index.size
    grid = np.linspace(0.0, 1.0, GRID_POINTS)
    prior = _success_distribution(pairs, weights, grid, rates)
    signal = true_signal(grid, check_at_least("group_size", group_size, 2))
    return float(np.clip(prior @ signal, 0.0, 1.0))


def corrected_group_variance(
    num_accepted: npt.ArrayLike, num_scored: npt.ArrayLike, group_size: int, rates: AuditRates
) -> FloatVector:
    """Expected reward variance of a group under a verifier without errors, unbiased per prompt.

    ``(g-1)/g p(1-p)`` with ``p = (q - FPR)/J``, where ``q`` and ``q**2`` are estimated by
    ``c/n`` and ``c(c-1)/(n(n-1))``. A single prompt's value may be negative; take the mean.

    Arguments are those of `corrected_group_signal`.

    Returns:
        Variances in reward units squared, shape ``[P]``.

    Raises:
        StatisticsError: ``J <= 0``, or a rate outside ``[0, 1]``.
        InsufficientRolloutsError: A prompt has fewer than 2 scored rollouts.

    >>> perfect = AuditRates(true_positive=1.0, false_positive=0.0)
    >>> corrected_group_variance([2], [4], 2, perfect).round(4)
    array([0.1667])
    """
    _require_separation(rates)
    size = check_at_least("group_size", group_size, 2)
    pairs = CountPairs.of(num_accepted, num_scored)
    accepted, scored = pairs.num_correct[pairs.index], pairs.num_scored[pairs.index]
    if (scored < 2).any():
        raise InsufficientRolloutsError("a variance needs 2 scored rollouts per prompt")
    mean = accepted / scored
    square = accepted * (accepted - 1) / (scored * (scored - 1))
    low, high = rates.false_positive, rates.true_positive
    spread = (-square + (low + high) * mean - low * high) / rates.youden_j**2
    return np.asarray((size - 1) / size * spread)


def _success_distribution(
    pairs: CountPairs, weights: FloatVector, grid: FloatVector, rates: AuditRates
) -> FloatVector:
    """Masses on the grid, shape ``[K]``."""
    _require_separation(rates)
    accepted = rates.false_positive + rates.youden_j * grid
    wins, losses = pairs.num_correct[:, None], (pairs.num_scored - pairs.num_correct)[:, None]
    log_likelihood = xlogy(wins, accepted) + xlog1py(losses, -accepted)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    prior = np.full(grid.size, 1.0 / grid.size)
    for _ in range(ITERATIONS):
        joint = likelihood * prior
        prior = weights @ (joint / joint.sum(axis=1, keepdims=True))
    return np.asarray(prior)


def _require_separation(rates: AuditRates) -> None:
    if not youden_j(rates.true_positive, rates.false_positive) > 0.0:
        raise StatisticsError(
            f"youden_j={rates.youden_j}: must be positive, or rewards say nothing about success"
        )
