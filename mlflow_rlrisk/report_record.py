"""The `RiskReport` and its JSON form: the waist of the flow, which everything later only reads.

A report is frozen, holds no value that is not finite, and comes back from its JSON equal to what
went in. A damaged or foreign JSON is refused as a whole; nothing in it is guessed.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from mlflow_rlrisk.budget_record import SequentialBudget
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.entropy_profile import EntropyProfile
from mlflow_rlrisk.errors import ConfigError, ReportError
from mlflow_rlrisk.records import Grade, Prompt, Rollout

SCHEMA_VERSION = 1
"""Raised whenever a reader of the previous form would misread the JSON."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


class RiskLevel(StrEnum):
    """How risky it is to start RL from the checkpoint."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    UNKNOWN = "unknown"
    """The evidence does not suffice to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """An aggregate over prompts with its interval.

    Attributes:
        value: The estimate.
        ci_low: Lower end of the interval at the report's confidence.
        ci_high: Upper end.
        num_prompts: Prompts the value rests on.
        method: How the interval was made: ``bca`` or ``percentile`` (prompt bootstrap, mapped to
            confidence limits); ``sparse`` where few prompts carry the value, so that the ends
            also allow for prompts unlike those seen; ``constant`` where all prompts gave the
            same value and a Clopper-Pearson bound on the share of prompts that might differ
            stands in; ``count`` where nothing was estimated; ``given`` where the interval came
            with the value.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    value: float
    ci_low: float
    ci_high: float
    num_prompts: int
    method: str = "percentile"

    def __post_init__(self) -> None:
        _make_floats(self, "value", "ci_low", "ci_high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component of the risk index, as it was assessed.

    Attributes:
        name: Key in `PolicyConfig.components`.
        measure: What ``x`` is, for people.
        x: The measured value.
        x_low: Lower end of its interval.
        x_high: Upper end of its interval.
        q: Severity of ``x`` in [0, 1].
        q_high: Severity of the riskier end of the interval.
        weight: Share of risk at full severity.
        contribution: ``weight * q``: the index if this component stood alone.
        ok: Value from which on the severity is 0.
        bad: Value from which on the severity is 1.
        source: Who drew the line.
        scope: On what it was seen.
        straddles: True when the interval lies on both sides of a decision line.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    measure: str
    x: float
    x_low: float
    x_high: float
    q: float
    q_high: float
    weight: float
    contribution: float
    ok: float
    bad: float
    source: str
    scope: str
    straddles: bool

    def __post_init__(self) -> None:
        _make_floats(self, "x", "x_low", "x_high", "q", "q_high", "weight", "contribution")
        _make_floats(self, "ok", "bad")

    @property
    def order(self) -> tuple[float, float]:
        """Sorts what adds most to the index first, then the most severe guards."""
        return -self.contribution, -self.q


def _make_floats(record: object, *names: str) -> None:
    """Make numbers plain floats, so that a report and its JSON copy have one digest."""
    for name in names:
        number = float(getattr(record, name))
        if not math.isfinite(number):
            raise ReportError(f"{name}={number!r}: a value in a report is finite or absent")
        object.__setattr__(record, name, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleRollout:
    """A rollout shown to people, with its grade."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    prompt_id: str
    sample_index: int
    prompt: str
    completion: str
    truth: str | None
    status: str
    reward: float | None
    reason: str | None
    answer: str | None
    finish_reason: str
    num_tokens: int
    mean_entropy: float | None

    @classmethod
    def of(cls, prompt: Prompt, rollout: Rollout, grade: Grade) -> "ExampleRollout":
        """Take what people need to see of one graded rollout."""
        entropies = rollout.entropies
        return cls(
            prompt_id=prompt.id,
            sample_index=rollout.sample_index,
            prompt=prompt.text,
            completion=rollout.completion,
            truth=None if prompt.truth is None else str(prompt.truth),
            status=str(grade.status),
            reward=grade.reward,
            reason=grade.reason,
            answer=grade.answer,
            finish_reason=str(rollout.finish_reason),
            num_tokens=int(rollout.token_ids.size),
            mean_entropy=None if entropies is None else float(entropies.mean(dtype=float)),
        )


