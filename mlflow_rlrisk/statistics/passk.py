"""Chance of at least one, or only, correct rollouts among k: pass@k and pass^k.

Exact: integers until the last division, which Python rounds correctly. Neither factorials in
floating point nor the plug-in ``1 - (1 - c/n)**k``, which is biased low, are used anywhere.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import CountPairs, FloatVector, binomials, check_at_least


def pass_at_k(num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, k: int) -> FloatVector:
    """Estimate, per prompt, the chance that at least one of ``k`` rollouts is correct.

    Unbiased for ``k <= n``: averages over every way to draw ``k`` of the ``n`` scored rollouts
    without replacement (Chen et al. 2021, arXiv:2107.03374, eq. 1). Larger is safer; ``k = 1``
    is the solve rate, whose sign is context only.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``. Rollouts whose
            verifier failed are not scored and must not be counted here.
        k: Number of attempts, at least 1.

    Returns:
        Correctly rounded probabilities in ``[0, 1]``, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has ``n < k``. No value is substituted.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: ``k < 1``.

    >>> pass_at_k([0, 1, 4], [4, 4, 4], k=2)
    array([0. , 0.5, 1. ])
    """
    return pass_at_ks(num_correct, num_scored, [k])[k]


def pass_at_ks(
    num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, ks: Sequence[int]
) -> dict[int, FloatVector]:
    """`pass_at_k` for several ``k``, with the counts checked once.

    Args:
        num_correct: As in `pass_at_k`, shape ``[P]``.
        num_scored: As in `pass_at_k`, shape ``[P]``.
        ks: Numbers of attempts, each at least 1.

    Returns:
        Probabilities of shape ``[P]`` by ``k``.

    Raises:
        InsufficientRolloutsError: A prompt has fewer scored rollouts than the largest ``k``.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: A ``k`` is below 1.

    >>> pass_at_ks([1], [4], [1, 2])
    {1: array([0.25]), 2: array([0.5])}
    """
    sizes = [check_at_least("k", k, 1) for k in ks]
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(max(sizes, default=0), f"pass@{max(sizes, default=0)}")
    return {k: pairs.gather(_pass_at_k_of_pairs(pairs, k)) for k in sizes}


def pass_hat_k(num_correct: npt.ArrayLike, num_scored: npt.ArrayLike, k: int) -> FloatVector:
    """Estimate, per prompt, the chance that all of ``k`` rollouts are correct.

    Unbiased for ``k <= n`` (pass^k, Yao et al. 2024, arXiv:2406.12045). Never above `pass_at_k`.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.
        k: Number of attempts, at least 1.

    Returns:
        Correctly rounded probabilities in ``[0, 1]``, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has ``n < k``.
        StatisticsError: A count is negative, no integer, or ``c > n``.
        ConfigError: ``k < 1``.

    >>> pass_hat_k([0, 3, 4], [4, 4, 4], k=2)
    array([0. , 0.5, 1. ])
    """
    size = check_at_least("k", k, 1)
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(size, f"pass^{size}")
    draws = binomials(np.concatenate([pairs.num_correct, pairs.num_scored]), size)
    return pairs.gather(
        [
            draws[c] / draws[n]
            for c, n in zip(pairs.num_correct.tolist(), pairs.num_scored.tolist(), strict=True)
        ]
    )


def pass_at_k_bound(mean: float, variance: float, k: int) -> float:
    """Highest mean pass@k that prompts with this mean and spread of success can have.

    ``1 - ((1 - mean)**2 + variance)**(k/2)`` for ``k >= 2`` (Jensen; Dang et al. 2025,
    arXiv:2504.10478): at one pass@1, a wider spread over prompts lowers pass@k.

    Args:
        mean: Mean success probability over prompts, in ``[0, 1]``.
        variance: Its variance over prompts, at least 0 and at most ``mean (1 - mean)``.
        k: Number of attempts, at least 2.

    Raises:
        StatisticsError: No distribution on ``[0, 1]`` has this mean and variance.
        ConfigError: ``k < 2``.

    >>> pass_at_k_bound(0.5, 0.25, k=2)
    0.5
    """
    attempts = check_at_least("k", k, 2)
    if not 0.0 <= mean <= 1.0 or not 0.0 <= variance <= mean * (1.0 - mean):
        raise StatisticsError(
            f"mean={mean}, variance={variance}: no distribution on [0, 1] has these"
        )
    return float(1.0 - ((1.0 - mean) ** 2 + variance) ** (attempts / 2))


def _pass_at_k_of_pairs(pairs: CountPairs, k: int) -> list[float]:
    wrong = (pairs.num_scored - pairs.num_correct).tolist()
    scored = pairs.num_scored.tolist()
    draws = binomials({*wrong, *scored}, k)
    return [(draws[n] - draws[w]) / draws[n] for w, n in zip(wrong, scored, strict=True)]
