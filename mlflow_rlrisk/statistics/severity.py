"""From a measured value to a severity in [0, 1], and from severities to one index.

Both are conventions, not estimates; which value counts as severe is decided by the policy.
"""

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, finite_array, unit_array


def ramp(values: npt.ArrayLike, ok: float, bad: float) -> FloatVector:
    """Severity: 0 from ``ok`` on, 1 from ``bad`` on, linear between.

    The direction is read from the two ends: ``bad < ok`` says that small values are riskier.

    Args:
        values: Measured values, any shape.
        ok: Value from which on the severity is 0.
        bad: Value from which on the severity is 1.

    Returns:
        Severities in ``[0, 1]``, the shape of ``values``.

    Raises:
        ConfigError: The ends are equal or not finite.
        StatisticsError: A value is not finite.

    >>> ramp([0.9, 0.5, 0.1], ok=0.75, bad=0.25)
    array([0. , 0.5, 1. ])
    """
    if not np.isfinite([ok, bad]).all() or ok == bad:
        raise ConfigError("ok", ok, f"must be finite and differ from bad={bad}")
    return np.clip((finite_array("values", values) - ok) / (bad - ok), 0.0, 1.0)


def noisy_or(severities: npt.ArrayLike, weights: npt.ArrayLike) -> FloatVector:
    """Index ``1 - prod(1 - weight * severity)`` over the last axis. Larger is riskier.

    Monotone in every severity; a single severe component can dominate. A component that was
    not measured is left out by the caller; that it is missing does not make anything safe.

    Args:
        severities: Severities in ``[0, 1]``, shape ``[..., C]``.
        weights: Weights in ``[0, 1]``, shape ``[C]``.

    Returns:
        Index values in ``[0, 1]``, shape ``[...]``.

    Raises:
        StatisticsError: A severity or weight lies outside ``[0, 1]``, or the shapes do not fit.

    >>> round(float(noisy_or([0.5, 0.25, 0.0], [0.9, 0.6, 0.4])), 4)
    0.5325
    """
    severity, weight = unit_array("severities", severities), unit_array("weights", weights)
    if weight.ndim != 1 or severity.ndim == 0 or severity.shape[-1] != weight.size:
        raise StatisticsError(
            f"severities has shape {severity.shape}, weights {weight.shape}: "
            "one weight for each component of the last axis is needed"
        )
    return np.asarray(1.0 - np.prod(1.0 - weight * severity, axis=-1))
