"""Where the lines are drawn between the levels."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlflow_rlrisk.config.settings import Finite, PositiveInt, Settings, Share
from mlflow_rlrisk.errors import ConfigError


class ComponentConfig(Settings):
    """One component of the risk index: a ramp from ``ok`` to ``bad``, times ``weight``."""

    ok: float
    """Value from which on the component adds nothing."""
    bad: float
    """Value from which on the component is fully severe."""
    weight: Share
    """Share of risk a fully severe component adds (noisy-OR)."""

    @model_validator(mode="after")
    def _is_a_ramp(self) -> Self:
        if self.ok == self.bad:
            raise ConfigError("ok", self.ok, "must differ from bad")
        return self


DEFAULT_COMPONENTS: dict[str, ComponentConfig] = {
    "starvation": ComponentConfig(ok=0.05, bad=0.0, weight=1.0),
    "uncovered": ComponentConfig(ok=1.0, bad=0.0, weight=1.0),
    "headroom": ComponentConfig(ok=4.0, bad=1.0, weight=0.0),
    "entropy_abs": ComponentConfig(ok=0.24, bad=0.18, weight=0.0),
    "entropy_rel": ComponentConfig(ok=0.9, bad=0.3, weight=0.3),
    "coverage": ComponentConfig(ok=0.0, bad=-0.10, weight=0.5),
    "gen_loss": ComponentConfig(ok=0.0, bad=0.10, weight=0.4),
    "verifier": ComponentConfig(ok=0.8, bad=0.0, weight=0.9),
    "truncation": ComponentConfig(ok=0.02, bad=0.25, weight=0.0),
    "overlap": ComponentConfig(ok=0.0, bad=1.0, weight=0.5),
    "mismatch": ComponentConfig(ok=0.01, bad=0.1, weight=0.4),
    "lookahead": ComponentConfig(ok=0.5, bad=0.0, weight=0.0),
}
"""The documented, uncalibrated index; source and scope of each stand in ``thresholds``."""


class CalibrationUse(Settings):
    """A calibration record as a policy holds it: enough to apply it where the file is not."""

    record: str
    """Digest of the record."""
    used: bool
    """Whether it beats the baselines out of lineage, for the components of this policy."""
    reason: str
    """Why it is used, or is not."""
    num_outcomes: Annotated[int, Field(ge=0)]
    """Checkpoints whose outcome it rests on."""
    num_lineages: Annotated[int, Field(ge=0)]
    """Lineages that they come from."""
    feature: Literal["risk_index", "lookahead_reach"] = "risk_index"
    """What it reads; of ``lookahead_reach`` the share of the gap that is left, ``1 - reach``."""
    curve: tuple[tuple[Finite, Share], ...] = ()
    """Feature and chance of failure, neither falling; straight between the points."""

    @model_validator(mode="after")
    def _never_falls(self) -> Self:
        if self.used and len(self.curve) < 2:
            raise ConfigError("curve", self.curve, "a calibration that is used needs two points")
        if self.feature == "risk_index" and any(not 0.0 <= x <= 1.0 for x, _ in self.curve):
            raise ConfigError("curve", self.curve, "an index lies within 0 and 1")
        for (x, p), (next_x, next_p) in pairwise(self.curve):
            if next_x <= x or next_p < p:
                raise ConfigError("curve", (next_x, next_p), f"must not fall behind {(x, p)}")
        return self


class PolicyConfig(Settings):
    """Where the lines are drawn between ``low``, ``medium``, ``high`` and ``unknown``."""

    name: str = "default"
    components: dict[str, ComponentConfig] = DEFAULT_COMPONENTS
    low_below: Share = 0.25
    """``low`` needs the upper end of the index's interval below this."""
    high_from: Share = 0.66
    """``high`` when the lower end of the index's interval is at or above this."""
    min_prompts: PositiveInt = 50
    """Fewer prompts give ``unknown``."""
    max_truncated_share: Share = 0.5
    """More truncated rollouts give ``unknown``."""
    veto_signal_below: Share = 0.5
    """``high`` when the upper end of the group signal is below this (majority degenerate)."""
    low_signal_from: Share = 0.75
    """``low`` needs the lower end of the group signal at or above this."""
    low_agreement_from: Share = 0.5
    """``low`` needs the lower end of ``agreement_accuracy`` at or above this."""
    low_headroom_from: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 4.0
    """``low`` needs that of the headroom, where the policy names it, at or above this. Asked for if
    the run's first updates were not tried, and fewer than 50 prompts have rollouts that agree or
    no agreement is asked for (0)."""
    veto_starved_above: Share = 0.7
    """``high`` when the lower end of the starved share is above this."""
    max_component: Share = 0.5
    """``low`` needs every component's severity at or below this."""
    low_requires: tuple[str, ...] = ()
    """``low`` needs these components assessed, such as ``lookahead``; none by default."""
    calibration: CalibrationUse | None = None
    """In a file: the path of a record of ``rlrisk calibrate``, relative to the file."""
    max_fail_probability: Share = 0.5
    """``low`` needs at most this calibrated chance of failure, where a calibration is used."""
    required_level: Literal["low", "medium"] = "low"
    """The riskiest level that ``decide`` still promotes."""

    @property
    def needed_for_low(self) -> tuple[str, ...]:
        """Components without which no level is ``low``: those asked for, and what is calibrated."""
        use = self.calibration
        reads_updates = use is not None and use.used and use.feature == "lookahead_reach"
        return tuple(dict.fromkeys((*self.low_requires, *["lookahead"] * reads_updates)))

    @model_validator(mode="after")
    def _draws_lines(self) -> Self:
        for name in self.components.keys() - DEFAULT_COMPONENTS.keys():
            known = ", ".join(DEFAULT_COMPONENTS)
            raise ConfigError(f"components.{name}", name, f"unknown component; known: {known}")
        for name in self.needed_for_low:
            if name not in self.components:
                known = ", ".join(self.components)
                field = "low_requires" if name in self.low_requires else "calibration"
                raise ConfigError(field, name, f"no component of this policy: {known}")
        if self.components and not any(line.weight for line in self.components.values()):
            names = list(self.components)
            raise ConfigError("components", names, "one needs a weight: guards alone have no index")
        if self.low_below > self.high_from:
            raise ConfigError("low_below", self.low_below, "must not be above high_from")
        return self
