"""Does a measure rank checkpoints as their RL outcome does? Statistics for a handful of them.

Ladders have three to eight checkpoints, so p-values are exact, over all permutations, and the
smallest one that can be reached is part of the answer. Checkpoints of different families are
never pooled raw: ``strata`` compares within families.
"""

import math
from collections.abc import Iterator
from itertools import islice, permutations, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, IntVector, finite_vector

MAX_PERMUTATIONS = 400_000
"""Exact p-values enumerate up to this many orders (9! is below it)."""

ROUNDING = 1e-12
"""Figures this close are one value that was rounded differently."""

_BLOCK = 1 << 14
_NO_PRODUCT = 1e-14
"""Product of two differences of which one is rounding alone."""
_SMALLEST = float(np.finfo(np.float64).tiny)


class PairCounts(NamedTuple):
    """How two measures order all pairs of checkpoints."""

    concordant: int
    discordant: int
    tied: int
    """Pairs tied in either measure."""

    @property
    def inversion_rate(self) -> float:
        """Share of the untied pairs that are discordant.

        Raises:
            StatisticsError: All pairs are tied.
        """
        untied = self.concordant + self.discordant
        if untied == 0:
            raise StatisticsError("pairs: all are tied, so none can be inverted")
        return self.discordant / untied


def pair_counts(x: npt.ArrayLike, y: npt.ArrayLike) -> PairCounts:
    """Count concordant, discordant and tied pairs.

    Args:
        x: One measure, shape ``[C]`` with ``C >= 2``.
        y: The other, shape ``[C]``.

    Returns:
        The counts; they sum to ``C(C - 1)/2``.

    Raises:
        StatisticsError: The shapes differ, a value is not finite, or there are fewer than 2.

    >>> pair_counts([1, 2, 3], [1, 3, 2])
    PairCounts(concordant=2, discordant=1, tied=0)
    """
    first, second = _paired(x, y, 2)
    upper = np.triu_indices(first.size, 1)
    order = (_pair_signs(first) * _pair_signs(second))[upper]
    return PairCounts(int((order > 0).sum()), int((order < 0).sum()), int((order == 0).sum()))


def evened(values: npt.ArrayLike) -> FloatVector:
    """Figures with those of a row made equal that differ by rounding alone, shape ``[..., C]``.

    Means of one total, taken in another order of the prompts, differ by rounding. Rounded to
    decimal places they may still: shares of 4096 prompts with 10 rollouts lie half way between two.

    >>> evened([0.1 + 0.2, 0.5, 0.3])
    array([0.3, 0.5, 0.3])
    """
    given = np.asarray(values, dtype=float)
    order = np.argsort(given, axis=-1)
    ascending = np.take_along_axis(given, order, -1)
    with np.errstate(invalid="ignore"):  # two infinities are equal
        is_new = np.diff(ascending, axis=-1, prepend=-np.inf) > ROUNDING
    least = np.maximum.accumulate(np.where(is_new, ascending, -np.inf), axis=-1)
    found = np.empty_like(given)
    np.put_along_axis(found, order, least, -1)
    return found


