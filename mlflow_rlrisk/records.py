"""The values that travel between the stages: Prompt, Rollout, Grade and what is counted of them.

Axes in docstrings: ``P`` prompts, ``G`` rollouts of one prompt, ``T`` generated tokens,
``V`` vocabulary. Records are frozen and check themselves, so that a state that means nothing
(a reward beside an error, an entropy per token too many) cannot be built.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.plurals import counted

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


UNKNOWN_TOKEN = -1
"""Stands for a token that is counted and whose id was not recorded."""


class FinishReason(StrEnum):
    """Why a rollout ended."""

    STOP = "stop"
    """A stop token was sampled; it is the last token of the rollout."""
    LENGTH = "length"
    """``max_new_tokens`` was reached: the answer is truncated."""


class GradeStatus(StrEnum):
    """What came of showing one completion to the verifier."""

    SCORED = "scored"
    """A reward was given."""
    FAILED = "failed"
    """The verifier raised, died or returned something that is no reward."""
    TIMED_OUT = "timed_out"
    """The verifier did not answer in time."""
    NOT_APPLICABLE = "not_applicable"
    """The verifier returned ``None``: it does not judge this prompt (TRL's convention)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of the RL prompt set.

    Attributes:
        id: Stable name within the set, derived from the content.
        content: The text, or the turns of a chat.
        truth: The reference answer, if the set has one.
        columns: The whole source row; callables in TRL's signature receive its columns.
    """

    id: str
    content: str | tuple[Message, ...]
    truth: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The prompt as people read it; chat turns are joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(f"{message.role}: {message.content}" for message in self.content)

    @property
    def turns(self) -> list[dict[str, str]]:
        """The prompt as a chat of plain values; a text is what the user says."""
        if isinstance(self.content, str):
            return [{"role": "user", "content": self.content}]
        return [{"role": message.role, "content": message.content} for message in self.content]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EntropyBounds:
    """What the most likely tokens of each position say of its entropy, where they are all there is.

    All in nats at the sampling temperature, of the full softmax.

    Attributes:
        lower: Smallest entropy that fits them, shape ``[T]``.
        upper: Largest entropy that fits them, shape ``[T]``.
        estimate: Unbiased estimates, shape ``[T]``; single ones may lie outside the bounds.
            ``None`` where the tokens were not drawn from the distribution that is scored.
    """

    lower: FloatArray
    upper: FloatArray
    estimate: FloatArray | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """One sampled answer with what the sampler knew of every generated token.

    Attributes:
        prompt_id: The `Prompt.id` it answers.
        sample_index: Position among the rollouts of the prompt; names its random stream.
        completion: The decoded text without special tokens.
        token_ids: Generated tokens, a stop token included, shape ``[T]``, T >= 1.
        logprobs: Log probability of each token under the sampling distribution (nats), ``[T]``.
        entropies: Exact entropy of the full softmax at the sampling temperature (nats), ``[T]``;
            ``None`` where the source of the rollouts did not record it.
        finish_reason: Why it ended.
        entropy_bounds: What is known of the entropy instead; never beside ``entropies``.
    """

    prompt_id: str
    sample_index: int
    completion: str
    token_ids: IntArray
    logprobs: FloatArray | None
    entropies: FloatArray | None
    finish_reason: FinishReason
    entropy_bounds: EntropyBounds | None = None

    def __post_init__(self) -> None:
        length = self.token_ids.shape[0]
        if length == 0:
            raise StatisticsError(
                f"rollout {self.sample_index} of {self.prompt_id} has no token; a stop token counts"
            )
        per_token = {"logprobs": self.logprobs, "entropies": self.entropies}
        if self.entropy_bounds is not None:
            if self.entropies is not None:
                raise StatisticsError(f"rollout of {self.prompt_id}: exact entropies and bounds")
            for name in ("lower", "upper", "estimate"):
                per_token[f"entropy_bounds.{name}"] = getattr(self.entropy_bounds, name)
        for name, values in per_token.items():
            if values is None:
                continue
            if values.shape != (length,):
                raise StatisticsError(f"{name} has shape {values.shape}, tokens ({length},)")
            if not np.isfinite(values).all():
                raise StatisticsError(f"{name} of {self.prompt_id} has values that are not finite")

    @property
    def is_truncated(self) -> bool:
        """True when the token limit ended it."""
        return self.finish_reason is FinishReason.LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The verifier's word on one rollout: a finite reward, or the reason why there is none."""

    status: GradeStatus
    reward: float | None = None
    reason: str | None = None
    """Why there is no reward; beside a reward the verifier's note on it."""
    answer: str | None = None
    """The canonical final answer, where the verifier extracts one."""

    def __post_init__(self) -> None:
        if self.status is GradeStatus.SCORED:
            if self.reward is None or not math.isfinite(self.reward):
                raise StatisticsError(f"reward={self.reward!r}: a scored grade needs a finite one")
        elif self.reward is not None or not self.reason:
            raise StatisticsError(f"{self.status}: a grade without reward needs a reason only")

    @classmethod
    def scored(cls, reward: float, answer: str | None = None) -> "Grade":
        """A grade with a reward."""
        return cls(status=GradeStatus.SCORED, reward=float(reward), answer=answer)

    @property
    def is_scored(self) -> bool:
        """True when there is a reward."""
        return self.status is GradeStatus.SCORED


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """All rollouts of one prompt, in the order of ``sample_index``."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    def __post_init__(self) -> None:
        for rollout in self.rollouts:
            if rollout.prompt_id != self.prompt.id:
                raise StatisticsError(f"rollout of {rollout.prompt_id} in group {self.prompt.id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedGroup:
    """All rollouts of one prompt with one grade each."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    grades: tuple[Grade, ...]

    def __post_init__(self) -> None:
        if len(self.rollouts) != len(self.grades):
            raise StatisticsError(
                f"prompt {self.prompt.id}: {counted(len(self.rollouts), 'rollout')}, "
                f"{counted(len(self.grades), 'grade')}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStatistics:
    """What is counted of one prompt; every aggregate of a report is made from these alone.

    Attributes:
        prompt_id: The `Prompt.id`.
        num_samples: Rollouts drawn.
        num_scored: Rollouts with a reward; the ``n`` of every estimator.
        num_correct: Scored rollouts that reach the success threshold; ``None`` where success
            is not defined (rewards other than 0 and 1 and no threshold stated).
        num_failed: Rollouts whose verification failed or timed out.
        num_truncated: Rollouts ended by the token limit.
        rewards: Rewards of the scored rollouts in sample order.
        num_tokens: Generated tokens over all rollouts.
        entropy_sum: Sum of token entropies over all rollouts (nats).
        sequence_entropy: Mean over rollouts of their mean token entropy (nats per token).
        sequence_entropy_lower: The same of the lower bounds, where only bounds are known.
        sequence_entropy_upper: The same of the upper bounds.
        sequence_entropy_estimate: The same of the unbiased estimates.
        num_low_entropy: Tokens with an entropy below `LOW_ENTROPY_NATS` of ``measure.py``.
        nll_sum: Sum of ``-logprob`` over all generated tokens (nats).
        answer_counts: Multiplicities of the distinct canonical answers, largest first.
        correct_counts: Multiplicities of the distinct correct completions, largest first.
        text_counts: Multiplicities of the distinct completions, largest first.
        num_loops: Rollouts that end in a repetition loop; ``None`` where tokens were counted only.
        num_unparsed: Scored rollouts in which the verifier found no answer.
        entropy_pressure: Covariance of mean log probability and advantage over the scored rollouts
            (nats); ``None`` where all rewards are equal or log probabilities are missing.
        num_attacks: Programs that attacked the judge; ``None`` where nobody looked for attacks.
        right_answer_counts: Multiplicities of the distinct canonical answers of the correct
            rollouts, largest first; ``None`` where there are no answers or success is not defined.
        scored_text_counts: Multiplicities of the distinct scored completions, largest first;
            ``None`` where all are scored.
    """

    prompt_id: str
    num_samples: int
    num_scored: int
    num_correct: int | None
    num_failed: int
    num_truncated: int
    rewards: tuple[float, ...]
    num_tokens: int
    entropy_sum: float | None
    sequence_entropy: float | None
    num_low_entropy: int | None
    nll_sum: float | None
    answer_counts: tuple[int, ...] | None
    correct_counts: tuple[int, ...] | None
    text_counts: tuple[int, ...]
    num_loops: int | None
    num_unparsed: int | None
    sequence_entropy_lower: float | None = None
    sequence_entropy_upper: float | None = None
    sequence_entropy_estimate: float | None = None
    entropy_pressure: float | None = None
    num_attacks: int | None = None
    right_answer_counts: tuple[int, ...] | None = None
    scored_text_counts: tuple[int, ...] | None = None
