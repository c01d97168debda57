"""What an assessment tells while it runs: one protocol, and the observer that stays silent."""

from dataclasses import dataclass
from typing import Protocol

from mlflow_rlrisk.records import PromptStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an assessment has understood, before it samples anything.

    Attributes:
        model: The reference as the user gave it.
        checkpoint: Digest of the checkpoint's files, or what is known of a model without files.
        prompts: What was recognised in the prompt set, as a sentence.
        verifier: Name of the verifier.
        preflight: What the gold answers said of the verifier, as a sentence.
        template: How prompts are turned into tokens.
        backend: Sampler, device, dtype and architecture, as far as they are known.
        num_prompts: Prompts of the set.
        num_stored: Prompts whose rollouts are stored already and are not sampled again.
        num_samples: Rollouts per prompt.
        max_tokens: Most tokens that may be sampled.
        estimated_s: Seconds that this takes at the measured speed if every rollout runs to the
            token limit; ``None`` where nothing is left to sample.
        budget: The rounds of a budget that stops when the level is decided, as a sentence.
    """

    model: str
    checkpoint: str
    prompts: str
    verifier: str
    preflight: str
    template: str
    backend: str
    num_prompts: int
    num_stored: int
    num_samples: int
    max_tokens: int
    estimated_s: float | None
    budget: str = ""


class Observer(Protocol):
    """Receives the progress of an assessment; it must not raise."""

    def stage(self, name: str) -> None:
        """A stage begins: ``open``, ``preflight``, ``expert data``, ``load``, ``sample``, ...

        ``recall`` instead of the second to fourth: the answer was kept.
        """

    def planned(self, plan: Plan) -> None:
        """Everything is understood; sampling begins after this returns."""

    def sampled(self, num_tokens: int, num_rollouts: int) -> None:
        """So many tokens were sampled and so many rollouts finished since the last call."""

    def graded(self, statistics: PromptStatistics) -> None:
        """All rollouts of one prompt are sampled and graded."""


class SilentObserver:
    """Tells nobody."""

    def stage(self, name: str) -> None:
        """Ignore it."""

    def planned(self, plan: Plan) -> None:
        """Ignore it."""

    def sampled(self, num_tokens: int, num_rollouts: int) -> None:
        """Ignore it."""

    def graded(self, statistics: PromptStatistics) -> None:
        """Ignore it."""