def are_opposite(one: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether two differences have opposite signs; one that is 0 but for rounding has none.

    Args:
        one: Differences of one measure, any shape.
        other: Of the other, the same shape.

    >>> are_opposite([0.1, 0.1, 1e-17], [-0.2, 0.2, -0.5])
    array([ True, False, False])
    """
    # A product, for it is one pass over what may be many draws.
    return np.asarray(np.multiply(one, other) < -_NO_PRODUCT)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, strata: npt.ArrayLike | None = None) -> float:
    """Spearman's rank correlation, ties at mean ranks.

    Args:
        x: One measure, shape ``[C]`` with ``C >= 2``.
        y: The other, shape ``[C]``.
        strata: Family of each checkpoint, shape ``[C]``. Each measure's mean within the family
            is taken off before ranking, so that differences between families count for nothing.

    Returns:
        A correlation in ``[-1, 1]``.

    Raises:
        StatisticsError: The shapes differ, a value is not finite, or a measure does not vary.

    >>> round(spearman([1, 2, 3, 4], [1, 2, 4, 3]), 12)
    0.8
    """
    first, second = _paired(x, y, 2)
    found = float(_unit_ranks("x", first, strata) @ _unit_ranks("y", second, strata))
    return _within_one(found)


def partial_spearman(x: npt.ArrayLike, y: npt.ArrayLike, given: npt.ArrayLike) -> float:
    """Rank correlation of ``x`` and ``y`` with the part explained by ``given`` taken out.

    Where RL gains fall with starting accuracy, ``given`` is that accuracy (ceiling effect).

    Args:
        x: One measure, shape ``[C]`` with ``C >= 3``.
        y: The other, shape ``[C]``.
        given: The third, shape ``[C]``.

    Returns:
        A correlation in ``[-1, 1]``.

    Raises:
        StatisticsError: As `spearman`, or ``given`` orders a measure perfectly.

    >>> round(partial_spearman([1, 2, 3, 4], [1, 2, 4, 3], [2, 1, 4, 3]), 4)
    0.6667
    """
    direct, left, right = spearman(x, y), spearman(x, given), spearman(y, given)
    scale = (1.0 - left**2) * (1.0 - right**2)
    if scale <= ROUNDING:
        raise StatisticsError("given: orders a measure perfectly, so nothing is left to correlate")
    return _within_one((direct - left * right) / math.sqrt(scale))


def kendall_tau_b(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Kendall's tau-b: concordant minus discordant pairs, corrected for ties.

    Args:
        x: One measure, shape ``[C]`` with ``C >= 2``.
        y: The other, shape ``[C]``.

    Returns:
        A correlation in ``[-1, 1]``.

    Raises:
        StatisticsError: The shapes differ, a value is not finite, or a measure does not vary.

    >>> kendall_tau_b([1, 2, 3], [1, 2, 3])
    1.0
    """
    first, second = _paired(x, y, 2)
    signs_x, signs_y = _pair_signs(first), _pair_signs(second)
    untied_x, untied_y = int(np.abs(signs_x).sum()), int(np.abs(signs_y).sum())
    if untied_x == 0 or untied_y == 0:
        raise StatisticsError("x or y does not vary: it has no order to compare")
    return float((signs_x * signs_y).sum()) / math.sqrt(untied_x * untied_y)


def exact_permutation_p(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Two-sided p-value of `spearman` over all orders of ``y``.

    The share of orders whose correlation is at least as far from 0. The smallest value that
    ``C`` checkpoints can reach is ``2 / C!``: 1/3 for three, 1/12 for four, 1/60 for five.

    Args:
        x: One measure, shape ``[C]`` with ``C >= 2``.
        y: The other, shape ``[C]``.

    Returns:
        A p-value in ``(0, 1]``.

    Raises:
        StatisticsError: As `spearman`, or there are more orders than `MAX_PERMUTATIONS`.

    >>> round(exact_permutation_p([1, 2, 3], [1, 2, 3]), 4)
    0.3333
    """
    first, _ = _paired(x, y, 2)
    return _permutation_p(x, y, np.zeros(first.size, dtype=np.int64), None)


def stratified_permutation_p(x: npt.ArrayLike, y: npt.ArrayLike, strata: npt.ArrayLike) -> float:
    """Two-sided p-value of `spearman` within ``strata``, over the orders within each of them.

    Arguments and errors are those of `spearman` and `exact_permutation_p`.

    >>> stratified_permutation_p([1, 2, 1, 2], [1, 2, 1, 2], ["a", "a", "b", "b"])
    0.5
    """
    return _permutation_p(x, y, _labels(strata, _paired(x, y, 2)[0].size), strata)


def top1_regret(measure: npt.ArrayLike, outcome: npt.ArrayLike) -> float:
    """What picking the checkpoint with the largest measure costs, in outcome units.

    ``max(outcome) - outcome[argmax(measure)]``; where several share the largest measure, the
    worst of them is taken: nothing in the measure would have avoided it.

    Args:
        measure: What the choice is made by, larger preferred, shape ``[C]``.
        outcome: What came of it, larger better, shape ``[C]``.

    Returns:
        A regret of at least 0.

    Raises:
        StatisticsError: The shapes differ or a value is not finite.

    >>> top1_regret([0.1, 0.9], [0.8, 0.5])
    0.30000000000000004
    """
    chosen_by, result = _paired(measure, outcome, 1)
    return float(result.max() - result[chosen_by == chosen_by.max()].min())


def auroc(scores: npt.ArrayLike, is_positive: npt.ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties counting half.

    Args:
        scores: Shape ``[C]``.
        is_positive: Booleans, shape ``[C]``, with at least one of each.

    Returns:
        A probability; 1/2 is chance.

    Raises:
        StatisticsError: The shapes differ, a score is not finite, labels are no booleans, or
            one class is missing.

    >>> auroc([0.1, 0.4, 0.4, 0.8], [False, True, False, True])
    0.875
    """
    values = finite_vector("scores", scores)
    labels = np.asarray(is_positive)
    if labels.dtype != np.bool_ or labels.shape != values.shape:
        raise StatisticsError(
            f"is_positive is {labels.dtype}{labels.shape}: one boolean for each of {values.shape}"
        )
    positives = int(labels.sum())
    negatives = labels.size - positives
    if positives == 0 or negatives == 0:
        raise StatisticsError(f"is_positive holds {positives} of {labels.size}: needs both classes")
    rank_sum = float(mean_ranks(values)[labels].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def mean_ranks(values: npt.ArrayLike) -> FloatVector:
    """Ranks from 1, equal values sharing the mean of theirs, shape ``[C]``.

    >>> mean_ranks([3.0, 1.0, 3.0])
    array([2.5, 1. , 2.5])
    """
    _, index, counts = np.unique(
        finite_vector("values", values), return_inverse=True, return_counts=True
    )
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[index])


def _permutation_p(
    x: npt.ArrayLike, y: npt.ArrayLike, blocks: IntVector, strata: npt.ArrayLike | None
) -> float:
    first, second = _paired(x, y, 2)
    sizes = np.bincount(blocks)
    num_orders = math.prod(math.factorial(int(size)) for size in sizes)
    if num_orders > MAX_PERMUTATIONS:
        raise StatisticsError(
            f"{num_orders} orders to enumerate: exact p-values go up to {MAX_PERMUTATIONS}"
        )
    ranks_x, ranks_y = _unit_ranks("x", first, strata), _unit_ranks("y", second, strata)
    # Family means do not change under permutation within families, so ranks can be permuted.
    reached = abs(float(ranks_x @ ranks_y)) - ROUNDING
    extreme = 0
    orders = _orders(blocks)
    while chunk := list(islice(orders, _BLOCK)):
        extreme += int((np.abs(ranks_y[np.array(chunk)] @ ranks_x) >= reached).sum())
    return extreme / num_orders


def _orders(blocks: IntVector) -> Iterator[list[int]]:
    members = [np.flatnonzero(blocks == block).tolist() for block in range(int(blocks.max()) + 1)]
    places = np.argsort(np.concatenate(members)).tolist()
    for parts in product(*(permutations(member) for member in members)):
        joined = [position for part in parts for position in part]
        yield [joined[place] for place in places]


def _unit_ranks(name: str, values: FloatVector, strata: npt.ArrayLike | None) -> FloatVector:
    """Ranks, centred and of length 1, so that a product of two is their correlation."""
    if strata is not None:
        blocks = _labels(strata, values.size)
        values = values - (np.bincount(blocks, weights=values) / np.bincount(blocks))[blocks]
        # Equal deviations must tie although the means round.
        values = np.round(values / max(float(np.abs(values).max()), _SMALLEST), 12)
    ranks = mean_ranks(values)
    centred = ranks - ranks.mean()
    length = float(np.linalg.norm(centred))
    if length == 0.0:
        raise StatisticsError(f"{name} does not vary: it has no order to compare")
    return np.asarray(centred / length)


def _labels(strata: npt.ArrayLike, size: int) -> IntVector:
    array = np.asarray(strata)
    if array.shape != (size,):
        raise StatisticsError(f"strata has shape {array.shape}: one for each of {size} is needed")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _pair_signs(values: FloatVector) -> FloatVector:
    return np.sign(values[:, None] - values[None, :])


def _paired(x: npt.ArrayLike, y: npt.ArrayLike, minimum: int) -> tuple[FloatVector, FloatVector]:
    first, second = finite_vector("x", x), finite_vector("y", y)
    if first.shape != second.shape or first.size < minimum:
        raise StatisticsError(
            f"x has shape {first.shape}, y {second.shape}: need one shape, {minimum} or more"
        )
    return first, second


def _within_one(correlation: float) -> float:
    """Without what rounding adds beyond -1 and 1."""
    return min(max(correlation, -1.0), 1.0)
