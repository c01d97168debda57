"""The RL run whose first updates are tried."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from mlflow_rlrisk.config.settings import PositiveInt, Settings
from mlflow_rlrisk.errors import ConfigError, InsufficientRolloutsError
from mlflow_rlrisk.plurals import counted


class LookaheadConfig(Settings):
    """The RL run whose first updates are tried on stored rollouts; set it as the run will be."""

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    """Of AdamW, as the run's; there is no rate that fits every run."""
    run_steps: PositiveInt
    """Updates of the whole run, to which the pace of the first ones is extended."""
    prompts_per_step: PositiveInt = 16
    """Groups that one update sees."""
    steps: PositiveInt = 8
    """Updates that are tried."""
    repeats: Annotated[int, Field(ge=2)] = 3
    """Times they are tried, in other halves of the prompts and another order.

    The mean counts, and the spread is part of the interval: one try has none.
    """
    clip_range: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """The ratio of probabilities is clipped to 1 - and 1 + this, as PPO and GRPO do."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Longer gradients are cut to this norm."""

    @model_validator(mode="after")
    def _is_the_beginning(self) -> Self:
        if self.steps > self.run_steps:
            raise ConfigError("steps", self.steps, f"at most run_steps={self.run_steps}")
        return self

    def require_groups(self, num_groups: int, group_size: int) -> None:
        """Refuse to try the updates on half of the prompts with so many scored groups.

        Raises:
            InsufficientRolloutsError: They are too few.
        """
        needed = self.steps * self.prompts_per_step
        if num_groups < needed:
            raise InsufficientRolloutsError(
                f"{counted(self.steps, 'update')} of {counted(self.prompts_per_step, 'group')} "
                f"{'needs' if self.steps == 1 else 'need'} {counted(needed, 'group')} of "
                f"{group_size} scored rollouts in each half of the prompts, one half has "
                f"{num_groups}: assess more prompts or rollouts (budget fixed, for auto may stop "
                "early), or try fewer steps or prompts a step"
            )
