"""Settings of an assessment and of a policy: frozen, checked, unknown keys are errors.

Three models: `SamplingConfig` (how rollouts are drawn; everything in it changes the rollouts and
is part of their digest), `AssessmentConfig` (what is computed from them, and how the machine is
used) and `PolicyConfig` (where the lines are drawn).
"""

import hashlib
import json
import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from mlflow_rlrisk.errors import ConfigError, InsufficientRolloutsError

LARGEST_COUNT = 2**31 - 1
"""More of anything than arrays can index is a slip of the hand."""
LONGEST_TIMEOUT_S = 1e6
"""Days; timers of the operating system overflow far beyond."""
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
GIVEN_TO_TEMPLATES = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
    }
)
"""What a chat template is given anyway; no setting replaces it."""


class Settings(BaseModel):
    """Base of every settings record: frozen, unknown keys are errors, faults name the field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        """Check ``values``; the first fault is raised as `ConfigError` naming the field."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _first_fault(type(self), error) from error

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        """``yes`` in YAML is True, and pydantic would read it as 1."""
        for name, field in cls.model_fields.items():
            value = values.get(name) if isinstance(values, dict) else None
            is_boolean = isinstance(value, bool | np.bool_)
            if is_boolean and field.annotation in (int, float, float | None):
                raise ConfigError(name, value, "a number is needed")
        return values

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _first_fault(model: type[BaseModel], error: ValidationError) -> ConfigError:
    faults = error.errors()  # a name that is not known explains one that is missing
    first = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):  # of a record in this one
        place = ".".join(str(part) for part in (*first["loc"], inner.field))
        return ConfigError(place, inner.value, inner.need)
    need = first["msg"]
    if first["type"] == "extra_forbidden":
        need = f"unknown setting; known: {', '.join(sorted(model.model_fields))}"
    name = ".".join(str(part) for part in first["loc"]) or model.__name__
    if first["type"] == "missing":
        return ConfigError(name, None, "a value is needed")
    return ConfigError(name, first.get("input"), need)


class SamplingConfig(Settings):
    """How rollouts are drawn: set it as the RL run will."""

    num_samples: PositiveInt = 16
    """Rollouts per prompt, ``n``; at least twice the group size is advised."""
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Softmax temperature; entropies and logprobs are reported at it. Greedy has no groups."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus; entropy is always that of the full softmax, logprobs of what is drawn from."""
    top_k: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = 0
    """Sample from the k most likely tokens only; 0 means all."""
    min_p: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Only tokens at least this share as likely as the likeliest; 0 means all.

    Where ``top_p`` cuts as well, each engine takes the order that is its own: transformers cuts
    the nucleus first, vLLM ``min_p``.
    """
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0
    """Logits of tokens in prompt or completion are divided by it where positive, else multiplied.

    Before temperature and truncation, as transformers and vLLM do; padding counts for nothing.
    Entropy is that of the softmax without it, as trainers compute it. 1 means none.
    """
    max_new_tokens: PositiveInt = 256
    """Token limit of a completion; a rollout that reaches it is truncated."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end a completion, beside the stop tokens; they stay in it, as trainers decode."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Base seed; each (prompt, sample) draws from a random stream of its own."""
    chat_template: Literal["auto", "always", "never"] = "auto"
    """``auto`` applies the checkpoint's template to chat prompts and leaves strings raw."""
    chat_template_kwargs: dict[str, str | int | float | bool] = {}
    """Variables for the template, such as ``enable_thinking``; it must read each of them."""

    @field_validator("stop")
    @classmethod
    def _each_once(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(given)))

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """NumPy's values are Python's; of its False pydantic would make 0.0."""
        if not isinstance(given, dict):
            return given
        plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in given.items()}
        for name, value in plain.items():
            is_finite = not isinstance(value, float) or math.isfinite(value)
            if not isinstance(value, str | int | float | bool) or not is_finite:
                need = "a text, a finite number, true or false is needed"
                raise ConfigError(str(name), value, need)
        return plain

    @field_validator("chat_template_kwargs")
    @classmethod
    def _only_variables(
        cls, given: dict[str, str | int | float | bool]
    ) -> dict[str, str | int | float | bool]:
        for name in given:
            if not name.isidentifier() or name in GIVEN_TO_TEMPLATES:
                need = "this name is no variable of a template that can be set"
                raise ConfigError(name, given[name], need)
        return dict(sorted(given.items()))

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Digests of settings that use nothing newer are those of before there was it."""
        values: dict[str, Any] = dump(self)
        for name in ("chat_template_kwargs", "min_p", "repetition_penalty", "stop"):
            if self._is_default(name):
                values.pop(name, None)
        return values

    @property
    def reshaping(self) -> str:
        """What makes another distribution of the softmax at the temperature, as ``top_p=0.9``.

        Empty where rollouts are drawn from that softmax itself.
        """
        names = ("top_p", "top_k", "min_p", "repetition_penalty")
        return ", ".join(f"{n}={getattr(self, n):g}" for n in names if not self._is_default(n))

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == type(self).model_fields[name].default)

    def __eq__(self, other: object) -> bool:
        """By digest: False and 0 are one to Python and two to a template."""
        return isinstance(other, SamplingConfig) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())


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
    backend_options: dict[str, str | int | float | bool] = {}
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
                f"{self.steps} updates of {self.prompts_per_step} groups need {needed} groups of "
                f"{group_size} scored rollouts in each half of the prompts, one half has "
                f"{num_groups}: assess more prompts or rollouts (budget fixed, for auto may stop "
                "early), or try fewer steps or prompts a step"
            )


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
