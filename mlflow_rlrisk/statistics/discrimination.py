"""How good are predicted probabilities? Brier score, calibration bins, decision curve."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, finite_vector, unit_array
from mlflow_rlrisk.statistics.intervals import clopper_pearson


class ReliabilityBin(NamedTuple):
    """Predictions of one bin beside what came true; the interval is Clopper-Pearson's."""

    mean_predicted: float
    observed: float
    low: float
    high: float
    num_rows: int


class DecisionPoint(NamedTuple):
    """What blocking every run from one predicted probability on would have done."""

    threshold: float
    failed_blocked: int
    good_blocked: int
    hours_saved: float
    """Of failed runs that were blocked."""
    hours_lost: float
    """Of good runs that were blocked."""


def brier_score(probabilities: npt.ArrayLike, is_positive: npt.ArrayLike) -> float:
    """Mean squared error of predicted probabilities (Brier 1950); 0 is perfect.

    Args:
        probabilities: In ``[0, 1]``, shape ``[C]``.
        is_positive: Booleans, shape ``[C]``.

    Raises:
        StatisticsError: Shapes differ or a probability is none.

    >>> brier_score([0.0, 0.5], [False, True])
    0.125
    """
    predicted, labels = _checked(probabilities, is_positive)
    return float(((predicted - labels) ** 2).mean())


def brier_skill(
    probabilities: npt.ArrayLike, is_positive: npt.ArrayLike, reference: npt.ArrayLike
) -> float:
    """``1 - Brier / Brier of the reference``: above 0 is better than it.

    Args:
        probabilities: In ``[0, 1]``, shape ``[C]``.
        is_positive: Booleans, shape ``[C]``.
        reference: Probabilities of the reference, such as the base rate, shape ``[C]``.

    Raises:
        StatisticsError: As `brier_score`, or the reference is perfect.
    """
    scale = brier_score(reference, is_positive)
    if scale == 0.0:
        raise StatisticsError("reference: is perfect, nothing can be better")
    return 1.0 - brier_score(probabilities, is_positive) / scale


def reliability_bins(
    probabilities: npt.ArrayLike, is_positive: npt.ArrayLike, num_bins: int
) -> tuple[ReliabilityBin, ...]:
    """Bins of (nearly) equal counts, in the order of the predictions.

    Equal predictions are never parted, so that the order of the rows does not matter; there may
    be fewer bins than asked for.

    Args:
        probabilities: In ``[0, 1]``, shape ``[C]``.
        is_positive: Booleans, shape ``[C]``.
        num_bins: At most so many.

    Raises:
        StatisticsError: As `brier_score`, or ``num_bins < 1``.
    """
    predicted, labels = _checked(probabilities, is_positive)
    if num_bins < 1:
        raise StatisticsError(f"num_bins={num_bins}: must be at least 1")
    values, counts = np.unique(predicted, return_counts=True)
    # A value goes to the bin in which the middle of its rows falls.
    middles = np.cumsum(counts) - counts / 2.0
    bin_of_value = (middles / predicted.size * num_bins).astype(int)
    bins = bin_of_value[np.searchsorted(values, predicted)]
    return tuple(_bin(predicted[bins == each], labels[bins == each]) for each in np.unique(bins))


def _bin(predicted: FloatVector, labels: FloatVector) -> ReliabilityBin:
    positives, count = int(labels.sum()), labels.size
    low, high = clopper_pearson(positives, count, 0.95)
    return ReliabilityBin(
        float(predicted.mean()), positives / count, float(low), float(high), count
    )


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Mean distance of predicted and observed over the bins, weighted by their counts.

    >>> expected_calibration_error((ReliabilityBin(0.25, 0.5, 0.0, 1.0, 4),))
    0.25
    """
    total = sum(each.num_rows for each in bins)
    return sum(each.num_rows * abs(each.mean_predicted - each.observed) for each in bins) / total


def decision_curve(
    probabilities: npt.ArrayLike, is_positive: npt.ArrayLike, hours: npt.ArrayLike
) -> tuple[DecisionPoint, ...]:
    """Hours of failed runs saved against good runs blocked, at every threshold that differs.

    Args:
        probabilities: Predicted probability of failure, shape ``[C]``.
        is_positive: Whether the run failed, booleans, shape ``[C]``.
        hours: Cost of each run, at least 0, shape ``[C]``.

    Returns:
        One point for each distinct prediction, the highest threshold (fewest blocked) first.

    Raises:
        StatisticsError: Shapes differ, a probability is none, or an hour is negative.
    """
    predicted, labels = _checked(probabilities, is_positive)
    cost = finite_vector("hours", hours)
    if cost.shape != predicted.shape or float(cost.min()) < 0.0:
        raise StatisticsError(f"hours has shape {cost.shape}: one of at least 0 for each run")
    points = []
    for threshold in np.unique(predicted)[::-1]:
        blocked = predicted >= threshold
        failed = blocked & (labels == 1.0)
        good = blocked & (labels == 0.0)
        points.append(
            DecisionPoint(
                float(threshold),
                int(failed.sum()),
                int(good.sum()),
                float(cost[failed].sum()),
                float(cost[good].sum()),
            )
        )
    return tuple(points)


def _checked(
    probabilities: npt.ArrayLike, is_positive: npt.ArrayLike
) -> tuple[FloatVector, FloatVector]:
    predicted = unit_array("probabilities", finite_vector("probabilities", probabilities))
    labels = np.asarray(is_positive)
    if labels.dtype != np.bool_ or labels.shape != predicted.shape:
        raise StatisticsError(
            f"is_positive is {labels.dtype}{labels.shape}: one boolean for each of "
            f"{predicted.shape}"
        )
    return predicted, labels.astype(float)
