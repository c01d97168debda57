"""Components -> index -> level: the verdict rules, and how sure they are.

The index is a documented convention, ``1 - prod(1 - weight * severity)``, and is not calibrated
on outcomes. The level needs the whole interval on one side of a line; `UNKNOWN` comes first, so
that missing evidence never reads as safety nor as danger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.components import CORE, SIGNAL, STARVED, AssessedComponents
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.gaps import Gap, GapKind, evidence_gaps
from mlflow_rlrisk.luck import LuckLine, luck_line
from mlflow_rlrisk.metrics_catalogue import PREFIX
from mlflow_rlrisk.report_record import Metric, RiskLevel
from mlflow_rlrisk.statistics.bootstrap import interval
from mlflow_rlrisk.statistics.counts import FloatVector
from mlflow_rlrisk.statistics.severity import noisy_or, ramp
from mlflow_rlrisk.thresholds import threshold

REACH = PREFIX + "lookahead_reach"


class Veto(StrEnum):
    """A finding that makes the level ``high`` whatever the index."""

    SIGNAL = "group signal"
    STARVED = "starved share"
    VERIFIER = "verifier"
    INDEX = "risk index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict before it is put into words.

    Attributes:
        level: The verdict.
        index: The risk index; ``None`` where a core component that enters it is missing.
        index_undefined: Why it is missing.
        probabilities: Share of replicates at each level; empty when the level is ``unknown``,
            for a share of 99 % ``low`` beside it would read as a verdict.
        gaps: Missing evidence.
        vetoes: Findings that make the level ``high`` by themselves.
        fail_probability: Calibrated chance of failure; ``None`` where no calibration is used or
            the level is ``unknown``, for the same reason.
        lacking: Components without which the policy does not say ``low``, where nothing else
            withholds it.
        luck: The line by which right answers may be chance; ``None`` where none is asked for.
    """

    level: RiskLevel
    index: Metric | None
    index_undefined: str | None
    probabilities: dict[str, float]
    gaps: tuple[Gap, ...]
    vetoes: tuple[Veto, ...]
    fail_probability: Metric | None = None
    lacking: tuple[str, ...] = ()
    luck: LuckLine | None = None

    @property
    def short_of(self) -> LuckLine | None:
        """The line of luck that a ``medium`` does not meet."""
        is_short = self.level is RiskLevel.MEDIUM and self.luck is not None and self.luck.is_short
        return self.luck if is_short else None


