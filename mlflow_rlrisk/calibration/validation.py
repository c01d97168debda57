"""Out of lineage: every checkpoint is predicted by curves that have not seen its siblings.

Siblings share data, base and task; leaving out one checkpoint would leave its twin in. The rivals
are fitted by the same curve on the same rows, so that nothing but the score differs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from mlflow_rlrisk.calibration.curves import Kind, constant_curve, fit_curve
from mlflow_rlrisk.calibration.rows import OutcomeRow
from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector
from mlflow_rlrisk.statistics.discrimination import brier_score, brier_skill
from mlflow_rlrisk.statistics.ranks import auroc, kendall_tau_b, spearman, top1_regret

INDEX = "risk_index"
LOOKAHEAD = "lookahead_reach"
FEATURES = (INDEX, LOOKAHEAD)
"""What can be calibrated; of the second the share of the gap that is left, ``1 - reach``."""
CONSTANT = "constant"
RIVALS = ("pass_at_1", "pass_at_64", "token_entropy", "headroom")
ALIKE = 0.01
"""Chances of failure that differ by no more than this are one prediction."""
_PREFIX = "rlrisk/"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorScore:
    """How one predictor did on lineages that its curve had not seen.

    Attributes:
        auroc: Of the predicted probabilities; ``None`` where they or the outcomes do not vary.
        brier: Mean squared error of them.
        brier_low: Lower end of its 95 % interval for lineages like these.
        brier_high: Upper end.
        skill: Against the failure share of the other lineages.
        spearman: Of minus the score with the final success, all checkpoints.
        spearman_within: The same with lineage means taken off.
        kendall: Tau-b, all checkpoints.
        regret: Final success lost by starting from the least risky of a lineage, mean over
            lineages.
    """

    auroc: float | None
    brier: float
    brier_low: float
    brier_high: float
    skill: float | None
    spearman: float | None
    spearman_within: float | None
    kendall: float | None
    regret: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """Scores by predictor, the reason for each that has none, and the feature's predictions.

    Attributes:
        alike: Rivals whose predictions are the feature's, as those of pass@64 are the index's where
            nothing else was found: neither is ahead.
        is_constant: Whether the feature's predictions are the base rate's: then it says nothing.
    """

    scores: Mapping[str, PredictorScore]
    undefined: Mapping[str, str]
    predicted: FloatVector
    alike: tuple[str, ...]
    is_constant: bool


def validate(rows: Sequence[OutcomeRow], kind: Kind, feature: str = INDEX) -> Validation:
    """Predict every lineage by the others, with the feature and with each rival.

    The other feature is a rival too; the first updates only where they were tried of some row.

    Args:
        rows: Outcomes of at least two lineages; each has the feature.
        kind: Curve that is fitted.
        feature: What is calibrated, one of `FEATURES`.
    """
    scores: dict[str, PredictorScore] = {}
    undefined: dict[str, str] = {}
    constant = _constant(rows)
    predicted = constant
    alike: list[str] = []
    is_tried = any(_PREFIX + LOOKAHEAD in row.metrics for row in rows)
    others = [name for name in FEATURES if name != feature and (name == INDEX or is_tried)]
    for name in (feature, *others, *RIVALS, CONSTANT):
        risks = risks_of(rows, name)
        if isinstance(risks, str):
            undefined[name] = risks
            continue
        chances = constant if name == CONSTANT else out_of_lineage(rows, risks, kind)
        if name == feature:
            predicted = chances
        elif name != CONSTANT and _are_one(chances, predicted):
            alike.append(name)
        scores[name] = _score(rows, risks, chances, constant)
    return Validation(
        scores=scores,
        undefined=undefined,
        predicted=predicted,
        alike=tuple(alike),
        is_constant=_are_one(constant, predicted),
    )


def _are_one(chances: FloatVector, others: FloatVector) -> bool:
    return np.allclose(chances, others, rtol=0.0, atol=ALIKE)


def risks_of(rows: Sequence[OutcomeRow], name: str) -> FloatVector | str:
    """Risk by one predictor, larger is riskier, ``[C]``; or why not every row has it.

    pass@64 is read at the largest number of attempts up to 64 that all rows share.
    """
    if name == INDEX:
        return np.array([row.index for row in rows])
    if name == CONSTANT:
        return np.zeros(len(rows))
    metric = _PREFIX + name
    if name == "pass_at_64":
        shared = [
            k for k in range(1, 65) if all(f"{_PREFIX}pass_at_{k}" in r.metrics for r in rows)
        ]
        metric = f"{_PREFIX}pass_at_{max(shared, default=64)}"
    missing = sum(metric not in row.metrics for row in rows)
    if missing:
        return f"{missing} of {len(rows)} checkpoints have no {metric}"
    values = np.array([row.metrics[metric] for row in rows])
    return 1.0 - values if name == LOOKAHEAD else -values


def out_of_lineage(rows: Sequence[OutcomeRow], risks: FloatVector, kind: Kind) -> FloatVector:
    """Chance of failure of each row by a curve fitted without its lineage, ``[C]``."""
    lineages = np.array([row.lineage for row in rows])
    failed = np.array([row.failed for row in rows])
    chances = np.empty(len(rows))
    for name in np.unique(lineages):
        own = lineages == name
        curve = fit_curve(kind, risks[~own], failed[~own], lineages[~own].tolist())
        chances[own] = curve(risks[own])
    return chances


def _constant(rows: Sequence[OutcomeRow]) -> FloatVector:
    lineages = np.array([row.lineage for row in rows])
    failed = np.array([row.failed for row in rows])
    chances = np.empty(len(rows))
    for name in np.unique(lineages):
        own = lineages == name
        chances[own] = constant_curve(failed[~own])(chances[own])
    return chances


def _score(
    rows: Sequence[OutcomeRow], risks: FloatVector, chances: FloatVector, constant: FloatVector
) -> PredictorScore:
    failed = np.array([row.failed for row in rows])
    final = np.array([row.final for row in rows])
    lineages = [row.lineage for row in rows]
    low, high = brier_interval(chances, failed, lineages)
    return PredictorScore(
        auroc=None if np.ptp(chances) == 0.0 else defined(lambda: auroc(chances, failed)),
        brier=brier_score(chances, failed),
        brier_low=low,
        brier_high=high,
        skill=defined(lambda: brier_skill(chances, failed, constant)),
        spearman=defined(lambda: spearman(-risks, final)),
        spearman_within=defined(lambda: spearman(-risks, final, lineages)),
        kendall=defined(lambda: kendall_tau_b(-risks, final)),
        regret=_regret(risks, final, lineages),
    )


def _regret(risks: FloatVector, final: FloatVector, lineages: Sequence[str]) -> float:
    names = np.array(lineages)
    each = [top1_regret(-risks[names == name], final[names == name]) for name in np.unique(names)]
    return float(np.mean(each))


def brier_interval(
    chances: FloatVector, failed: np.ndarray, lineages: Sequence[str]
) -> tuple[float, float]:
    """95 % interval for lineages like these: Student's, of one degree of freedom less than these.

    A lineage is the unit, for its checkpoints share a task and a recipe: the variance is that of a
    ratio of sums over lineages (Cochran 1977, Sampling Techniques, chapter 6).

    Args:
        chances: Predicted chances of failure, shape ``[C]``.
        failed: Whether each failed, shape ``[C]``.
        lineages: Lineage of each, at least two different ones.
    """
    errors = (chances - failed) ** 2
    _, place = np.unique(np.array(lineages), return_inverse=True)
    sizes, score = np.bincount(place), float(errors.mean())
    left = np.bincount(place, errors) - score * sizes
    spread = math.sqrt(sizes.size / (sizes.size - 1) * float(left @ left)) / errors.size
    half = float(stdtrit(sizes.size - 1, 0.975)) * spread
    return max(score - half, 0.0), min(score + half, 1.0)


def defined(compute: Callable[[], float]) -> float | None:
    """A statistic, or ``None`` where it is undefined on these rows."""
    try:
        return compute()
    except StatisticsError:
        return None
