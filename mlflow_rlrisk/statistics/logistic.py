"""Logistic regression for a handful of outcomes: estimates stay finite where classes separate.

Maximum likelihood runs off to infinity as soon as one line separates failed from good runs, which
ten checkpoints mostly allow. Two penalties keep it in place: Firth's, which removes the first-order
bias, and a Gaussian prior, which also says what is expected before any outcome is known.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, finite_array

_TOLERANCE = 1e-9
_ACCEPTED = 1e-6
_SINGULAR = -600.0
"""Log determinant below which the information matrix cannot be inverted."""


class LogisticFit(NamedTuple):
    """Coefficients of ``logit P = intercept + features @ slopes``."""

    intercept: float
    slopes: FloatVector

    def probability(self, features: npt.ArrayLike) -> FloatVector:
        """Probability of a positive for each row of ``features`` ``[C, F]``, shape ``[C]``."""
        return np.asarray(expit(self.intercept + np.asarray(features, dtype=float) @ self.slopes))


class GaussianPrior(NamedTuple):
    """Independent Gaussian priors, the intercept first, shape ``[F + 1]`` each."""

    means: FloatVector
    deviations: FloatVector


def fit_logistic(
    features: npt.ArrayLike, is_positive: npt.ArrayLike, prior: GaussianPrior | None = None
) -> LogisticFit:
    """Fit by Firth's penalised likelihood, or by the posterior mode under a Gaussian prior.

    Firth's penalty is ``log det I(beta) / 2`` (Firth 1993, Biometrika 80, 27-38; for logistic
    regression Heinze & Schemper 2002): with one binary feature it adds 1/2 to every cell of the
    2x2 table. Both penalties give finite estimates under separation.

    Args:
        features: Shape ``[C, F]``; columns of comparable scale.
        is_positive: Booleans, shape ``[C]``.
        prior: ``None`` takes Firth's penalty.

    Returns:
        The fit.

    Raises:
        StatisticsError: Shapes do not fit, a value is not finite, the features are collinear, or
            no optimum was reached.

    >>> fit = fit_logistic([[0.0], [0.0], [1.0], [1.0]], [False, False, True, True])
    >>> round(float(fit.slopes[0]), 4)  # 2 log(2.5 / 0.5)
    3.2189
    """
    from scipy.optimize import minimize  # here, for it takes longer to load than all else

    design, labels = _design(features, is_positive)
    if prior is None and np.linalg.matrix_rank(design) < design.shape[1]:
        raise StatisticsError("features: columns are collinear or constant")
    start = np.zeros(design.shape[1]) if prior is None else prior.means.astype(float)
    found = minimize(
        _loss,
        start,
        args=(design, labels, prior),
        jac=True,
        method="BFGS",
        options={"gtol": _TOLERANCE, "maxiter": 1000},
    )
    # BFGS may stop short of the tolerance where rounding leaves no descent: the gradient decides.
    slope = float(np.abs(found.jac).max())
    if not np.isfinite(found.x).all() or slope > _ACCEPTED * labels.size:
        raise StatisticsError(f"features: no optimum was reached, the slope is {slope:.3g}")
    return LogisticFit(float(found.x[0]), np.asarray(found.x[1:]))


def _design(
    features: npt.ArrayLike, is_positive: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], FloatVector]:
    columns = finite_array("features", features)
    labels = np.asarray(is_positive)
    if columns.ndim != 2 or columns.shape[0] == 0:
        raise StatisticsError(f"features has shape {columns.shape}: rows and columns are needed")
    if labels.dtype != np.bool_ or labels.shape != (columns.shape[0],):
        raise StatisticsError(
            f"is_positive is {labels.dtype}{labels.shape}: one boolean for each of "
            f"{columns.shape[0]} rows"
        )
    return np.column_stack([np.ones(columns.shape[0]), columns]), labels.astype(float)


def _loss(
    beta: FloatVector,
    design: npt.NDArray[np.float64],
    labels: FloatVector,
    prior: GaussianPrior | None,
) -> tuple[float, FloatVector]:
    """The penalised negative log-likelihood and its gradient."""
    logits = design @ beta
    probability = expit(logits)
    likelihood = float(labels @ logits - np.logaddexp(0.0, logits).sum())
    score = design.T @ (labels - probability)
    if prior is not None:
        distance = (beta - prior.means) / prior.deviations
        return float(distance @ distance) / 2.0 - likelihood, distance / prior.deviations - score
    weight = probability * (1.0 - probability)
    information = (design.T * weight) @ design
    sign, determinant = np.linalg.slogdet(information)
    if sign <= 0.0 or determinant < _SINGULAR:
        return np.inf, np.zeros_like(beta)  # farther than any optimum: the line search turns back
    inverse = np.linalg.inv(information)
    leverage = weight * np.einsum("ci,ij,cj->c", design, inverse, design)
    score = score + design.T @ (leverage * (0.5 - probability))
    return -likelihood - float(determinant) / 2.0, -score
