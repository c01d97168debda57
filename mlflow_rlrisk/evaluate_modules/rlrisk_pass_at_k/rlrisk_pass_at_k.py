"""pass@k: the chance that at least one of k rollouts is correct, without bias."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.evaluate_modules import solve_counts
from mlflow_rlrisk.statistics import pass_at_k

_INPUTS = """
Args:
    predictions: rewards of the rollouts of each prompt, one list a prompt.
    k: attempts, one number or several (default 1); no prompt may have fewer rollouts.
    threshold: correct from this reward on; without it rewards are 0 or 1.
Returns:
    pass_at_<k> for every k, and num_prompts.
"""


class RlriskPassAtK(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Mean over prompts of the unbiased estimate (Chen et al. 2021, eq. 1)."""

    def _info(self) -> evaluate.MetricInfo:
        rewards = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Chen et al. 2021, arXiv:2107.03374",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": rewards}),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        k: int | Sequence[int] = 1,
        threshold: float | None = None,
    ) -> dict[str, float | int]:
        correct, scored = solve_counts(predictions, threshold)
        ks = list(k) if isinstance(k, Sequence | np.ndarray) else [k]
        if not ks:
            raise ConfigError("k", k, "at least one number of attempts is needed")
        estimates = {f"pass_at_{each}": pass_at_k(correct, scored, each) for each in ks}
        values = {name: float(np.mean(estimate)) for name, estimate in estimates.items()}
        return {**values, "num_prompts": len(predictions)}
