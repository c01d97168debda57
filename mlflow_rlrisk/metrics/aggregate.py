"""Columns -> metrics with intervals, and the bootstrap draws that the index is made of.

One set of resamples of prompts serves every metric, so that draws of different metrics may be
combined replicate by replicate. They are mapped to confidence distributions first, so that every
interval, that of the index too, is percentiles of draws. Where all prompts gave the same value,
resampling shows no spread and would claim certainty: the interval then comes from a
Clopper-Pearson bound on the share of prompts that might differ, the draws from the matching
posterior.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_rlrisk.metrics.columns import Bounds, Formula, PromptColumns
from mlflow_rlrisk.metrics.sampling_columns import add_sampling_columns
from mlflow_rlrisk.metrics.success_columns import add_success_columns
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap, interval
from mlflow_rlrisk.statistics.confidence import IntervalMethod, confidence_draws
from mlflow_rlrisk.statistics.counts import FloatVector
from mlflow_rlrisk.statistics.intervals import constant_interval

_NO_SPREAD = 1e-12
"""Draws closer together than this, relative to the value, differ by rounding only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregates:
    """Metrics by full name, their confidence draws ``[B]``, and why the others are undefined."""

    metrics: dict[str, Metric]
    draws: dict[str, FloatVector]
    undefined: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Means:
    """Column means over the prompts ``[]``, over resamples ``[B]``, without each prompt ``[P]``."""

    point: Mapping[str, FloatVector]
    resampled: Mapping[str, FloatVector]
    left_out: Mapping[str, FloatVector]


def aggregate(
    statistics: Sequence[PromptStatistics],
    *,
    group_size: int,
    max_new_tokens: int,
    num_resamples: int,
    seed: int,
    confidence: float,
) -> Aggregates:
    """Evaluate every metric that the prompts support, with its interval.

    Args:
        statistics: One record per prompt, at least one.
        group_size: Rollouts per prompt and step of the RL run, ``g``.
        max_new_tokens: Token limit of a rollout.
        num_resamples: Bootstrap replicates, ``B``.
        seed: Seed of the resamples.
        confidence: Level of the intervals.

    Returns:
        Metrics and draws; a metric whose interval cannot be had is undefined with the reason.
    """
    table = PromptColumns(num_prompts=len(statistics))
    add_success_columns(table, statistics, group_size)
    add_sampling_columns(table, statistics, group_size=group_size, max_new_tokens=max_new_tokens)
    means = _column_means(table, PromptBootstrap(table.num_prompts, num_resamples, seed))
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    found = Aggregates(metrics={}, draws={}, undefined=dict(table.undefined))
    for name, formula in table.formulas.items():
        num_prompts = formula.num_prompts or table.num_prompts
        estimate = _estimate(formula, means, num_prompts, confidence, rng)
        if isinstance(estimate, str):
            found.undefined[name] = estimate
        else:
            found.metrics[name], found.draws[name] = estimate
    return found


