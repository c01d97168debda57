"""A sampler without a model, so that a killed sampling process costs little to start again.

Registered as backend ``coin`` by `install`, in a folder that goes onto ``PYTHONPATH``. Whether a
completion is right is drawn from a hash of prompt and sample; a checkpoint whose
``initializer_range`` is 1 or more always answers the same.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.demo.task import shortest_chain
from mlflow_rlrisk.records import FinishReason, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.samplers import OnTokens

PAUSE_S = 0.02
"""Between two prompts: time to be killed in, without work for the processor."""


class CoinSampler:
    """Draws right and wrong answers."""

    def __init__(
        self,
        source: Checkpoint | Path | str,
        config: AssessmentConfig,
        on_tokens: OnTokens | None = None,
    ) -> None:
        assert isinstance(source, Checkpoint)
        self.on_tokens = on_tokens
        self._num_samples = config.sampling.num_samples
        self._is_collapsed = source.config["initializer_range"] >= 1

    def sample(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        for prompt in prompts:
            time.sleep(PAUSE_S)
            rollouts = tuple(self._rollout(prompt, each) for each in range(self._num_samples))
            if self.on_tokens is not None:
                self.on_tokens(4 * len(rollouts), len(rollouts))
            yield RolloutGroup(prompt=prompt, rollouts=rollouts)

    def _rollout(self, prompt: Prompt, index: int) -> Rollout:
        which = 0 if self._is_collapsed else index
        seed = hashlib.sha256(f"{prompt.id} {which}".encode()).digest()
        _, start, _, target, _ = str(prompt.content).split()
        steps = shortest_chain(int(start), int(target))
        right = " ".join(f"{op} {operand} = {result}" for op, operand, result in steps)
        return Rollout(
            prompt_id=prompt.id,
            sample_index=index,
            completion=right if seed[0] < 128 else f"+ {seed[1]} = 0",
            token_ids=np.array([5, 6, 7, 2], np.int64),
            # Stored as float32; these values are the same there, so that a resumed run is too.
            logprobs=np.full(4, -0.75),
            entropies=np.full(4, 0.03125 if self._is_collapsed else 0.75),
            finish_reason=FinishReason.STOP,
        )

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        return PAUSE_S * len(prompts)

    def template(self, prompts: Sequence[Prompt]) -> str:
        return "none"

    def describe(self) -> dict[str, Any]:
        return {"backend": "coin", "dtype": "float32"}


def install(folder: Path) -> Path:
    """Write what makes the backend known; the folder belongs onto ``PYTHONPATH``."""
    info = folder / "coin_sampler-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin-sampler\nVersion: 1\n")
    point = "coin = tests.benchmarks.coin_sampler:CoinSampler"
    (info / "entry_points.txt").write_text(f"[mlflow_rlrisk.samplers]\n{point}\n")
    return folder
