"""What a GRPO group carries: signal, variance, and how near a prompt is to carrying nothing.

A group of ``g`` rollouts teaches only when its rewards differ. All estimators are computed per
prompt and averaged by the caller: the signal is concave in the success probability, so putting
the mean pass@1 into its formula overstates it, often many times over.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, xlog1py, xlogy

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics.counts import (
    CountPairs,
    FloatVector,
    binomials,
    check_at_least,
)
from mlflow_rlrisk.statistics.group_theory import (
    LARGEST_GROUP,
    critical_success,
    group_advantages,
    smallest_group_size,
    true_group_variance,
    true_signal,
    variance_factor,
)
from mlflow_rlrisk.statistics.ragged import Ragged, require_lengths

__all__ = [  # noqa: RUF022  (in reading order; what `group_theory` adds comes last)
    "group_signal",
    "frac_all_correct",
    "frac_all_wrong",
    "expected_group_variance",
    "group_signal_from_values",
    "reward_variance",
    "signal_sampling_variance",
    "starved_probability",
    "saturated_probability",
    "posterior_below",
    "REWARD_TOLERANCE",
    "LARGEST_GROUP",
    "critical_success",
    "smallest_group_size",
    "true_signal",
    "true_group_variance",
    "group_advantages",
]

REWARD_TOLERANCE = 1e-8
"""Rewards this close count as equal: TRL calls a group's standard deviation zero by
``torch.isclose(std, 0)``, whose absolute tolerance is 1e-8 (``frac_reward_zero_std``)."""


def group_signal(
    num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, group_size: int
) -> FloatVector:
    """Estimate, per prompt, the chance that a group of ``g`` 0/1 rewards is not all equal.

    ``1 - [C(c, g) + C(n - c, g)] / C(n, g)``: the share of all ``g``-subsets of the scored
    rollouts that are mixed, unbiased for ``1 - p**g - (1 - p)**g`` when ``n >= g``. The mean
    over prompts is the expected share of groups with a non-zero advantage, ``1 -
    frac_reward_zero_std`` of TRL's log at step 0. Smaller is riskier.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.
        group_size: Rollouts per prompt and step of the RL run, ``g >= 2``.

    Returns:
        Correctly rounded probabilities in ``[0, 1]``, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has ``n < g``. No value is substituted.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: ``g < 2``.

    >>> group_signal([0, 1, 8], [16, 16, 8], group_size=8)
    array([0. , 0.5, 0. ])
    """
    return _over_subsets(
        num_correct, num_scored, group_size, lambda right, wrong, total: total - right - wrong
    )


def frac_all_correct(
    num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, group_size: int
) -> FloatVector:
    """Estimate, per prompt, the chance that a group of ``g`` is all correct.

    ``C(c, g) / C(n, g)``, unbiased for ``p**g``. Arguments and errors are those of
    `group_signal`; signal, all correct and all wrong sum to 1.

    >>> frac_all_correct([16, 15, 0], [16, 16, 16], group_size=8)
    array([1. , 0.5, 0. ])
    """
    return _over_subsets(num_correct, num_scored, group_size, lambda right, _wrong, _total: right)


def frac_all_wrong(
    num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, group_size: int
) -> FloatVector:
    """Estimate, per prompt, the chance that a group of ``g`` is all wrong.

    ``C(n - c, g) / C(n, g)``, unbiased for ``(1 - p)**g``. Arguments and errors are those of
    `group_signal`. Larger is riskier.

    >>> frac_all_wrong([0, 1, 16], [16, 16, 16], group_size=8)
    array([1. , 0.5, 0. ])
    """
    return _over_subsets(num_correct, num_scored, group_size, lambda _right, wrong, _total: wrong)


def expected_group_variance(
    num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, group_size: int, ddof: int = 0
) -> FloatVector:
    """Estimate, per prompt, the expected reward variance within a group of ``g`` 0/1 rewards.

    ``(g - 1)/g * c(n - c) / (n(n - 1))`` for ``ddof=0``, unbiased for ``p(1 - p)(g - 1)/g``;
    the factor ``(g - 1)/g`` falls away for ``ddof=1``, the divisor of ``torch.std`` in TRL and
    verl. Unit: reward squared. Smaller is riskier; it is the signal scale of trainers that do
    not divide by the group's standard deviation.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.
        group_size: Rollouts per prompt and step of the RL run, ``g >= 2``.
        ddof: 0 or 1, as the trainer divides.

    Returns:
        Variances, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has ``n < 2``.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: ``g < 2`` or ``ddof`` is neither 0 nor 1.

    >>> expected_group_variance([3, 0], [16, 16], group_size=8)
    array([0.1421875, 0.       ])
    """
    size = check_at_least("group_size", group_size, 2)
    share, whole = variance_factor(size, ddof)
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(2, "expected_group_variance")
    return pairs.gather(
        [
            share * c * (n - c) / (whole * n * (n - 1))
            for c, n in zip(pairs.num_correct.tolist(), pairs.num_scored.tolist(), strict=True)
        ]
    )


def group_signal_from_values(
    values: Sequence[npt.ArrayLike], group_size: int, tolerance: float = REWARD_TOLERANCE
) -> FloatVector:
    """`group_signal` for rewards of any value.

    ``1 - sum_v C(m_v, g) / C(n, g)`` over the multiplicities ``m_v`` of equal rewards. Sorted
    rewards belong together while neighbours differ by at most ``tolerance``.

    Args:
        values: Rewards of the scored rollouts of each prompt, ``P`` sequences.
        group_size: Rollouts per prompt and step of the RL run, ``g >= 2``.
        tolerance: Largest difference that still counts as equal, in reward units.

    Returns:
        Probabilities in ``[0, 1]``, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has fewer than ``g`` rewards.
        StatisticsError: There is no prompt, or a reward is not finite.
        ConfigError: ``g < 2`` or a negative ``tolerance``.

    >>> group_signal_from_values([[0, 0, 0, 0.5, 0.5, 1, 1, 1]], group_size=2)
    array([0.75])
    """
    size = check_at_least("group_size", group_size, 2)
    if not tolerance >= 0.0:
        raise ConfigError("tolerance", tolerance, "must be at least 0")
    rewards = Ragged.of("values", values)
    require_lengths(rewards.lengths, size, f"group signal at g={size}")
    order = np.lexsort((rewards.flat, rewards.row))
    ordered, row = rewards.flat[order], rewards.row[order]
    starts_run = np.ones(ordered.size, dtype=bool)
    starts_run[1:] = (np.diff(ordered) > tolerance) | (np.diff(row) > 0)
    run = np.flatnonzero(starts_run)
    equal_share = CountPairs.of(np.diff(np.append(run, ordered.size)), rewards.lengths[row[run]])
    draws = binomials(np.concatenate([equal_share.num_correct, equal_share.num_scored]), size)
    shares = equal_share.gather(
        [
            draws[m] / draws[n]
            for m, n in zip(
                equal_share.num_correct.tolist(), equal_share.num_scored.tolist(), strict=True
            )
        ]
    )
    degenerate = np.bincount(row[run], weights=shares, minlength=rewards.num_rows)
    return np.asarray(np.maximum(1.0 - degenerate, 0.0))  # the sum of the shares rounds


def reward_variance(values: Sequence[npt.ArrayLike], group_size: int, ddof: int = 0) -> FloatVector:
    """`expected_group_variance` for rewards of any value: from the unbiased sample variance.

    Args:
        values: Rewards of the scored rollouts of each prompt, ``P`` sequences.
        group_size: Rollouts per prompt and step of the RL run, ``g >= 2``.
        ddof: 0 or 1, as the trainer divides.

    Returns:
        Variances in reward units squared, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has fewer than 2 rewards.
        StatisticsError: There is no prompt, or a reward or its square is not finite.
        ConfigError: ``g < 2`` or ``ddof`` is neither 0 nor 1.

    >>> reward_variance([[0, 1], [2, 2]], group_size=2)
    array([0.25, 0.  ])
    """
    size = check_at_least("group_size", group_size, 2)
    share, whole = variance_factor(size, ddof)
    rewards = Ragged.of("values", values)
    require_lengths(rewards.lengths, 2, "reward_variance")
    # Centring twice keeps equal rewards at exactly 0: the mean of equal numbers may round.
    first = rewards.flat[rewards.starts][rewards.row]
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = rewards.flat - first
        mean = rewards.sums(shifted) / rewards.lengths
        squares = rewards.sums((shifted - mean[rewards.row]) ** 2)
    if not np.isfinite(squares).all():
        raise StatisticsError("values are too large: their squares are no finite numbers")
    return np.asarray(squares / (rewards.lengths - 1) * share / whole)


def signal_sampling_variance(success: float, num_scored: int, group_size: int) -> float:
    """Exact variance of `group_signal` for one prompt of known success, to plan ``n``.

    ``sum_c Bin(c; n, p) s(c)**2 - s_g(p)**2``.

    Raises:
        InsufficientRolloutsError: ``num_scored < group_size``.
        StatisticsError: ``success`` lies outside ``[0, 1]``.
        ConfigError: ``g < 2``.

    >>> round(signal_sampling_variance(0.5, 2, 2), 12)
    0.25
    """
    mean = float(true_signal(success, group_size))
    scored = check_at_least("num_scored", num_scored, 1)
    counts = np.arange(scored + 1)
    values = group_signal(counts, np.full_like(counts, scored), group_size)
    log_weights = (
        xlogy(counts, success)
        + xlog1py(scored - counts, -success)
        - betaln(counts + 1, scored - counts + 1)
        - math.log(scored + 1)
    )
    return float(np.dot(np.exp(log_weights), (values - mean) ** 2))


def starved_probability(
    num_correct: npt.ArrayLike,
    num_scored: npt.ArrayLike,
    group_size: int,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> FloatVector:
    """Posterior probability, per prompt, that it is too hard for a group: ``P(p < p*(g) | c)``.

    Under a Beta(alpha, beta) prior; Beta(1/2, 1/2) is Jeffreys'. Larger is riskier.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.
        group_size: ``g >= 2``.
        alpha: First parameter of the prior, above 0.
        beta: Second parameter of the prior, above 0.

    Returns:
        Probabilities, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has no scored rollout: the prior is no evidence.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: ``g < 2`` or a prior parameter is not positive.

    >>> starved_probability([0, 3], [16, 16], group_size=8).round(3)
    array([0.907, 0.077])
    """
    edge = critical_success(group_size)
    return posterior_below(num_correct, num_scored, edge, alpha, beta)


def saturated_probability(
    num_correct: npt.ArrayLike,
    num_scored: npt.ArrayLike,
    group_size: int,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> FloatVector:
    """Posterior probability, per prompt, that it is too easy: ``P(p > 1 - p*(g) | c)``.

    Arguments and errors are those of `starved_probability`, whose mirror image it is.

    >>> saturated_probability([16, 13], [16, 16], group_size=8).round(3)
    array([0.907, 0.077])
    """
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(1, "a posterior")
    wrong = pairs.num_scored - pairs.num_correct
    # Mirrored, so that both tails are computed as small numbers and never as 1 - something.
    return pairs.gather(
        posterior_below(wrong, pairs.num_scored, critical_success(group_size), beta, alpha)
    )


def posterior_below(
    num_correct: npt.ArrayLike,
    num_scored: npt.ArrayLike,
    edge: float,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> FloatVector:
    """Posterior probability, per prompt, that its success probability is below ``edge``.

    Arguments and errors are those of `starved_probability`, with ``edge`` in ``(0, 1)``.

    >>> posterior_below([1], [2], edge=0.5)
    array([0.5])
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0.0 < value < math.inf:
            raise ConfigError(name, value, "must be positive and finite")
    if not 0.0 < edge < 1.0:
        raise ConfigError("edge", edge, "must lie strictly between 0 and 1")
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(1, "a posterior")
    wrong = pairs.num_scored - pairs.num_correct
    return pairs.gather(betainc(alpha + pairs.num_correct, beta + wrong, edge))


def _over_subsets(
    num_correct: npt.ArrayLike,
    num_scored: npt.ArrayLike,
    group_size: int,
    favourable: Callable[[int, int, int], int],
) -> FloatVector:
    """Share of ``g``-subsets that are favourable, from the numbers of uniform and of all ones."""
    size = check_at_least("group_size", group_size, 2)
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(size, f"a group of {size}")
    correct, scored = pairs.num_correct.tolist(), pairs.num_scored.tolist()
    wrong = (pairs.num_scored - pairs.num_correct).tolist()
    draws = binomials({*correct, *wrong, *scored}, size)
    return pairs.gather(
        [
            favourable(draws[c], draws[w], draws[n]) / draws[n]
            for c, w, n in zip(correct, wrong, scored, strict=True)
        ]
    )