def _estimate(
    formula: Formula,
    means: _Means,
    num_prompts: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[Metric, FloatVector] | str:
    """A metric with its draws, or the reason why it is undefined."""
    value = float(_evaluate(formula, means.point))
    draws = _evaluate(formula, means.resampled)
    reason = _unusable(value, draws)
    if reason is not None:
        return reason
    limits = formula.limits or (-np.inf, np.inf)
    if not _is_constant(value, draws):
        left_out = _evaluate(formula, means.left_out)
        if not np.isfinite(left_out).all():  # undefined without one prompt: no skewness to be had
            left_out = np.full_like(left_out, value)
        draws, method = confidence_draws(
            draws,
            value,
            left_out,
            num_prompts=num_prompts,
            bounds=_reach(formula, value, means.point, num_prompts),
            is_spread=bool(formula.extremes),
        )
        # Not before: where a prompt changes nothing, its influence and its skewness are not seen.
        value, draws = float(np.clip(value, *limits)), np.clip(draws, *limits)
        ends = interval(draws, confidence)
    elif formula.bounds is None:
        return _no_interval(float(np.clip(value, *limits)), num_prompts)
    else:
        value = float(np.clip(value, *formula.bounds))  # rounding of the mean
        draws = constant_draws(value, formula.bounds, num_prompts, draws.size, rng)
        ends = constant_interval(value, num_prompts, formula.bounds, confidence)
        method = IntervalMethod.CONSTANT
    metric = Metric(
        value=value,
        ci_low=ends[0],
        ci_high=ends[1],
        num_prompts=num_prompts,
        method=str(method),
    )
    return metric, draws


def _reach(
    formula: Formula, value: float, point: Mapping[str, FloatVector], num_prompts: int
) -> Bounds | None:
    """Where an estimate is drawn to by prompts unlike those seen; ``None`` where nothing says."""
    if not formula.extremes:
        return None if formula.is_far else formula.bounds
    share = 1.0 / num_prompts  # one such prompt: how much an estimate that is no mean would move
    moved = [
        float(
            formula.evaluate(
                *(
                    (1.0 - share) * point[name] + share * extreme
                    for name, extreme in zip(formula.columns, values, strict=True)
                )
            )
        )
        for values in formula.extremes
    ]
    return value + (min(moved) - value) / share, value + (max(moved) - value) / share


def percentile_metric(
    value: float, draws: FloatVector, num_prompts: int, confidence: float
) -> Metric:
    """A figure with the percentile interval of its draws, widened to hold the estimate.

    For what is made of ramps and curves, at whose corners the correction of BCa means nothing and
    the estimate may lie at the very end of the draws.
    """
    low, high = interval(draws, confidence)
    return Metric(
        value=value,
        ci_low=min(low, value),
        ci_high=max(high, value),
        num_prompts=num_prompts,
        method="percentile",
    )


def _column_means(table: PromptColumns, bootstrap: PromptBootstrap) -> _Means:
    names = list(table.columns)
    matrix = np.stack([table.columns[name] for name in names], axis=1)
    point = matrix.mean(axis=0)
    resampled = bootstrap.means(matrix)
    others = max(table.num_prompts - 1, 1)
    left_out = (point * table.num_prompts - matrix) / others
    return _Means(
        point={name: point[column] for column, name in enumerate(names)},
        resampled={name: resampled[:, column] for column, name in enumerate(names)},
        left_out={name: left_out[:, column] for column, name in enumerate(names)},
    )


def _evaluate(formula: Formula, means: Mapping[str, FloatVector]) -> FloatVector:
    return formula.evaluate(*(means[column] for column in formula.columns))


def _unusable(value: float, draws: FloatVector) -> str | None:
    if not np.isfinite(value):
        return "nothing to divide by on these prompts"
    missing = int((~np.isfinite(draws)).sum())
    if missing:
        return (
            f"too few prompts carry it: {missing} of {draws.size} resamples of the prompts "
            "have nothing to divide by"
        )
    return None


def _is_constant(value: float, draws: FloatVector) -> bool:
    return float(np.ptp(draws)) <= _NO_SPREAD * max(abs(value), 1.0)


def _no_interval(value: float, num_prompts: int) -> str:
    return (
        f"all {counted(num_prompts, 'prompt gives', 'prompts give')} {value:.6g}, so there is no "
        "interval, "
        "and no bound is known that could stand in"
    )


def constant_draws(
    value: float, bounds: Bounds, num_prompts: int, num_draws: int, rng: np.random.Generator
) -> FloatVector:
    """Posterior draws of a mean when each of ``num_prompts`` prompts gave ``value``.

    The share of prompts that would differ has the posterior Beta(1/2, num_prompts + 1/2); they
    are put at the far bound, at either one where the value lies inside. Shape ``[num_draws]``.
    """
    share = rng.beta(0.5, num_prompts + 0.5, size=num_draws)
    low, high = bounds
    if value <= low:
        target = np.full(num_draws, high)
    elif value >= high:
        target = np.full(num_draws, low)
    else:
        target = np.where(rng.random(num_draws) < 0.5, low, high)
    return np.asarray(value + share * (target - value))
