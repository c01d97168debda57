"""How a budget was spent that was sampled in rounds: what a report says of it."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from mlflow_rlrisk.errors import ReportError
from mlflow_rlrisk.plurals import counted

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the rollouts, at the end of a round.

    Attributes:
        num_prompts: Prompts that were in, all rounds so far together.
        num_samples: Rollouts of each of them.
        num_rollouts: Rollouts that the look rests on.
        num_tokens: Tokens in them.
        confidence: Confidence of each interval at this look (``statistics/sequential.py``).
        risk_level: The level as it stood.
        is_decided: True when every interval lay on one side of the lines that make the level.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    num_prompts: int
    num_samples: int
    num_rollouts: int
    num_tokens: int
    confidence: float
    risk_level: str
    is_decided: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialBudget:
    """The looks that were taken, and what they saved.

    Attributes:
        mode: ``auto``.
        rounds: Rounds that were sampled.
        planned_rounds: Rounds that there would have been at most.
        is_stopped_early: True when the level was decided before the last planned round.
        num_rollouts: Rollouts that were needed.
        max_rollouts: Rollouts of the fixed budget.
        num_tokens: Tokens that were needed.
        tokens_saved: Tokens that the rest of the fixed budget would have taken, at the mean
            length of the rollouts seen.
        looks: One look a round; the report is that of the last.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    mode: str = "auto"
    rounds: int
    planned_rounds: int
    is_stopped_early: bool
    num_rollouts: int
    max_rollouts: int
    num_tokens: int
    tokens_saved: int
    looks: tuple[Look, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= self.planned_rounds or self.rounds != len(self.looks):
            raise ReportError(
                f"rounds={self.rounds}: {counted(len(self.looks), 'look')} of "
                f"{self.planned_rounds} planned"
            )

    @property
    def last(self) -> Look:
        """The look that the report rests on."""
        return self.looks[-1]

    def sentence(self, confidence: float) -> str:
        """What a reader must know of the rounds.

        Args:
            confidence: Confidence that the report states of its intervals.
        """
        last = self.last
        taken = (
            f"{counted(last.num_prompts, 'prompt')} x {counted(last.num_samples, 'rollout')}, "
            f"{self.num_rollouts:,} of at most {self.max_rollouts:,} rollouts"
        )
        held = (
            f"intervals are made at {last.confidence:.4g}, so that they keep their "
            f"{confidence:.4g} over all "
            f"{counted(self.planned_rounds, 'look that was', 'looks that were')} planned"
        )
        if not self.is_stopped_early:
            return (
                "budget auto: the level was open after each of "
                f"{counted(self.rounds - 1, 'earlier round')}, "
                f"so the whole budget was sampled ({taken}); {held}"
            )
        return (
            f"budget auto: sampling stopped after round {self.rounds} of {self.planned_rounds}, "
            f"when the level was decided ({taken}); "
            f"{counted(self.num_tokens, 'token was', 'tokens were', ',')} sampled and "
            f"about {self.tokens_saved:,} saved; {held}; estimates that stop a run lean a little "
            "towards the side that stopped it"
        )
