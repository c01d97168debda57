"""Do pass@1 and a safety measure order two checkpoints alike? Resolved pairs only.

Before any RL ran, the order by pass@1 is the one a team would follow. A measure that predicts
what RL makes of a checkpoint may order a pair the other way round: a predicted rank inversion.
It is claimed only where the prompts resolve both differences after Holm's correction over all
pairs and measures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np
from scipy import special

from mlflow_rlrisk.lineage.table import PASS_AT_1, FloatArray, LineageTable, Measure
from mlflow_rlrisk.statistics.bootstrap import interval
from mlflow_rlrisk.statistics.multiple import holm_adjusted


class PairOrder(StrEnum):
    """How pass@1 and a measure order a pair."""

    INVERTED = "inverted"
    """Both differences are resolved, with opposite signs."""
    SAME = "same"
    """Both differences are resolved, with the same sign."""
    UNRESOLVED = "unresolved"
    """The prompts do not resolve one of the differences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A difference of two checkpoints on the same prompts.

    Attributes:
        value: The first's value less the second's.
        ci_low: Lower end of the paired interval.
        ci_high: Upper end.
        p_value: Two-sided, Holm-adjusted over all pairs and measures of the lineage.
    """

    value: float
    ci_low: float
    ci_high: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two checkpoints, ordered by pass@1, under one measure.

    Attributes:
        first: The one with the higher pass@1.
        second: The other.
        measure: Full name of the measure; larger is safer.
        pass_at_1: Difference of pass@1, at least 0.
        difference: Difference of the measure.
        probability_inverted: Share of resamples of the prompts in which pass@1 and the measure
            order the two the other way round.
        order: What is resolved.
    """

    first: str
    second: str
    measure: str
    pass_at_1: PairedDifference
    difference: PairedDifference
    probability_inverted: float
    order: PairOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderAgreement:
    """How a measure orders the whole lineage, beside pass@1.

    Attributes:
        measure: Full name of the measure.
        num_pairs: Pairs by `PairOrder`.
        spread_ratio: Spread of the measure between the checkpoints over that of pass@1
            (standard deviations), where both are a pass@k; else ``None``.
        spread_ratio_low: Lower end of its interval.
        spread_ratio_high: Upper end; below 1 the differences shrink: rank compression, which
            is not an inversion.
    """

    measure: str
    num_pairs: dict[str, int]
    spread_ratio: float | None
    spread_ratio_low: float | None
    spread_ratio_high: float | None


def compare_orders(
    table: LineageTable, measures: Sequence[str], *, alpha: float = 0.05, confidence: float = 0.95
) -> tuple[tuple[Pair, ...], tuple[OrderAgreement, ...]]:
    """Compare the order by pass@1 with that by each measure.

    The p-value of a difference is two-sided from its bootstrap standard error; where all prompts
    differ by the same amount there is no spread, and the sign test over the prompts stands in.

    Args:
        table: The lineage.
        measures: Full names of measures of which larger values are safer.
        alpha: Chance of any false claim, over all pairs and measures.
        confidence: Level of the intervals.

    Returns:
        Every pair under every measure, and one summary for each measure. Empty where pass@1 is
        undefined.
    """
    base = table.measures.get(PASS_AT_1)
    found = [table.measures[name] for name in measures if name in table.measures]
    if base is None or not found:
        return (), ()
    adjusted = _adjusted([base, *found], table.num_prompts)
    pairs = [
        _pair(table, base, measure, left, right, adjusted, alpha, confidence)
        for measure in found
        for left, right in combinations(range(len(table.members)), 2)
    ]
    return tuple(pairs), tuple(_agreement(base, m, pairs, confidence) for m in found)


def difference_p_values(measure: Measure, num_prompts: int) -> FloatArray:
    """Two-sided p-values of all paired differences, not adjusted, shape ``[C, C]``."""
    difference = np.abs(measure.values[:, None] - measure.values[None, :])
    error = measure.difference_error()
    flat = error <= 1e-12 * np.maximum(difference, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = special.erfc(difference / error / np.sqrt(2.0))
    constant = np.where(difference > 1e-12, 2.0 ** (1 - num_prompts), 1.0)
    return np.asarray(np.minimum(np.where(flat, constant, p_values), 1.0))


def _adjusted(measures: Sequence[Measure], num_prompts: int) -> dict[str, FloatArray]:
    """Holm over every pair of every measure, as one family."""
    size = measures[0].values.size
    upper = np.triu_indices(size, 1)
    raw = [difference_p_values(measure, num_prompts)[upper] for measure in measures]
    blocks = np.split(holm_adjusted(np.concatenate(raw)), len(measures))
    adjusted = {}
    for measure, block in zip(measures, blocks, strict=True):
        matrix = np.ones((size, size))
        matrix[upper] = block
        adjusted[measure.name] = np.minimum(matrix, matrix.T)
    return adjusted


def _pair(
    table: LineageTable,
    base: Measure,
    measure: Measure,
    left: int,
    right: int,
    adjusted: dict[str, FloatArray],
    alpha: float,
    confidence: float,
) -> Pair:
    if base.values[right] > base.values[left]:
        left, right = right, left
    by_pass = _difference(base, left, right, adjusted, confidence)
    by_measure = _difference(measure, left, right, adjusted, confidence)
    product = (base.draws[:, left] - base.draws[:, right]) * (
        measure.draws[:, left] - measure.draws[:, right]
    )
    is_resolved = max(by_pass.p_value, by_measure.p_value) <= alpha
    order = PairOrder.UNRESOLVED
    if is_resolved:
        order = PairOrder.INVERTED if by_measure.value < 0.0 else PairOrder.SAME
    return Pair(
        first=table.names[left],
        second=table.names[right],
        measure=measure.name,
        pass_at_1=by_pass,
        difference=by_measure,
        probability_inverted=float((product < 0.0).mean()),
        order=order,
    )


def _difference(
    measure: Measure, left: int, right: int, adjusted: dict[str, FloatArray], confidence: float
) -> PairedDifference:
    low, high = interval(measure.draws[:, left] - measure.draws[:, right], confidence)
    return PairedDifference(
        value=float(measure.values[left] - measure.values[right]),
        ci_low=low,
        ci_high=high,
        p_value=float(adjusted[measure.name][left, right]),
    )


def _agreement(
    base: Measure, measure: Measure, pairs: Sequence[Pair], confidence: float
) -> OrderAgreement:
    counted = Counter(pair.order for pair in pairs if pair.measure == measure.name)
    ratio = low = high = None
    if measure.name.startswith(PASS_AT_1.removesuffix("1")):  # the same unit: shares of prompts
        below = base.draws.std(axis=1)
        if base.values.std() > 0.0 and (below > 0.0).all():
            ratio = float(measure.values.std() / base.values.std())
            low, high = interval(measure.draws.std(axis=1) / below, confidence)
    return OrderAgreement(
        measure=measure.name,
        num_pairs={str(order): counted[order] for order in PairOrder},
        spread_ratio=ratio,
        spread_ratio_low=low,
        spread_ratio_high=high,
    )
