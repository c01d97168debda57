"""Do two measures order checkpoints the other way round?"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.evaluate_modules import solve_counts
from mlflow_rlrisk.statistics import (
    PromptBootstrap,
    are_opposite,
    kendall_tau_b,
    pair_counts,
    pass_at_k,
    spearman,
)

_INPUTS = """
Two checkpoints, does pass@1 order them as pass@k does?
    predictions1, predictions2: rewards of the rollouts of each prompt, one list a prompt, the same
        prompts in the same order.
    k: attempts (default 8). threshold: correct from this reward on.
    num_resamples (default 2000), seed (default 0): of the paired bootstrap over prompts.
    Returns is_inverted, probability_inverted (share of resamples), the differences first - second
    pass_at_1_difference and pass_at_<k>_difference, and the four values.
Several checkpoints, do two measures order them alike?
    predictions1, predictions2: one value a checkpoint.
    Returns concordant, discordant, tied, inversion_rate, spearman, kendall_tau_b.
"""


class RlriskRankInversion(evaluate.Comparison):  # type: ignore[misc]  # evaluate has no types
    """Rewards of two checkpoints, or two measures of several."""

    def _info(self) -> evaluate.ComparisonInfo:
        value = datasets.Value("float64")
        rewards = datasets.Sequence(value)
        return evaluate.ComparisonInfo(
            description=__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions1": rewards, "predictions2": rewards}),
                datasets.Features({"predictions1": value, "predictions2": value}),
            ],
        )

    def _compute(
        self, predictions1: Sequence[Any], predictions2: Sequence[Any], **settings: Any
    ) -> dict[str, float | int | bool]:
        if isinstance(predictions1[0], int | float):
            for name, value in settings.items():
                raise ConfigError(name, value, "only rewards have it; measures were given")
            return _measures(predictions1, predictions2)
        return _checkpoints(predictions1, predictions2, **settings)


def _measures(first: Sequence[float], second: Sequence[float]) -> dict[str, float | int | bool]:
    pairs = pair_counts(first, second)
    return {
        "concordant": pairs.concordant,
        "discordant": pairs.discordant,
        "tied": pairs.tied,
        "inversion_rate": pairs.inversion_rate,
        "spearman": float(spearman(first, second)),
        "kendall_tau_b": float(kendall_tau_b(first, second)),
    }


def _checkpoints(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    k: int = 8,
    threshold: float | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float | int | bool]:
    if len(first) != len(second):
        raise StatisticsError(f"{len(first)} and {len(second)} prompts: not the same prompts")
    counts = [solve_counts(rewards, threshold) for rewards in (first, second)]
    once, often = ([pass_at_k(*each, attempts) for each in counts] for attempts in (1, k))
    values = {
        f"{name}_{place}": float(np.mean(column))
        for name, columns in (("pass_at_1", once), (f"pass_at_{k}", often))
        for place, column in zip(("first", "second"), columns, strict=True)
    }
    differences = np.stack([once[0] - once[1], often[0] - often[1]], axis=1)
    bootstrap = PromptBootstrap(len(first), num_resamples, seed)
    draws = bootstrap.means(differences)
    mean = differences.mean(axis=0)
    return {
        "is_inverted": bool(are_opposite(mean[0], mean[1])),
        "probability_inverted": float(np.mean(are_opposite(draws[:, 0], draws[:, 1]))),
        "pass_at_1_difference": float(mean[0]),
        f"pass_at_{k}_difference": float(mean[1]),
        **values,
    }
