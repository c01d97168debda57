"""Intervals for one proportion, and the fallback where a bootstrap has nothing to resample.

For proportions over independent trials only: rollouts of one prompt, audited rollouts, prompts.
Rollouts pooled over prompts are not independent; their intervals come from ``bootstrap``.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics.counts import CountPairs, FloatVector, check_at_least, check_open_unit


def clopper_pearson(
    num_successes: int, num_trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Exact interval for a proportion: coverage is never below ``confidence``.

    Clopper and Pearson 1934; equal tails, by the Beta quantiles.

    Args:
        num_successes: Successes, ``0 <= k <= n``.
        num_trials: Independent trials, ``n >= 1``.
        confidence: Level, strictly between 0 and 1.

    Returns:
        ``(low, high)`` in ``[0, 1]``.

    Raises:
        StatisticsError: Not ``0 <= k <= n``, or there is no trial.
        ConfigError: ``confidence`` is not strictly between 0 and 1.

    >>> [round(end, 4) for end in clopper_pearson(0, 16)]
    [0.0, 0.2059]
    """
    successes, trials, tail = _checked(num_successes, num_trials, confidence)
    wrong = trials - successes
    low = 0.0 if successes == 0 else float(betaincinv(successes, wrong + 1, tail))
    # The upper end by the mirrored tail: small tails stay accurate, 1 - tail would not.
    high = 1.0 if wrong == 0 else 1.0 - float(betaincinv(wrong, successes + 1, tail))
    return low, high


def wilson(num_successes: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval for a proportion (Wilson 1927): coverage about ``confidence`` on average.

    Arguments, result and errors are those of `clopper_pearson`.

    >>> [round(end, 4) for end in wilson(3, 16)]
    [0.0659, 0.4301]
    """
    successes, trials, tail = _checked(num_successes, num_trials, confidence)
    z = -float(ndtri(tail))
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1.0 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1.0 + z * z / trials
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return max(low, 0.0), min(high, 1.0)


def jeffreys(num_successes: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Equal-tailed posterior interval under Beta(1/2, 1/2), closed at 0 and n as usual.

    Brown, Cai and DasGupta 2001. Arguments, result and errors are those of `clopper_pearson`.

    >>> [round(end, 4) for end in jeffreys(3, 16)]
    [0.0558, 0.4208]
    """
    successes, trials, tail = _checked(num_successes, num_trials, confidence)
    wrong = trials - successes
    low = 0.0 if successes == 0 else float(betaincinv(successes + 0.5, wrong + 0.5, tail))
    high = 1.0 if wrong == 0 else 1.0 - float(betaincinv(wrong + 0.5, successes + 0.5, tail))
    return low, high


def rule_of_three_upper(num_trials: int, confidence: float = 0.95) -> float:
    """One-sided upper limit of a proportion after no success: ``1 - (1 - confidence)**(1/n)``.

    About ``3/n`` at 95 %, hence the name. Says how little "none of 16" proves.

    >>> round(rule_of_three_upper(16), 4)
    0.1707
    """
    _, trials, _ = _checked(0, num_trials, confidence)
    return -math.expm1(math.log1p(-confidence) / trials)


def beta_posterior_interval(
    num_correct: npt.ArrayLike,
    num_scored: npt.ArrayLike,
    confidence: float = 0.95,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> tuple[FloatVector, FloatVector]:
    """Equal-tailed posterior interval of each prompt's success probability.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.
        confidence: Level, strictly between 0 and 1.
        alpha: First parameter of the Beta prior, above 0.
        beta: Second parameter of the Beta prior, above 0.

    Returns:
        ``(low, high)``, each of shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has no scored rollout.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: A setting is out of range.

    >>> low, high = beta_posterior_interval([1], [2])
    >>> bool(low[0] + high[0] == 1.0)
    True
    """
    tail = (1.0 - check_open_unit("confidence", confidence)) / 2.0
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0.0 < value < math.inf:
            raise ConfigError(name, value, "must be positive and finite")
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(1, "a posterior")
    a, b = alpha + pairs.num_correct, beta + pairs.num_scored - pairs.num_correct
    return pairs.gather(betaincinv(a, b, tail)), pairs.gather(1.0 - betaincinv(b, a, tail))


def constant_interval(
    value: float,
    num_prompts: int,
    bounds: tuple[float, float],
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of a mean when all prompts gave the same value and a bootstrap has no spread.

    "None of ``P`` prompts differs" bounds the share of prompts that would: by Clopper and
    Pearson, at most ``u``. Those could lie anywhere in ``bounds``, so the mean lies between
    ``value - u(value - lowest)`` and ``value + u(highest - value)``. Holds for every
    distribution within the bounds, so it is wide and never falsely exact.

    Args:
        value: What every prompt gave.
        num_prompts: Independent prompts, at least 1.
        bounds: Smallest and largest value a prompt could give, such as ``(0, 1)``.
        confidence: Level, strictly between 0 and 1.

    Returns:
        ``(low, high)`` within ``bounds``.

    Raises:
        StatisticsError: The value lies outside the bounds, or there is no prompt.
        ConfigError: ``confidence`` is not strictly between 0 and 1.

    >>> [round(end, 4) for end in constant_interval(0.0, 100, (0.0, 1.0))]
    [0.0, 0.0362]
    """
    lowest, highest = bounds
    if not lowest <= value <= highest or not np.isfinite([lowest, highest]).all():
        raise StatisticsError(f"value={value}: must lie in the finite bounds {bounds}")
    _, share = clopper_pearson(0, num_prompts, confidence)
    return value - share * (value - lowest), value + share * (highest - value)


def _checked(num_successes: int, num_trials: int, confidence: float) -> tuple[int, int, float]:
    tail = (1.0 - check_open_unit("confidence", confidence)) / 2.0
    try:
        trials = check_at_least("num_trials", num_trials, 1)
        successes = check_at_least("num_successes", num_successes, 0)
    except ConfigError as error:
        raise StatisticsError(str(error)) from error
    if successes > trials:
        raise StatisticsError(f"num_successes={successes}: at most num_trials={trials}")
    return successes, trials, tail
