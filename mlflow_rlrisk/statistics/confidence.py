"""From bootstrap draws to draws whose percentiles are confidence limits.

Percentiles of plain bootstrap draws are narrow by ``sqrt((P - 1)/P)`` and by the normal quantile
in the place of Student's, and leave out bias and skewness; at 50 prompts that costs one to five
points of coverage, and all of it where few prompts carry an estimate. Here the draws themselves
are mapped, one rank after the other, to those of a confidence distribution (Efron and Hastie 2016,
"Computer Age Statistical Inference", chapter 11). Their percentiles are the interval at every
level. Their ranks are those of the bootstrap, so that what is computed of several metrics draw by
draw, as the risk index is, has an interval that agrees with theirs.
"""

import math
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from mlflow_rlrisk.statistics.counts import FloatVector, check_at_least, finite_vector

BCA_MINIMUM_PROMPTS = 30
"""Below this the acceleration of BCa is itself too noisy, and percentiles are used."""

SPARSE_BELOW = 5.0
"""Prompts that carry the skewness of an estimate; with fewer, what no prompt showed is allowed for.

Found by simulation (``tests/benchmarks/coverage.py``): at 4 some metrics cover 92.6 %, at 6 more of
them cover above 97 %."""


SPREAD_SPARSE_BELOW = 8.0
"""The same for an estimate of spread, whose jackknife understates its own skewness."""

_LEAST_ROOM = 1e-9
"""Where BCa's denominator reaches 0 its level is 0 or 1; beyond, it would turn over."""


class IntervalMethod(StrEnum):
    """How an interval was made."""

    PERCENTILE = "percentile"
    BCA = "bca"
    SPARSE = "sparse"
    """Few prompts carry the estimate: ends allow for prompts unlike those seen."""
    CONSTANT = "constant"
    """All prompts gave one value: bounds from Clopper-Pearson over prompts."""


class ConfidenceDraws(NamedTuple):
    """Draws ``[B]`` whose percentiles are confidence limits, and how they were made."""

    draws: FloatVector
    method: IntervalMethod


def confidence_draws(
    draws: npt.ArrayLike,
    estimate: float,
    jackknife: npt.ArrayLike,
    *,
    num_prompts: int,
    bounds: tuple[float, float] | None = None,
    is_spread: bool = False,
    is_difference: bool = False,
) -> ConfidenceDraws:
    """Map bootstrap draws to those of a confidence distribution, rank by rank.

    The draw of rank ``u`` becomes the quantile of the draws at ``Phi(b + s/(1 - a s))`` with
    ``s = b + sqrt(P/(P - 1)) t(u)``: the bias ``b`` and acceleration ``a`` of BCa (Efron 1987),
    at the levels of the expanded percentile interval (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789), ``t`` being Student's quantile at the degrees of freedom of
    the variance seen: ``P - 1``, or ``2 P/(kurtosis - 1)`` where tails are so long that this is
    less (Satterthwaite 1946, doi:10.2307/3002019). Below `BCA_MINIMUM_PROMPTS` prompts, where all
    draws lie on one side of the estimate, or for a difference, ``a`` and ``b`` are 0.

    Where `num_carriers` is below `SPARSE_BELOW`, resampling cannot tell how much the prompts that
    were not drawn would add. The upper half of the draws is then not below, and the lower half not
    above, the limits for a share of unseen prompts at the far bound: none of ``P`` is one of them,
    so that this share follows Beta(1/2, P + 1/2) (Jeffreys). That allows for the tails of a
    mean already, whose degrees of freedom are then ``P - 1``.

    Args:
        draws: Bootstrap draws, shape ``[B]``.
        estimate: The value on the prompts themselves.
        jackknife: The value with each prompt left out, shape ``[P]``.
        num_prompts: Prompts that the estimate rests on, where some do not count.
        bounds: Smallest and largest value a single prompt could give; ``None`` where there are
            none, or none that any prompt comes near, so that nothing is allowed for the unseen.
        is_spread: The estimate is a spread over prompts, no mean: `SPREAD_SPARSE_BELOW` applies.
        is_difference: The estimate is a difference or a ratio of two checkpoints on the same
            prompts. It has long tails on both sides; the skewness that so few prompts show is
            mostly noise, and correcting for it loses up to three points
            (``tests/benchmarks/paired.py``, ``expert_pairs_coverage.py``).

    Returns:
        Draws in the order of ``draws``, and the method.

    Raises:
        StatisticsError: A value is not finite.
        ConfigError: ``num_prompts < 1``.
    """
    sample = finite_vector("draws", draws)
    left_out = finite_vector("jackknife", jackknife)
    prompts = check_at_least("num_prompts", num_prompts, 1)
    acceleration = _acceleration(left_out)
    enough = SPREAD_SPARSE_BELOW if is_spread else SPARSE_BELOW
    is_sparse = bounds is not None and _carriers(acceleration) < enough
    freedom = max(prompts - 1, 1)
    if is_spread or not is_sparse:
        freedom = min(freedom, _freedom_of_tails(left_out, prompts))
    order = np.argsort(sample, kind="stable")
    ordered = sample[order]
    sides = np.searchsorted(ordered, estimate), np.searchsorted(ordered, estimate, "right")
    below = float(sum(sides)) / (2 * sample.size)
    method, bias, slope = IntervalMethod.PERCENTILE, 0.0, 0.0
    if not is_difference and prompts >= BCA_MINIMUM_PROMPTS and 0.0 < below < 1.0:
        method, bias, slope = IntervalMethod.BCA, float(ndtri(below)), acceleration
    spread = math.sqrt(1.0 + 1.0 / max(prompts - 1, 1))
    shifted = bias + spread * _student_scores(sample.size, freedom)
    room = np.maximum(1.0 - slope * shifted, _LEAST_ROOM)
    levels = ndtr(bias + shifted / room)
    mapped = np.interp(levels * (sample.size - 1), np.arange(sample.size), ordered)
    if bounds is not None and is_sparse:
        method = IntervalMethod.SPARSE
        _allow_for_the_unseen(mapped, estimate, prompts, bounds)
    result = np.empty_like(mapped)
    result[order] = mapped
    return ConfidenceDraws(result, method)


