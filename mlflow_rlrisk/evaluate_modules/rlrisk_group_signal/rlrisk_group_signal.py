"""What RL groups of g rollouts would carry: reward differences, or none."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from mlflow_rlrisk.evaluate_modules import solve_counts
from mlflow_rlrisk.statistics import (
    critical_success,
    expected_group_variance,
    frac_all_correct,
    frac_all_wrong,
    group_signal,
    group_signal_from_values,
    reward_variance,
)
from mlflow_rlrisk.statistics.ragged import Ragged

_INPUTS = """
Args:
    predictions: rewards of the rollouts of each prompt, one list a prompt, at least g each.
    group_size: rollouts per prompt and step of the RL run, g (default 8).
Returns:
    group_signal_fraction, frac_reward_zero_std and expected_group_variance; where rewards are
    0 and 1 also frac_all_correct, frac_all_wrong and headroom; critical_success, num_prompts.
"""


class RlriskGroupSignal(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Means over prompts of the U-statistics over all groups of g scored rollouts."""

    def _info(self) -> evaluate.MetricInfo:
        rewards = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": rewards}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[float]], group_size: int = 8
    ) -> dict[str, float | int]:
        critical = critical_success(group_size)
        common: dict[str, float | int] = {
            "critical_success": float(critical),
            "num_prompts": len(predictions),
        }
        if not np.isin(Ragged.of("rewards", predictions).flat, (0.0, 1.0)).all():
            signal = float(np.mean(group_signal_from_values(predictions, group_size)))
            variance = float(np.mean(reward_variance(predictions, group_size)))
            return _signal(signal, variance) | common
        counts = solve_counts(predictions, None)
        signal = float(np.mean(group_signal(*counts, group_size)))
        variance = float(np.mean(expected_group_variance(*counts, group_size)))
        return {
            **_signal(signal, variance),
            "frac_all_correct": float(np.mean(frac_all_correct(*counts, group_size))),
            "frac_all_wrong": float(np.mean(frac_all_wrong(*counts, group_size))),
            "headroom": float(np.mean(counts[0] / counts[1]) / critical),
            **common,
        }


def _signal(signal: float, variance: float) -> dict[str, float | int]:
    return {
        "group_signal_fraction": signal,
        "frac_reward_zero_std": 1.0 - signal,
        "expected_group_variance": variance,
    }
