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

from mlflow_rlrisk.lineage.measures import FloatArray, Measure, blocks_of, estimate
from mlflow_rlrisk.lineage.table import PASS_AT_1, LineageTable
from mlflow_rlrisk.statistics.multiple import holm_adjusted
from mlflow_rlrisk.statistics.ranks import ROUNDING, are_opposite


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
    adjusted = _adjusted([base, *found])
    names, rates = table.names, base.evened
    ordered = [
        (left, right) if rates[left] >= rates[right] else (right, left)
        for left, right in combinations(range(len(names)), 2)
    ]
    by_pass = _differences(base, ordered, adjusted, confidence)
    pairs = [
        _pair((names[left], names[right]), first, second, measure.name, share, alpha)
        for measure in found
        for (left, right), first, second, share in zip(
            ordered,
            by_pass,
            _differences(measure, ordered, adjusted, confidence),
            _shares_inverted(base, measure, ordered),
            strict=True,
        )
    ]
    return tuple(pairs), tuple(_agreement(base, m, pairs, confidence) for m in found)


def _adjusted(measures: Sequence[Measure]) -> dict[str, FloatArray]:
    """Holm over every pair of every measure, as one family."""
    size = measures[0].values.size
    upper = np.triu_indices(size, 1)
    raw = [measure.difference_p_values()[upper] for measure in measures]
    blocks = np.split(holm_adjusted(np.concatenate(raw)), len(measures))
    adjusted = {}
    for measure, block in zip(measures, blocks, strict=True):
        matrix = np.ones((size, size))
        matrix[upper] = block
        adjusted[measure.name] = np.minimum(matrix, matrix.T)
    return adjusted


def _pair(
    names: tuple[str, str],
    by_pass: PairedDifference,
    by_measure: PairedDifference,
    measure: str,
    probability_inverted: float,
    alpha: float,
) -> Pair:
    order = PairOrder.UNRESOLVED
    if max(by_pass.p_value, by_measure.p_value) <= alpha:
        order = PairOrder.INVERTED if by_measure.value < 0.0 else PairOrder.SAME
    return Pair(
        first=names[0],
        second=names[1],
        measure=measure,
        pass_at_1=by_pass,
        difference=by_measure,
        probability_inverted=probability_inverted,
        order=order,
    )


def _shares_inverted(
    base: Measure, measure: Measure, pairs: Sequence[tuple[int, int]]
) -> list[float]:
    shares: list[float] = []
    for block in blocks_of(pairs):
        left, right = np.transpose(block)
        by_pass = base.draws[:, left] - base.draws[:, right]
        by_measure = measure.draws[:, left] - measure.draws[:, right]
        shares += are_opposite(by_pass, by_measure).mean(axis=0).tolist()
    return shares


def _differences(
    measure: Measure,
    pairs: Sequence[tuple[int, int]],
    adjusted: dict[str, FloatArray],
    confidence: float,
) -> list[PairedDifference]:
    return [
        PairedDifference(
            value=found.value,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            p_value=float(adjusted[measure.name][pair]),
        )
        for pair, found in zip(pairs, measure.differences(pairs, confidence), strict=True)
    ]


def _agreement(
    base: Measure, measure: Measure, pairs: Sequence[Pair], confidence: float
) -> OrderAgreement:
    counted = Counter(pair.order for pair in pairs if pair.measure == measure.name)
    ratio = low = high = None
    if measure.name.startswith(PASS_AT_1.removesuffix("1")):  # the same unit: shares of prompts
        sides = (base.values, base.draws, base.left_out)
        if all((np.ptp(side, axis=-1) > ROUNDING).all() for side in sides):
            below = (side.std(axis=-1) for side in sides)
            above = (
                side.std(axis=-1) for side in (measure.values, measure.draws, measure.left_out)
            )
            value, draws, left_out = (a / b for a, b in zip(above, below, strict=True))
            found = estimate(float(value), draws, left_out, confidence)
            ratio, low, high = found.value, found.ci_low, found.ci_high
    return OrderAgreement(
        measure=measure.name,
        num_pairs={str(order): counted[order] for order in PairOrder},
        spread_ratio=ratio,
        spread_ratio_low=low,
        spread_ratio_high=high,
    )
