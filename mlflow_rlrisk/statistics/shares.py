"""Plain shares: of marked rollouts within a prompt, and of prompts within a solve-rate band."""

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.statistics.counts import CountPairs, FloatVector
from mlflow_rlrisk.statistics.groups import posterior_below


def marked_share(num_marked: npt.ArrayLike, num_total: npt.ArrayLike) -> FloatVector:
    """Share of a prompt's rollouts that carry a mark: truncated, unparsed, looping.

    Args:
        num_marked: Marked rollouts per prompt, shape ``[P]``.
        num_total: Rollouts per prompt the mark could have been on, shape ``[P]``, at least 1.

    Returns:
        Shares in ``[0, 1]``, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has no rollout the mark could be on.
        StatisticsError: A count is negative, no integer, or above its total.

    >>> marked_share([1, 0], [4, 4])
    array([0.25, 0.  ])
    """
    pairs = CountPairs.of(num_marked, num_total)
    pairs.require_scored(1, "a share")
    return pairs.gather(pairs.num_correct / pairs.num_scored)


def band_share(
    num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, low: float, high: float
) -> FloatVector:
    """1 for a prompt whose solve rate ``c/n`` lies in ``[low, high]``, else 0.

    The mean over prompts is the share in the band. Smaller is riskier.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.
        low: Lower edge as a share (1/16 for "at least 1 of 16"), included.
        high: Upper edge as a share, included.

    Returns:
        0.0 or 1.0, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has no scored rollout.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: Not ``0 <= low <= high <= 1``.

    >>> band_share([0, 1, 14, 15], [16, 16, 16, 16], low=1 / 16, high=14 / 16)
    array([0., 1., 1., 0.])
    """
    if not 0.0 <= low <= high <= 1.0:
        raise ConfigError("low", low, f"must satisfy 0 <= low <= high={high} <= 1")
    rate = marked_share(num_correct, num_scored)
    return np.asarray(((rate >= low) & (rate <= high)).astype(np.float64))


def band_probability(
    num_correct: npt.ArrayLike,
    num_scored: npt.ArrayLike,
    low: float,
    high: float,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> FloatVector:
    """Posterior probability, per prompt, that its success probability lies in ``[low, high]``.

    Arguments and errors are those of `band_share`, with ``0 < low < high < 1`` and a
    Beta(alpha, beta) prior.

    >>> band_probability([8], [16], low=0.1, high=0.9).round(4)
    array([1.])
    """
    if not 0.0 < low < high < 1.0:
        raise ConfigError("low", low, f"must satisfy 0 < low < high={high} < 1")
    above_low = posterior_below(num_correct, num_scored, low, alpha, beta)
    return posterior_below(num_correct, num_scored, high, alpha, beta) - above_low