TEMPLATED = "templated_prompts"
"""In `Provenance.sampler`: prompts that went through the checkpoint's chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a report comes from: what makes it checkable and repeatable.

    Attributes:
        model_reference: The reference as the user gave it.
        registered_name: Registered model, where there is one.
        version: Its version.
        model_id: LoggedModel id.
        run_id: MLflow run of the checkpoint.
        digests: Content digests under the keys ``checkpoint``, ``tokenizer``, ``template``,
            ``prompts``, ``verifier``, ``sampler``, ``policy``, and ``lookahead`` (settings of the
            run) where its first updates were tried in the same go.
        prompts: What was recognised in the prompt set, as a sentence.
        verifier: Name of the verifier.
        judge_tier: Isolation under which it ran candidate code: ``A``, ``B``, ``C``, or
            ``unsafe`` without any; ``None`` where it ran none.
        sampler: What the sampler says of itself (backend, device, dtype, vocabulary size ...).
        code_version: Version of mlflow-rlrisk.
        libraries: Versions of the libraries that matter.
        started_at: ISO 8601 with offset.
        finished_at: ISO 8601 with offset.
        command: The command that repeats it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model_reference: str = ""
    registered_name: str | None = None
    version: str | None = None
    model_id: str | None = None
    run_id: str | None = None
    digests: dict[str, str] = field(default_factory=dict)
    prompts: str = ""
    verifier: str = ""
    judge_tier: str | None = None
    sampler: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    code_version: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    command: str = ""


def _as_profile(value: object) -> object:
    return EntropyProfile.from_dict(value) if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskReport:
    """What was measured of one checkpoint, how risky RL from it is, why, and what to do next.

    Attributes:
        risk_level: The verdict.
        reasons: Sentences with figures and the source of the line that was crossed.
        next_steps: What to do; at least one whenever the level is not ``low``.
        metrics: Aggregates by full name; see ``metrics/catalogue.py``.
        undefined: Why a metric is absent, by full name.
        level_probabilities: Share of bootstrap replicates that come out at each level; empty
            when the level is ``unknown``.
        components: What was assessed, largest contribution first.
        not_assessed: Why a component of the policy was not assessed; missing is not safe.
        config: Settings of the assessment.
        policy: Lines that were applied.
        provenance: Digests, versions, references.
        num_prompts: Prompts assessed.
        num_rollouts: Rollouts drawn.
        solve_counts: ``(num_correct, num_scored, prompts)``, sorted; empty where success is
            undefined.
        profile: Token entropies by value and by position.
        examples: A few rollouts with grades.
        notes: What a careful reader should also know.
        budget: How the rounds went; ``None`` where the budget was fixed.
        schema_version: Version of the JSON form.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    risk_level: RiskLevel
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...]
    metrics: dict[str, Metric]
    undefined: dict[str, str]
    level_probabilities: dict[str, float]
    components: tuple[Component, ...]
    not_assessed: dict[str, str]
    config: AssessmentConfig
    policy: PolicyConfig
    provenance: Provenance
    num_prompts: int
    num_rollouts: int
    solve_counts: tuple[tuple[int, int, int], ...]
    profile: Annotated[EntropyProfile | None, BeforeValidator(_as_profile)] = None
    examples: tuple[ExampleRollout, ...] = ()
    notes: tuple[str, ...] = ()
    budget: SequentialBudget | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def risk_index(self) -> float | None:
        """The index, or ``None`` where it is undefined."""
        metric = self.metrics.get("rlrisk/risk_index")
        return None if metric is None else metric.value

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON: names this report and no other."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, the schema version first."""
        names = [each.name for each in fields(self) if each.name != "schema_version"]
        return {
            "schema_version": self.schema_version,
            **{name: _plain(getattr(self, name)) for name in names},
        }

    def to_json(self) -> str:
        """The report as JSON text; it holds no NaN."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "RiskReport":
        """Read what `to_json` wrote.

        Raises:
            ReportError: Not JSON, another schema version, or a field that is missing, unknown,
                of a wrong type or not finite.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReportError(f"not a JSON report: {error}") from error
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: object) -> "RiskReport":
        """Read what `to_dict` gave; errors as in `from_json`."""
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise ReportError(f"schema_version={version!r}: this release reads {SCHEMA_VERSION}")
        try:
            return _adapter().validate_json(json.dumps(_with_lines_of_then(raw)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "report"
            raise ReportError(f"{where}: {first['msg']}") from error
        except (ConfigError, ReportError) as error:
            raise ReportError(str(error)) from error


def _with_lines_of_then(raw: object) -> object:
    """A report older than a line of ``low`` was not judged by it, and says so."""
    policy = raw.get("policy") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(policy, dict):
        return raw
    lines = dict.fromkeys(("low_signal_from", "low_agreement_from", "low_headroom_from"), 0.0)
    return {**raw, "policy": {**lines, **policy}}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, EntropyProfile):
        return value.to_dict()
    if isinstance(value, Metric | Component | ExampleRollout | Provenance | SequentialBudget):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


@cache
def _adapter() -> TypeAdapter[RiskReport]:
    return TypeAdapter(RiskReport)
