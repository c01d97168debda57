"""Token entropy of rollouts in nats, from full logits or from entropies that are known already."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import datasets
import evaluate
import numpy as np

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import (
    entropy_from_logits,
    prompt_mean,
    sequence_mean,
    token_mean,
)

LOW_ENTROPY_NATS = 0.01
"""Below it a token is as good as decided (`mlflow_rlrisk.measure`)."""

_INPUTS = """
Args:
    data: one entry a rollout: the logits of its tokens [T, V] over the whole vocabulary, or the
        entropies of its tokens [T] in nats.
    temperature: divides logits (default 1), positive; entropies are taken as they are.
    prompt_index: prompt of each rollout, from 0 without a gap; without it each rollout has its own.
Returns:
    token_entropy (mean over prompts of the mean over rollouts of the mean over tokens),
    token_entropy_seq_mean, token_entropy_token_mean, low_entropy_share, num_tokens.
"""


class RlriskTokenEntropy(evaluate.Measurement):  # type: ignore[misc]  # evaluate has no types
    """The aggregations of the report; they differ where length and entropy go together."""

    def _info(self) -> evaluate.MeasurementInfo:
        entropies = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MeasurementInfo(
            description=__doc__,
            citation="Cui et al. 2025, arXiv:2505.22617",
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"data": entropies}),
                datasets.Features({"data": datasets.Sequence(entropies)}),
            ],
        )

    def _compute(
        self,
        data: Sequence[Any],
        temperature: float = 1.0,
        prompt_index: Sequence[int] | None = None,
    ) -> dict[str, float | int]:
        given: object = temperature  # users give what they like
        if not isinstance(given, Real) or not 0.0 < float(given) < np.inf:
            raise ConfigError("temperature", temperature, "must be positive and finite")
        rollouts = [np.asarray(each, dtype=np.float64) for each in data]
        sizes = sorted({each.shape[1] for each in rollouts if each.ndim == 2})
        if len(sizes) > 1:  # the most likely tokens only: no entropy can be had of them
            raise StatisticsError(
                f"data hold logits of {sizes[0]} and of {sizes[1]} words; those of the whole "
                "vocabulary are needed"
            )
        if sizes and sizes[0] < 2:  # logprobs of the sampled tokens as [T, 1]
            raise StatisticsError(
                f"data hold logits of {sizes[0]} word; those of the whole vocabulary are needed, "
                "at least 2"
            )
        entropies = [
            entropy_from_logits(each, temperature) if each.ndim == 2 else each for each in rollouts
        ]
        index = range(len(entropies)) if prompt_index is None else prompt_index
        tokens = np.concatenate(entropies)
        return {
            "token_entropy": prompt_mean(entropies, np.asarray(index)),
            "token_entropy_seq_mean": sequence_mean(entropies),
            "token_entropy_token_mean": token_mean(entropies),
            "low_entropy_share": float(np.mean(tokens < LOW_ENTROPY_NATS)),
            "num_tokens": int(tokens.size),
        }
