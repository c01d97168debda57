"""Columns of what RL would see: solve rates, group signal, starved and saturated prompts."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from mlflow_rlrisk.errors import InsufficientRolloutsError
from mlflow_rlrisk.metrics.catalogue import PREFIX, pass_at_k_name
from mlflow_rlrisk.metrics.columns import SHARE, Formula, PromptColumns, ratio
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.statistics import beta_binomial, groups, passk, shares
from mlflow_rlrisk.statistics.counts import FloatVector, IntVector

BAND = (1 / 16, 14 / 16)
"""Solve rates of ``band_share``: 1 to 14 of 16 rollouts, the prompt filter of arXiv:2606.18487."""

_SIGNAL = "group_signal_fraction"
_SPREAD = ("success_variance", "overdispersion")
_EXTREMES = ((1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.25, 0.0))
"""Moments of a prompt that is always, never, or half the time solved."""
_OF_SUCCESS = (
    "headroom",
    "starved_share",
    "saturated_share",
    "frac_all_correct",
    "frac_all_wrong",
    "band_share",
    *_SPREAD,
)


def add_success_columns(
    table: PromptColumns, statistics: Sequence[PromptStatistics], group_size: int
) -> None:
    """Add every metric of solve counts and of rewards.

    Args:
        table: Takes the columns.
        statistics: One record per prompt.
        group_size: Rollouts per prompt and step of the RL run, ``g``.
    """
    ks = _powers_of_two(max(each.num_samples for each in statistics))
    counts = success_counts(statistics)
    if counts is None:
        names = [pass_at_k_name(k).removeprefix(PREFIX) for k in ks]
        table.leave_out(undefined_success_reason(statistics), *names, *_OF_SUCCESS)
    else:
        _add_solve_rates(table, *counts, ks, group_size)
        _add_spread(table, *counts)
    _add_signal(table, statistics, group_size)


def success_counts(
    statistics: Sequence[PromptStatistics],
) -> tuple[IntVector, IntVector] | None:
    """``num_correct`` and ``num_scored``, each ``[P]``; ``None`` where success is undefined."""
    correct = [each.num_correct for each in statistics if each.num_correct is not None]
    if len(correct) < len(statistics):
        return None
    scored = [each.num_scored for each in statistics]
    return np.array(correct, dtype=np.int64), np.array(scored, dtype=np.int64)


def undefined_success_reason(statistics: Sequence[PromptStatistics]) -> str:
    """Names the rewards that leave success undefined."""
    seen = sorted({reward for each in statistics for reward in each.rewards} - {0.0, 1.0})
    shown = ", ".join(f"{reward:g}" for reward in seen[:3]) + (", ..." if len(seen) > 3 else "")
    return f"rewards other than 0 and 1 (saw {shown}): state --success-threshold"


def _powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to ``most``; 1 at least, so that its absence gets a reason."""
    return [2**power for power in range(max(most, 1).bit_length())]


def _add_solve_rates(
    table: PromptColumns,
    correct: IntVector,
    scored: IntVector,
    ks: Sequence[int],
    group_size: int,
) -> None:
    for k in ks:
        name = pass_at_k_name(k).removeprefix(PREFIX)
        table.add_mean(name, partial(passk.pass_at_k, correct, scored, k), SHARE)
    critical = groups.critical_success(group_size)
    table.add_mean(
        "headroom", lambda: passk.pass_at_k(correct, scored, 1) / critical, (0.0, 1.0 / critical)
    )
    for name, estimate in (
        ("starved_share", groups.starved_probability),
        ("saturated_share", groups.saturated_probability),
        ("frac_all_correct", groups.frac_all_correct),
        ("frac_all_wrong", groups.frac_all_wrong),
    ):
        table.add_mean(name, partial(estimate, correct, scored, group_size), SHARE)
    table.add_mean("band_share", partial(shares.band_share, correct, scored, *BAND), SHARE)


def _add_spread(table: PromptColumns, correct: IntVector, scored: IntVector) -> None:
    num_prompts = table.num_prompts
    if num_prompts < 2:
        table.leave_out("a variance over prompts needs at least 2 prompts", *_SPREAD)
        return
    try:
        moments = beta_binomial.success_moments(correct, scored)
    except InsufficientRolloutsError as error:
        table.leave_out(str(error), *_SPREAD)
        return
    names = ("solve_rate", "solve_rate_squared", "solve_rate_noise")
    table.columns.update(zip(names, moments.T, strict=True))

    def variance(*means: FloatVector) -> FloatVector:
        return beta_binomial.success_variance_of_means(np.stack(means, axis=-1), num_prompts)

    def overdispersion(*means: FloatVector) -> FloatVector:
        room = means[0] * (1.0 - means[0])
        return ratio(variance(*means), np.where(room < 1e-12, 0.0, room))

    table.formulas[PREFIX + "success_variance"] = Formula(columns=names, evaluate=variance)
    table.formulas[PREFIX + "overdispersion"] = Formula(
        columns=names, evaluate=overdispersion, extremes=_EXTREMES, limits=SHARE
    )


def _add_signal(
    table: PromptColumns, statistics: Sequence[PromptStatistics], group_size: int
) -> None:
    """Signal and variance of the rewards as they are, which is what the trainer sees."""
    rewards = [each.rewards for each in statistics]
    values = {reward for each in rewards for reward in each}
    if not values:
        names = (_SIGNAL, "frac_reward_zero_std", "expected_group_variance")
        table.leave_out("no rollout was scored", *names)
        return
    if values <= {0.0, 1.0}:
        ones = np.array([int(sum(each)) for each in rewards], dtype=np.int64)
        scored = np.array([len(each) for each in rewards], dtype=np.int64)
        signal = partial(groups.group_signal, ones, scored, group_size)
        variance = partial(groups.expected_group_variance, ones, scored, group_size)
    else:
        signal = partial(groups.group_signal_from_values, rewards, group_size)
        variance = partial(groups.reward_variance, rewards, group_size)
    # A sample variance of rewards within a width is at most width^2 / 2 (two rollouts); rewards
    # that are all alike say nothing of the width, and 0 and 1 is what most verifiers give.
    width = (max(values) - min(values)) or 1.0
    table.add_mean(_SIGNAL, signal, SHARE)
    table.add_mean("expected_group_variance", variance, (0.0, width**2 / 2.0))
    found = table.formulas.get(PREFIX + _SIGNAL)
    if found is None:
        table.leave_out(table.undefined[PREFIX + _SIGNAL], "frac_reward_zero_std")
        return
    table.formulas[PREFIX + "frac_reward_zero_std"] = Formula(
        columns=found.columns, evaluate=lambda mean: 1.0 - mean, bounds=SHARE
    )