def judge(
    metrics: Mapping[str, Metric],
    draws: Mapping[str, FloatVector],
    undefined: Mapping[str, str],
    assessed: AssessedComponents,
    *,
    policy: PolicyConfig,
    config: AssessmentConfig,
    num_prompts: int,
    context: AssessmentContext,
    prompts_digest: str | None = None,
    made_at: float | None = None,
) -> Judgement:
    """Apply the verdict rules.

    1. ``unknown`` when evidence is missing (`evidence_gaps`);
    2. ``high`` when a veto applies (`find_vetoes`);
    3. ``low`` when the upper end of the index is below the policy's line, the lower end of the
       group signal is not below its line, nor that of what tells luck (`luck_line`), no
       component is severe, the calibrated chance of failure, where there is one, is within the
       policy's line, and every component that the policy asks for was assessed;
    4. else ``medium``.

    Args:
        metrics: Metrics by full name.
        draws: Their bootstrap draws ``[B]``, joint over metrics.
        undefined: Why metrics are absent.
        assessed: Components and their draws.
        policy: The lines.
        config: Settings of the assessment.
        num_prompts: Prompts assessed.
        context: Evidence beside the rollouts.
        prompts_digest: Digest of the prompt set that was sampled.
        made_at: Confidence of the index's interval, where it is not the stated one.

    Returns:
        The judgement; without an index where a core component that enters it is missing.
    """
    gaps = evidence_gaps(
        metrics,
        undefined,
        policy=policy,
        max_failed_share=config.max_failed_share,
        num_prompts=num_prompts,
        expected_digest=context.expected_prompts_digest,
        prompts_digest=prompts_digest,
    )
    # A guard, of weight 0, is no part of the index: without it there is one, and no level.
    missing = [
        name
        for name in CORE
        if name in assessed.not_assessed and policy.components[name].weight > 0.0
    ]
    if missing or not assessed.components:
        reason = "; ".join(f"{name}: {assessed.not_assessed[name]}" for name in missing)
        return Judgement(
            level=RiskLevel.UNKNOWN,
            index=None,
            index_undefined=f"components are missing ({reason or 'the policy names none'})",
            probabilities={},
            gaps=gaps or (Gap(kind=GapKind.UNDEFINED, reason="the policy names no component"),),
            vetoes=(),
        )
    value, index_draws = risk_index(assessed)
    index = _index_metric(value, index_draws, num_prompts, made_at or config.confidence)
    youden = context.verifier_youden_j
    vetoes: tuple[Veto, ...] = ()
    level = RiskLevel.UNKNOWN
    probabilities: dict[str, float] = {}
    calibrated: Metric | None = None
    needed = policy.needed_for_low
    if context.lookahead_undefined is not None:
        needed = tuple(dict.fromkeys((*needed, "lookahead")))
    lacking = tuple(name for name in needed if name in assessed.not_assessed)
    if SIGNAL in metrics and STARVED in metrics:
        vetoes = find_vetoes(metrics[SIGNAL], metrics[STARVED], index, youden, policy)
    luck = luck_line(metrics, assessed.components, policy)
    if not gaps:
        chances: FloatVector | None = None
        if (read := _calibrated_on(index, index_draws, metrics, draws, policy)) is not None:
            chances = fail_probability(read.draws, policy)
            calibrated = _calibrated(read, policy, made_at or config.confidence)
        severities = [part.q for part in assessed.components]
        level = level_of(index, metrics[SIGNAL], vetoes, severities, policy, calibrated)
        probabilities = _probabilities(
            draws, index_draws, assessed, youden, policy, chances, luck, can_be_low=not lacking
        )
    is_withheld = level is RiskLevel.LOW and bool(lacking)
    is_short = level is RiskLevel.LOW and luck is not None and luck.is_short
    return Judgement(
        level=RiskLevel.MEDIUM if is_withheld or is_short else level,
        index=index,
        index_undefined=None,
        probabilities=probabilities,
        gaps=gaps,
        vetoes=vetoes,
        fail_probability=calibrated,
        lacking=lacking if is_withheld else (),
        luck=luck,
    )


def risk_index(assessed: AssessedComponents) -> tuple[float, FloatVector]:
    """The index at the estimates, and in every replicate ``[B]``. Larger is riskier."""
    weights = [part.weight for part in assessed.components]
    value = noisy_or([part.q for part in assessed.components], weights)
    return float(value), noisy_or(_severity_draws(assessed), weights)


def _severity_draws(assessed: AssessedComponents) -> FloatVector:
    return np.stack(
        [
            ramp(quantity.draws, part.ok, part.bad)
            for part, quantity in zip(assessed.components, assessed.quantities, strict=True)
        ],
        axis=-1,
    )


def _index_metric(value: float, draws: FloatVector, num_prompts: int, confidence: float) -> Metric:
    """The index with its percentile interval, widened to hold the estimate.

    The ramps have corners, where the correction of BCa means nothing; at a corner the estimate
    may lie at the very end of the draws.
    """
    low, high = interval(draws, confidence)
    return Metric(
        value=value,
        ci_low=min(low, value),
        ci_high=max(high, value),
        num_prompts=num_prompts,
        method="percentile",
    )


class _Score(NamedTuple):
    """What a calibration reads, larger is riskier: the estimate, its draws ``[B]``, the prompts."""

    value: float
    draws: FloatVector
    num_prompts: int


