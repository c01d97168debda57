"""Everything the outcome depends on, frozen before the sweep, with the definitions of outcomes.

``results/SETTINGS.json`` is written from here; every row carries the digest.
"""

import hashlib
import json
from typing import Literal

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig, Settings

Architecture = Literal[
    "llama",
    "gpt2",
    "gpt_neox",
    "opt",
    "phi",
    "olmo2",
    "bloom",
    "stablelm",
    "gptj",
    "qwen3",
    "cohere",
    "starcoder2",
    "gpt_bigcode",
    "mixtral",
    "granite",
    "falcon",
    "gpt_neo",
    "persimmon",
    "phi3",
    "glm",
    "mistral",
    "helium",
    "smollm3",
    "arcee",
    "apertus",
    "ernie4_5",
    "olmo3",
    "exaone4",
    "cohere2",
    "seed_oss",
    "glm4",
    "hunyuan",
]


BASE_FIELDS = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "base_batch",
    "base_learning_rate",
    "off_target_share",
    "slip_share",
)


class LineageSettings(Settings):
    """One lineage: a task, an architecture and how its base was made."""

    name: str
    task: str
    architecture: Architecture
    base_seed: int
    base_steps: int
    walk_lengths: tuple[int, ...]
    """Steps of the base's walks relative to a prompt's distance, drawn evenly.

    In tasks without walks: given cells of its grids relative to a prompt's.
    """
    sft_learning_rate: float
    rl_learning_rate: float


class StudySettings(Settings):
    """The whole study."""

    lineages: tuple[LineageSettings, ...]

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4

    base_batch: int = 64
    base_learning_rate: float = 3e-3
    off_target_share: float = 0.15
    """Share of walks in the base's material whose prompt names another target."""
    slip_share: float = 0.10
    """Share of walks with a wrong word."""

    prompt_seed: int = 7
    num_expert: int = 192
    num_validation: int = 128
    """Expert prompts that no fine-tuning sees: held-out loss and validation pass@1."""
    num_rl: int = 256
    num_assessed: int = 100
    """The first of the RL prompts are assessed."""
    num_heldout: int = 128

    sft_batch: int = 16
    sft_seeds: tuple[int, ...] = (0, 1)
    narrow_depths: tuple[int, ...]
    diverse_depths: tuple[int, ...]
    smoothed_depths: tuple[int, ...]
    """Depths are epochs over the narrow expert set, counted in optimizer steps."""
    diverse_answers: int = 6
    label_smoothing: float = 0.1
    flattened_temperature: float = 2.0
    sharpened_temperature: float = 0.4
    """Traps divide all logits by these."""

    assessed_samples: int = 64
    validation_samples: int = 16

    group_size: int = 8
    prompts_per_step: int = 16
    rl_steps: int
    rl_seeds: tuple[int, ...] = (0, 1)
    second_seed_every: int = 3
    """Every so many checkpoints of a lineage the later RL seeds are run too."""
    evaluated_every: int
    heldout_samples: int = 32

    failed_below: float
    pass_at_10_noise: float
    definition_of_passes: str = (
        "pass@1 and pass@10 are means over num_heldout prompts that neither the base, SFT nor RL "
        "saw, estimated without bias from heldout_samples rollouts a prompt at temperature 1, "
        "without top-p or top-k. before is step 0, final the last step, peak the largest point "
        "of the curve for each figure by itself, gain is final minus before."
    )
    definition_of_failed: str = (
        "A run failed if it broke off, or if RL closed less than failed_below of the gap to a "
        "perfect score, (final - before) / (1 - before) in held-out pass@1, or if held-out "
        "pass@10 fell by more than pass_at_10_noise."
    )

    def assessment(self, max_new_tokens: int) -> AssessmentConfig:
        """How the tool samples: as the RL run does."""
        sampling = SamplingConfig(num_samples=self.assessed_samples, max_new_tokens=max_new_tokens)
        return AssessmentConfig(
            sampling=sampling,
            group_size=self.group_size,
            device="cpu",
            batch_size=800,
            verifier_workers=1,
        )

    def base_digest(self, name: str) -> str:
        """Digest of what a lineage's base depends on, prompts apart."""
        lineage = self.lineage(name)
        used = {name: value for name, value in self.model_dump().items() if name in BASE_FIELDS}
        own = lineage.model_dump(exclude={"sft_learning_rate", "rl_learning_rate"})
        return hashlib.sha256(json.dumps([used, own], sort_keys=True).encode()).hexdigest()

    def lineage(self, name: str) -> LineageSettings:
        """A lineage by name."""
        return next(each for each in self.lineages if each.name == name)


FULL = StudySettings(
    lineages=(
        LineageSettings(
            name="chains-llama",
            task="chains",
            architecture="llama",
            base_seed=1,
            base_steps=2000,
            walk_lengths=(-2, -1, 0, 0, 1),
            sft_learning_rate=1e-3,
            rl_learning_rate=5e-4,
        ),
        LineageSettings(
            name="stack-gpt2",
            task="stack",
            architecture="gpt2",
            base_seed=2,
            base_steps=1200,
            walk_lengths=(-2, -1, 0, 0, 1),
            sft_learning_rate=2e-3,
            rl_learning_rate=5e-4,
        ),
        LineageSettings(
            name="rewriting-neox",
            task="rewriting",
            architecture="gpt_neox",
            base_seed=3,
            base_steps=2000,
            walk_lengths=(-1, 0, 0, 1, 2),
            sft_learning_rate=1e-3,
            rl_learning_rate=5e-4,
        ),
    ),
    narrow_depths=(2, 6, 18, 54, 160),
    diverse_depths=(6, 54, 160),
    smoothed_depths=(18, 160),
    rl_steps=80,
    evaluated_every=20,
    failed_below=0.15,
    pass_at_10_noise=0.05,
)

TINY = FULL.model_copy(
    update={
        "lineages": tuple(each.model_copy(update={"base_steps": 3}) for each in FULL.lineages[::2]),
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "base_batch": 8,
        "num_expert": 32,
        "num_validation": 8,
        "num_rl": 16,
        "num_assessed": 8,
        "num_heldout": 8,
        "narrow_depths": (1, 2),
        "sft_seeds": (0,),
        "diverse_depths": (),
        "smoothed_depths": (),
        "prompts_per_step": 2,
        "rl_steps": 2,
        "evaluated_every": 1,
        "heldout_samples": 10,
        "assessed_samples": 16,
    }
)
"""A toy of the same build; its figures mean nothing."""
