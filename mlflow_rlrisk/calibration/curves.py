"""Fitting one risk score to failures: from a score to a chance, never falling as risk grows."""

from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import expit

from mlflow_rlrisk.statistics.counts import FloatVector
from mlflow_rlrisk.statistics.logistic import GaussianPrior, fit_logistic

INTERCEPT_SD = 2.5
"""Prior of the intercept: failure rates of .7 % to 99 % lie within two of it."""
SLOPE_MEAN, SLOPE_SD = 1.0, 1.0
"""Prior of the log odds ratio of one standard deviation of the score: riskier, but unsure."""
LINEAGE_SD = 1.0
"""Prior of what a lineage adds to the log odds: lineages differ, by how much is not known."""

Curve = Callable[[FloatVector], FloatVector]
"""Scores ``[C]`` to probabilities of failure ``[C]``."""


class Kind(StrEnum):
    """What the data allow to fit."""

    NONE = "none"
    LOGISTIC = "logistic"
    ISOTONIC = "isotonic"


def fit_curve(
    kind: Kind, scores: FloatVector, failed: np.ndarray, lineages: Sequence[str]
) -> Curve:
    """Fit a curve to scores that are larger where risk is larger.

    Args:
        kind: Logistic or isotonic.
        scores: Shape ``[C]``.
        failed: Booleans, shape ``[C]``.
        lineages: Lineage of each, shape ``[C]``.

    Returns:
        The curve for a checkpoint of a lineage that is not among them. It is flat where the
        outcomes say that the score points the other way.
    """
    if kind is Kind.ISOTONIC:
        return _isotonic(scores, failed)
    if kind is Kind.LOGISTIC:
        return _logistic(scores, failed, lineages)
    return constant_curve(failed)


def constant_curve(failed: np.ndarray) -> Curve:
    """The share of failures, Jeffreys' mean, whatever the score."""
    rate = (float(failed.sum()) + 0.5) / (failed.size + 1.0)
    return lambda scores: np.full(np.shape(scores), rate)


def _logistic(scores: FloatVector, failed: np.ndarray, lineages: Sequence[str]) -> Curve:
    centre, spread = float(scores.mean()), float(scores.std())
    if (
        np.ptp(scores) == 0.0 or spread == 0.0
    ):  # rounding gives equal scores a spread, and takes one
        return constant_curve(failed)
    names = sorted(set(lineages))
    members = np.array([[lineage == name for name in names] for lineage in lineages], dtype=float)
    prior = GaussianPrior(
        np.array([0.0, SLOPE_MEAN, *[0.0] * len(names)]),
        np.array([INTERCEPT_SD, SLOPE_SD, *[LINEAGE_SD] * len(names)]),
    )
    standard = (scores - centre) / spread
    fit = fit_logistic(np.column_stack([standard, members]), failed, prior)
    if fit.slopes[0] <= 0.0:
        return constant_curve(failed)
    slope, intercept = float(fit.slopes[0]), fit.intercept
    return lambda values: np.asarray(expit(intercept + slope * (values - centre) / spread))


def _isotonic(scores: FloatVector, failed: np.ndarray) -> Curve:
    at, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rates = np.bincount(place, weights=failed.astype(float)) / counts
    fitted = isotonic_regression(rates, weights=counts).x
    # No number of outcomes shows a chance of exactly 0 or 1.
    edge = 0.5 / failed.size
    levels = np.clip(fitted, edge, 1.0 - edge)
    return lambda values: np.asarray(np.interp(values, at, levels))
