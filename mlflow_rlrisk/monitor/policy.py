"""Where the monitor draws its lines: one frozen record, numbers from `thresholds.REGISTRY`.

These lines judge a run, not a checkpoint: they are apart from `PolicyConfig`, so that moving one
does not void what was decided of a checkpoint.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mlflow_rlrisk.config import PolicyConfig, PositiveInt, Settings, Share
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.yaml_settings import read_settings

RuleId = Literal["R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10"]
Positive = Annotated[float, Field(gt=0.0)]
BASELINE_HALF_WIDTH = 5
"""Steps to each side of R1's ends that are read together."""
SILENT: tuple[RuleId, ...] = ("R9", "R10")
"""Rules that never alarm."""
SECTION = "monitor"
"""Key of a policy file below which the lines may stand."""


class MonitorPolicy(Settings):
    """Lines of the rules R1 to R8, and what stops a run."""

    name: str = "default"
    entropy_drop: Share = 0.5
    """R1: relative fall of entropy since ``drop_from_step``."""
    drop_from_step: PositiveInt = 10
    """R1: the step that entropy is compared with."""
    drop_to_step: PositiveInt = 150
    """R1: the last step that is judged, at least 5 after ``drop_from_step``."""
    entropy_surge: Annotated[float, Field(gt=1.0)] = 2.0
    """R2: entropy over that of the run's start."""
    surge_until_step: PositiveInt = 50
    """R2: the last step that is judged."""
    zero_variance_warn: Share = 0.5
    """R4: share of groups without a reward difference."""
    zero_variance_critical: Share = 0.9
    """R4: the share from which on the run is dead, at least ``zero_variance_warn``."""
    zero_gradient: Positive = 1e-8
    """R5: a smaller gradient norm counts as none."""
    truncated_share: Share = 0.10
    """R6: share of completions cut off by the token limit."""
    truncated_logs: PositiveInt = 5
    """R6: consecutive logs above it."""
    length_growth: Annotated[float, Field(gt=1.0)] = 2.0
    """R8: completion length over that of the run's start."""
    sustained_logs: PositiveInt = 3
    """Consecutive logs beyond a line before R1, R3, R4, R7 and R8 alarm; of NaN before R5 does."""
    noise_margin: Annotated[float, Field(ge=0.0)] = 3.0
    """R3, R4: standard errors by which the mean must lie beyond the line. R2: by which the first
    logs must rise for the start to lie below their median."""
    stop_on: tuple[RuleId, ...] = ()
    """Of R1 to R8, those that stop a run on their own; critical alarms and corroborated ones always
    do."""

    @model_validator(mode="after")
    def _lines_agree(self) -> Self:
        """Refuse lines that contradict each other, so that what they say could never be judged."""
        start = self.drop_from_step
        if self.drop_to_step < start + BASELINE_HALF_WIDTH:
            need = f"must be {BASELINE_HALF_WIDTH} or more above drop_from_step={start}"
            raise ConfigError("drop_to_step", self.drop_to_step, need)
        if self.zero_variance_critical < self.zero_variance_warn:
            need = f"must not be below zero_variance_warn={self.zero_variance_warn:g}"
            raise ConfigError("zero_variance_critical", self.zero_variance_critical, need)
        silent = [rule for rule in self.stop_on if rule in SILENT]
        if silent:
            raise ConfigError("stop_on", silent[0], "never alarms; one of R1 to R8 is needed")
        return self


PolicyLike = MonitorPolicy | PolicyConfig | Mapping[str, Any] | str | PathLike[str] | None


def monitor_policy(policy: PolicyLike) -> MonitorPolicy:
    """The lines that ``policy`` stands for.

    Args:
        policy: The record, its settings, a YAML file with them (at the top or below ``monitor``),
            or ``None``. A `PolicyConfig` judges checkpoints and has no such lines: the default
            ones apply.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or unusable.
    """
    if policy is None or isinstance(policy, PolicyConfig):
        return MonitorPolicy()
    if isinstance(policy, MonitorPolicy):
        return policy
    if isinstance(policy, Mapping):
        return MonitorPolicy(**policy)
    if not isinstance(policy, str | PathLike):
        raise ConfigError("policy", policy, "lines, their settings or a YAML file are needed")
    raw = read_settings(policy, "policy")
    if SECTION not in raw:
        return MonitorPolicy(**raw)
    for name in raw.keys() - {SECTION}:
        raise ConfigError(name, raw[name], f"unknown setting beside {SECTION}")
    if not isinstance(raw[SECTION], dict):
        raise ConfigError(SECTION, raw[SECTION], "must be a mapping from settings to values")
    return MonitorPolicy(**raw[SECTION])
