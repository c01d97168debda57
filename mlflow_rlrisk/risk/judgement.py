"""Components -> index -> level: the verdict rules, and how sure they are.

The index is a documented convention, ``1 - prod(1 - weight * severity)``, and is not calibrated
on outcomes. The level needs the whole interval on one side of a line; `UNKNOWN` comes first, so
that missing evidence never reads as safety nor as danger.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.metrics.aggregate import Aggregates, percentile_metric
from mlflow_rlrisk.report_record import Metric, RiskLevel
from mlflow_rlrisk.risk.calibrated_chance import CalibratedChance, calibrated_chance
from mlflow_rlrisk.risk.components import CORE, SIGNAL, STARVED, AssessedComponents
from mlflow_rlrisk.risk.gaps import Gap, GapKind, evidence_gaps
from mlflow_rlrisk.risk.luck import LuckLine, luck_line
from mlflow_rlrisk.statistics.counts import FloatVector
from mlflow_rlrisk.statistics.severity import noisy_or, ramp
from mlflow_rlrisk.thresholds import threshold


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
    found: Aggregates,
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
    2. ``high`` when a veto applies (`Veto`): a whole interval lies beyond its line;
    3. ``low`` when the upper end of the index is below the policy's line, the lower end of the
       group signal is not below its line, nor that of what tells luck (`luck_line`), no
       component is severe, the calibrated chance of failure, where there is one, is within the
       policy's line, and every component that the policy asks for was assessed;
    4. else ``medium``.

    Args:
        found: Metrics, and their draws ``[B]``, joint over metrics.
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
        found.metrics,
        found.undefined,
        policy=policy,
        max_failed_share=config.max_failed_share,
        num_prompts=num_prompts,
        expected_digest=context.expected_prompts_digest,
        prompts_digest=prompts_digest,
    )
    if (undefined := _why_no_index(assessed, policy)) is not None:
        return Judgement(
            level=RiskLevel.UNKNOWN,
            index=None,
            index_undefined=undefined,
            probabilities={},
            gaps=gaps or (Gap(kind=GapKind.UNDEFINED, reason="the policy names no component"),),
            vetoes=(),
        )
    confidence = made_at or config.confidence
    value, index_draws = risk_index(assessed)
    index = percentile_metric(value, index_draws, num_prompts, confidence)
    return _Rules(
        found=found,
        assessed=assessed,
        index=index,
        index_draws=index_draws,
        policy=policy,
        youden=context.verifier_youden_j,
        chance=calibrated_chance(found, index, index_draws, policy, confidence),
        luck=luck_line(found.metrics, assessed.components, policy),
        lacking=_lacking(assessed, policy, context),
    ).judgement(gaps)


def _why_no_index(assessed: AssessedComponents, policy: PolicyConfig) -> str | None:
    """Which core components are missing; a guard, of weight 0, is no part of the index."""
    missing = [
        f"{name}: {assessed.not_assessed[name]}"
        for name in CORE
        if name in assessed.not_assessed and policy.components[name].weight > 0.0
    ]
    if assessed.components and not missing:
        return None
    return f"components are missing ({'; '.join(missing) or 'the policy names none'})"


def _lacking(
    assessed: AssessedComponents, policy: PolicyConfig, context: AssessmentContext
) -> tuple[str, ...]:
    """Components without which ``low`` is withheld; first updates that failed are among them."""
    tried = () if context.lookahead_undefined is None else ("lookahead",)
    needed = dict.fromkeys((*policy.needed_for_low, *tried))
    return tuple(name for name in needed if name in assessed.not_assessed)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """The verdict rules on what was found, at the estimates' intervals and in each replicate."""

    found: Aggregates
    assessed: AssessedComponents
    index: Metric
    index_draws: FloatVector
    policy: PolicyConfig
    youden: Evidence | None
    chance: CalibratedChance | None
    luck: LuckLine | None
    lacking: tuple[str, ...]

    def judgement(self, gaps: tuple[Gap, ...]) -> Judgement:
        """The verdict: `Judgement`, without level or chances where evidence is missing."""
        level = RiskLevel.UNKNOWN if gaps else self._level()
        is_low = level is RiskLevel.LOW
        is_short = self.luck is not None and self.luck.is_short
        return Judgement(
            level=RiskLevel.MEDIUM if is_low and (self.lacking or is_short) else level,
            index=self.index,
            index_undefined=None,
            probabilities={} if gaps else self._probabilities(),
            gaps=gaps,
            vetoes=self._vetoes(),
            fail_probability=None if gaps or self.chance is None else self.chance.metric,
            lacking=self.lacking if is_low else (),
            luck=self.luck,
        )

    def _vetoes(self) -> tuple[Veto, ...]:
        """Findings that make the level ``high``: the whole interval lies beyond the line."""
        metrics, youden = self.found.metrics, self.youden
        if SIGNAL not in metrics or STARVED not in metrics:
            return ()
        applies = {
            Veto.SIGNAL: metrics[SIGNAL].ci_high < self.policy.veto_signal_below,
            Veto.STARVED: metrics[STARVED].ci_low > self.policy.veto_starved_above,
            Veto.VERIFIER: youden is not None and youden.ci_high <= _youden_line(),
            Veto.INDEX: self.index.ci_low >= self.policy.high_from,
        }
        return tuple(veto for veto, is_found in applies.items() if is_found)

    def _level(self) -> RiskLevel:
        """The level where evidence suffices.

        A calibration can only withhold ``low``: no outcome of other runs takes back a finding.
        """
        policy, chance = self.policy, self.chance
        if self._vetoes():
            return RiskLevel.HIGH
        is_low = (
            self.index.ci_high < policy.low_below
            and self.found.metrics[SIGNAL].ci_low >= policy.low_signal_from
            and max(part.q for part in self.assessed.components) <= policy.max_component
            and (chance is None or chance.metric.value <= policy.max_fail_probability)
        )
        return RiskLevel.LOW if is_low else RiskLevel.MEDIUM

    def _probabilities(self) -> dict[str, float]:
        """Share of replicates that the rules, applied to their values, put at each level."""
        policy, draws = self.policy, self.found.draws
        high: npt.NDArray[np.bool_] = (
            (self.index_draws >= policy.high_from)
            | (draws[SIGNAL] < policy.veto_signal_below)
            | (draws[STARVED] > policy.veto_starved_above)
        )
        if self.youden is not None and self.youden.value <= _youden_line():
            high = np.ones_like(high)
        low = (
            ~high
            & (self.index_draws < policy.low_below)
            & (draws[SIGNAL] >= policy.low_signal_from)
            & (_severity_draws(self.assessed).max(axis=-1) <= policy.max_component)
        )
        if self.luck is not None:
            low &= draws[self.luck.name] >= self.luck.line
        if self.chance is not None:
            low &= self.chance.draws <= policy.max_fail_probability
        low &= not self.lacking
        shares = {"low": low, "medium": ~low & ~high, "high": high}
        return {level: float(share.mean()) for level, share in shares.items()}


def _youden_line() -> float:
    return threshold("verifier.veto").values["value"]