def _calibrated_on(
    index: Metric,
    index_draws: FloatVector,
    metrics: Mapping[str, Metric],
    draws: Mapping[str, FloatVector],
    policy: PolicyConfig,
) -> _Score | None:
    """The figure that the policy's calibration reads; ``None`` where it was not measured."""
    if policy.calibration is None or policy.calibration.feature == "risk_index":
        return _Score(index.value, index_draws, index.num_prompts)
    if REACH not in metrics:
        return None
    reach = metrics[REACH]
    return _Score(1.0 - reach.value, 1.0 - draws[REACH], reach.num_prompts)


def fail_probability(scores: npt.ArrayLike, policy: PolicyConfig) -> FloatVector | None:
    """Calibrated chance of failure at values of what the calibration reads.

    ``None`` without a calibration that is used.
    """
    use = policy.calibration
    if use is None or not use.used:
        return None
    at, chances = zip(*use.curve, strict=True)
    return np.asarray(np.interp(np.asarray(scores, dtype=float), at, chances))


def _calibrated(read: _Score, policy: PolicyConfig, confidence: float) -> Metric | None:
    """The chance of failure; its interval holds the prompts' uncertainty, not the curve's."""
    value, drawn = fail_probability(read.value, policy), fail_probability(read.draws, policy)
    if value is None or drawn is None:
        return None
    return _index_metric(float(value), drawn, read.num_prompts, confidence)


def find_vetoes(
    signal: Metric, starved: Metric, index: Metric, youden: Evidence | None, policy: PolicyConfig
) -> tuple[Veto, ...]:
    """Findings that make the level ``high``: the whole interval lies beyond the line."""
    found = {
        Veto.SIGNAL: signal.ci_high < policy.veto_signal_below,
        Veto.STARVED: starved.ci_low > policy.veto_starved_above,
        Veto.VERIFIER: youden is not None and youden.ci_high <= _youden_line(),
        Veto.INDEX: index.ci_low >= policy.high_from,
    }
    return tuple(veto for veto, applies in found.items() if applies)


def level_of(
    index: Metric,
    signal: Metric,
    vetoes: Sequence[Veto],
    severities: Sequence[float],
    policy: PolicyConfig,
    calibrated: Metric | None = None,
) -> RiskLevel:
    """The level of a checkpoint whose evidence suffices.

    A calibration can only withhold ``low``: no outcome of other runs takes back a finding.
    """
    if vetoes:
        return RiskLevel.HIGH
    if calibrated is not None and calibrated.value > policy.max_fail_probability:
        return RiskLevel.MEDIUM
    if index.ci_high >= policy.low_below or signal.ci_low < policy.low_signal_from:
        return RiskLevel.MEDIUM
    return RiskLevel.LOW if max(severities) <= policy.max_component else RiskLevel.MEDIUM


def _probabilities(
    draws: Mapping[str, FloatVector],
    index_draws: FloatVector,
    assessed: AssessedComponents,
    youden: Evidence | None,
    policy: PolicyConfig,
    chances: FloatVector | None,
    luck: LuckLine | None,
    *,
    can_be_low: bool,
) -> dict[str, float]:
    """Share of replicates that the rules, applied to their values, put at each level."""
    high: npt.NDArray[np.bool_] = index_draws >= policy.high_from
    mild = _severity_draws(assessed).max(axis=-1) <= policy.max_component
    if SIGNAL in draws and STARVED in draws:
        high = high | (draws[SIGNAL] < policy.veto_signal_below)
        high = high | (draws[STARVED] > policy.veto_starved_above)
        mild = mild & (draws[SIGNAL] >= policy.low_signal_from)
    if luck is not None:
        mild = mild & (draws[luck.name] >= luck.line)
    if youden is not None and youden.value <= _youden_line():
        high = np.ones_like(high)
    low = ~high & mild & (index_draws < policy.low_below)
    if chances is not None:
        low = low & (chances <= policy.max_fail_probability)
    low = low & can_be_low
    shares = {"low": low, "medium": ~low & ~high, "high": high}
    return {level: float(share.mean()) for level, share in shares.items()}


def _youden_line() -> float:
    return threshold("verifier.veto").values["value"]
