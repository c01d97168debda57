"""What is computed from the rollouts of an assessment, and how the machine is used."""

from typing import Annotated, Literal

from pydantic import Field

from mlflow_rlrisk.config.sampling import SamplingConfig
from mlflow_rlrisk.config.settings import LARGEST_COUNT, Plain, PositiveInt, Settings, Share
from mlflow_rlrisk.errors import ConfigError

LONGEST_TIMEOUT_S = 1e6
"""Days; timers of the operating system overflow far beyond."""


class AssessmentConfig(Settings):
    """One assessment: sampling, grading and statistics."""

    sampling: SamplingConfig = SamplingConfig()
    group_size: Annotated[int, Field(ge=2, le=LARGEST_COUNT)] = 8
    """Rollouts per prompt and step of the RL run, ``g``."""
    success_threshold: float | None = None
    """A rollout is correct from this reward on. ``None`` accepts rewards 0 and 1 only."""
    num_resamples: Annotated[int, Field(ge=200, le=LARGEST_COUNT)] = 2000
    """Bootstrap replicates over prompts."""
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    """Level of every interval."""
    budget: Literal["fixed", "auto"] = "fixed"
    """``auto`` samples in rounds and stops once the level is decided; never more than ``fixed``."""
    backend: Annotated[str, Field(min_length=1)] = "auto"
    """Name of the installed sampler that draws the rollouts; ``auto`` is ``transformers``."""
    backend_options: dict[str, Plain] = Field(default_factory=dict)
    """Settings of that sampler alone, as its class documents them; no secrets, they are logged."""
    device: str = "auto"
    """``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:<index>``."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; logits are computed in float32 whatever it is."""
    batch_size: PositiveInt = 256
    """Sequences decoded together; changes speed and memory, not the random streams."""
    verifier_timeout_s: Annotated[float, Field(gt=0.0, le=LONGEST_TIMEOUT_S)] = 10.0
    """Time limit of one verifier call."""
    verifier_workers: PositiveInt = 2
    """Worker processes that verify."""
    max_failed_share: Share = 0.0
    """Above this share of failed verifications, or of ``None`` for rewards, it is ``unknown``."""
    allow_pickle: bool = False
    """Accept pickled weights (the operator's decision, never a caller's)."""
    num_examples: Annotated[int, Field(ge=0, le=200)] = 24
    """Rollouts shown in the report."""

    def require_a_group(self) -> None:
        """Refuse to sample less than a group of each prompt.

        Raises:
            ConfigError: It is less.
        """
        num_samples = self.sampling.num_samples
        if num_samples < self.group_size:
            need = (
                f"at least group_size={self.group_size} rollouts a prompt are needed to see a group"
            )
            raise ConfigError("num_samples", num_samples, need)
