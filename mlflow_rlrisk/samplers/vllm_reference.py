"""The second opinion on vLLM's figures: a plain forward pass over the same tokens.

It checks the engine at its start, and it gives the entropies that a recorder missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.forward.teacher_forced import Sequences, TokenScores, score
from mlflow_rlrisk.records import FloatArray
from mlflow_rlrisk.samplers.lora_adapter import LoraAdapter, with_adapter
from mlflow_rlrisk.samplers.model_loading import load_model

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
"""Largest mean difference of entropies and of logprobs (nats a token), by dtype of the weights.

Kernels of two engines round 16-bit activations differently, about 0.01 a token; a wrong
temperature, a shifted token or another adapter is far off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far vLLM and the forward pass differ, absolute, nats a token."""

    num_tokens: int
    mean_entropy: float
    max_entropy: float
    mean_logprob: float | None
    max_logprob: float | None

    def __str__(self) -> str:
        text = (
            f"{self.num_tokens} tokens, entropy differs by {self.mean_entropy:.1e} in the mean and "
            f"{self.max_entropy:.1e} at most"
        )
        if self.mean_logprob is None:
            return text
        return f"{text}, logprob by {self.mean_logprob:.1e} and {self.max_logprob:.1e}"


class ReferenceModel:
    """The checkpoint, with its adapter, as transformers runs it on the CPU.

    The GPU's memory is vLLM's. The weights are loaded anew for each use, and let go.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: AssessmentConfig,
        dtype: str,
        adapter: LoraAdapter | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._config = config.model_copy(update={"device": "cpu", "dtype": dtype})
        self._adapter = adapter

    def score(self, sequences: Sequences) -> list[TokenScores]:
        """Entropy and logprob of every completion token at the sampling temperature."""
        model = load_model(self._checkpoint, self._config)
        if self._adapter is not None:
            model = with_adapter(model, self._adapter)
        return score(model, sequences, temperature=self._config.sampling.temperature)


def compare(
    recorded: Sequence[TokenScores], expected: Sequence[TokenScores], *, is_reshaped: bool
) -> Agreement:
    """Differences over all tokens; logprobs only where these are of the full softmax."""
    entropy = _distance([each.entropies for each in recorded], [e.entropies for e in expected])
    logprob = None
    if not is_reshaped:
        logprob = _distance([each.logprobs for each in recorded], [e.logprobs for e in expected])
    return Agreement(
        num_tokens=entropy.size,
        mean_entropy=float(entropy.mean()),
        max_entropy=float(entropy.max()),
        mean_logprob=None if logprob is None else float(logprob.mean()),
        max_logprob=None if logprob is None else float(logprob.max()),
    )


def require_agreement(agreement: Agreement, dtype: str) -> None:
    """Refuse an engine whose figures are not those of the checkpoint.

    Raises:
        SamplerError: The mean difference is above the tolerance of the dtype, or not a number.
    """
    tolerance = TOLERANCE[dtype]
    means = [agreement.mean_entropy, agreement.mean_logprob or 0.0]
    if not all(mean <= tolerance for mean in means):
        raise SamplerError(
            f"vLLM and a plain forward pass disagree ({agreement}; at most {tolerance} in the mean "
            "is allowed): its entropies would not be those of the checkpoint"
        )


def _distance(ours: Sequence[FloatArray], theirs: Sequence[FloatArray]) -> FloatArray:
    return np.asarray(np.abs(np.concatenate(ours).astype(np.float64) - np.concatenate(theirs)))
