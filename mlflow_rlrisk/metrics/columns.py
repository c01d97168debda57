"""PromptStatistics -> one column per estimator, and for each metric the formula over column means.

Every metric is a function of means over prompts. That is what lets one set of bootstrap weights
serve all metrics and the index at once: resample the means, apply the same formulas. A metric
whose estimator refuses (n < k, n < g, success undefined) is left out here with the reason; its
prompts are never dropped to make it computable.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mlflow_rlrisk.errors import InsufficientRolloutsError
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.statistics.counts import FloatVector

Bounds = tuple[float, float]

SHARE: Bounds = (0.0, 1.0)


def identity(mean: FloatVector) -> FloatVector:
    """The mean itself."""
    return mean


def ratio(numerator: FloatVector, denominator: FloatVector) -> FloatVector:
    """Ratio of two means; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(denominator == 0.0, np.nan, numerator / denominator))


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """How a metric follows from means of columns.

    Attributes:
        columns: Columns it reads, in the order of the arguments of ``evaluate``.
        evaluate: Vectorised over any shape of means.
        bounds: Values a single prompt could give, where they are known; needed for an interval
            when all prompts give the same.
        num_prompts: Prompts it rests on, where that is not all of them.
        is_far: No prompt comes near the bounds, as none has a million equally likely tokens: an
            interval then allows for long tails, and not for prompts at the bounds.
        extremes: For a metric that is no mean: the values, in each column, of the prompts that
            would move it most.
        limits: Range of such a metric.
    """

    columns: tuple[str, ...]
    evaluate: Callable[..., FloatVector] = identity
    bounds: Bounds | None = None
    num_prompts: int | None = None
    is_far: bool = False
    extremes: tuple[tuple[float, ...], ...] = ()
    limits: Bounds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptColumns:
    """Columns ``[P]``, formulas by full metric name, and why the other metrics are undefined.

    Where ``wanted`` names metrics (in full), means of others are not computed.
    """

    num_prompts: int
    wanted: frozenset[str] | None = None
    columns: dict[str, FloatVector] = field(default_factory=dict)
    formulas: dict[str, Formula] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def add_mean(
        self,
        name: str,
        compute: Callable[[], FloatVector],
        bounds: Bounds,
        *,
        is_far: bool = False,
    ) -> None:
        """Add a metric that is the mean of one column; undefined where ``compute`` refuses."""
        if self.wanted is not None and PREFIX + name not in self.wanted:
            return
        try:
            self.columns[name] = compute()
        except InsufficientRolloutsError as error:
            self.undefined[PREFIX + name] = str(error)
            return
        self.formulas[PREFIX + name] = Formula(columns=(name,), bounds=bounds, is_far=is_far)

    def add_ratio(
        self,
        name: str,
        numerator: FloatVector,
        denominator: FloatVector,
        bounds: Bounds | None = SHARE,
        num_prompts: int | None = None,
        *,
        is_far: bool = False,
    ) -> None:
        """Add a metric that is a ratio of sums over prompts."""
        if not denominator.any():
            self.undefined[PREFIX + name] = "no rollout to divide by"
            return
        columns = (f"{name}.numerator", f"{name}.denominator")
        self.columns.update(zip(columns, (numerator, denominator), strict=True))
        self.formulas[PREFIX + name] = Formula(
            columns=columns,
            evaluate=ratio,
            bounds=bounds,
            num_prompts=num_prompts,
            is_far=is_far,
        )

    def leave_out(self, reason: str, *names: str) -> None:
        """Record why metrics are undefined."""
        self.undefined.update({PREFIX + name: reason for name in names})