def num_carriers(jackknife: npt.ArrayLike) -> float:
    """Number of equal prompts that alone would give an estimate the skewness it has.

    ``(sum d**2)**3 / (sum d**3)**2`` of its influence values ``d``: 1 where one prompt makes the
    whole spread, the number of prompts and more where they contribute evenly.

    Args:
        jackknife: The value with each prompt left out, shape ``[P]``.

    Raises:
        StatisticsError: A value is not finite.

    >>> round(num_carriers([1.0] + [0.0] * 999), 1)
    1.0
    """
    return _carriers(_acceleration(finite_vector("jackknife", jackknife)))


def _allow_for_the_unseen(
    ordered: FloatVector, estimate: float, num_prompts: int, bounds: tuple[float, float]
) -> None:
    """Move the halves of ordered draws out to the limits of `confidence_draws`, in place."""
    share = _unseen_shares(ordered.size, num_prompts)
    half = (ordered.size + 1) // 2
    above = estimate + share[half:] * (bounds[1] - estimate)
    ordered[half:] = np.maximum(ordered[half:], above)
    below = estimate + share[::-1][:half] * (bounds[0] - estimate)
    ordered[:half] = np.minimum(ordered[:half], below)


def _carriers(acceleration: float) -> float:
    return math.inf if acceleration == 0.0 else 1.0 / (36.0 * acceleration**2)


def _acceleration(left_out: FloatVector) -> float:
    deviations = left_out.mean() - left_out
    spread = float(np.dot(deviations, deviations))
    if spread == 0.0:
        return 0.0
    return float(np.sum(deviations**3)) / (6.0 * spread * math.sqrt(spread))


def _freedom_of_tails(left_out: FloatVector, num_prompts: int) -> int:
    """Degrees of freedom of a variance over prompts of this kurtosis, at least 1."""
    squares = (left_out.mean() - left_out) ** 2
    total = float(squares.sum())
    if total == 0.0:
        return max(num_prompts - 1, 1)
    excess = num_prompts * float(np.dot(squares, squares)) / total**2 - 1.0
    return max(int(min(2.0 * num_prompts / max(excess, 1e-9), num_prompts)), 1)


@lru_cache(maxsize=16)
def _ranks(num_draws: int) -> FloatVector:
    """Level of each rank, as `numpy.quantile` counts them; the outermost are kept from 0 and 1."""
    edge = 0.25 / num_draws
    return np.clip(np.linspace(0.0, 1.0, num_draws), edge, 1.0 - edge)


@lru_cache(maxsize=256)
def _student_scores(num_draws: int, freedom: int) -> FloatVector:
    """Student's quantile at each rank, shape ``[B]``."""
    scores = stdtrit(freedom, _ranks(num_draws))
    scores.setflags(write=False)
    return np.asarray(scores)


@lru_cache(maxsize=16)
def _unseen_shares(num_draws: int, num_prompts: int) -> FloatVector:
    """Upper limit, at each rank, of the share of prompts of a kind that none of them is."""
    shares = betaincinv(0.5, num_prompts + 0.5, _ranks(num_draws))
    shares.setflags(write=False)
    return np.asarray(shares)
