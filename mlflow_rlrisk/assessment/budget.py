"""Sampling in rounds: the plan of the looks, the order of the prompts, and when to stop.

A round adds prompts to those before it, twice as many each time, with just the samples that one
group needs; the last round adds the remaining samples, so that it is the fixed budget, rollout
for rollout. After each round the whole report is made with intervals wide enough for all looks
(``statistics/sequential.py``), and sampling stops as soon as they all lie on one side of every
line that makes the level. A fixed budget is a plan of one round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.budget_record import Look, SequentialBudget
from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, PolicyConfig
from mlflow_rlrisk.records import Prompt, PromptStatistics
from mlflow_rlrisk.report import RiskLevel, RiskReport
from mlflow_rlrisk.risk.components import MOST_ATTEMPTS, SIGNAL, STARVED, TRUNCATED
from mlflow_rlrisk.risk.gaps import UNJUDGED
from mlflow_rlrisk.risk.luck import AGREEMENT, luck_line
from mlflow_rlrisk.statistics.sequential import look_confidences, look_sizes
from mlflow_rlrisk.statistics.severity import ramp

FIRST_PROMPTS = 64
"""Prompts of the first round: above the 50 of the default policy, and enough for a bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is in after a round.

    Attributes:
        num_prompts: Prompts, the first ones of the order.
        num_samples: Samples of each; ``None`` for all that a replay has.
        confidence: Confidence of the intervals at the look that follows; ``None`` for the stated
            one.
    """

    num_prompts: int
    num_samples: int | None
    confidence: float | None = None


def plan_rounds(
    config: AssessmentConfig,
    policy: PolicyConfig,
    *,
    num_prompts: int,
    can_split_groups: bool,
    needs_all_samples: bool,
) -> tuple[Round, ...]:
    """The rounds of an assessment whose budget is ``auto``.

    Args:
        config: Settings of the assessment.
        policy: Its ``min_prompts`` is the least that a level needs.
        num_prompts: Prompts of the whole budget.
        can_split_groups: The sampler can add samples to a prompt later.
        needs_all_samples: A component of the index reads more samples than a group has.
    """
    most = config.sampling.num_samples
    few = most if needs_all_samples or not can_split_groups else min(config.group_size, most)
    sizes = look_sizes(
        num_prompts=num_prompts,
        num_samples=most,
        first_prompts=max(FIRST_PROMPTS, policy.min_prompts),
        first_samples=few,
    )
    confidences = look_confidences(len(sizes), config.confidence)
    return tuple(
        Round(num_prompts=prompts, num_samples=samples, confidence=confidence)
        for (prompts, samples), confidence in zip(sizes, confidences, strict=True)
    )


def require_lookahead(
    lookahead: LookaheadConfig, config: AssessmentConfig, policy: PolicyConfig, num_prompts: int
) -> None:
    """Refuse before sampling what the rollouts would be too few for; ``auto`` may stop at once.

    Raises:
        InsufficientRolloutsError: A half of the prompts has too few groups for the updates.
    """
    size = config.group_size
    groups = config.sampling.num_samples // size
    if config.budget == "auto":
        num_prompts, groups = min(num_prompts, max(FIRST_PROMPTS, policy.min_prompts)), 1
    lookahead.require_groups(num_prompts // 2 * groups, size)


def sampling_order(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """The prompts as rounds take them: every beginning is a random sample of the set.

    A file may be sorted by difficulty. The order depends on the seed and on each prompt's id,
    not on the file.
    """
    return sorted(prompts, key=lambda each: sha256(f"{seed}/{each.id}".encode()).digest())


def assessed_part(inputs: AssessmentInputs) -> tuple[list[Prompt], Round]:
    """The prompts that a finished assessment rests on, and the round in which they were in."""
    prompts = inputs.prompts.prompts
    if inputs.budget is None:
        return list(prompts), Round(num_prompts=len(prompts), num_samples=None)
    last = inputs.budget.last
    order = sampling_order(prompts, inputs.config.sampling.seed)
    return order[: last.num_prompts], Round(
        num_prompts=last.num_prompts, num_samples=last.num_samples, confidence=last.confidence
    )


def is_decided(report: RiskReport) -> bool:
    """True when the level would be the same anywhere within the intervals of the report.

    ``high`` and ``low`` are given by intervals already; ``low`` must also not hang on a component
    that may be severe. ``medium`` is decided when neither of them can be. ``unknown`` is decided
    when too many rollouts were truncated or have no reward; other missing evidence may come.
    So may what `PolicyConfig.low_requires` asks for, and first updates that overrule a short
    headroom: where only that keeps a level from ``low``, nothing is decided, and the whole budget
    is there for it. Agreement that is too low by its whole interval is overruled by nothing.
    """
    metrics, policy = report.metrics, report.policy
    index, truncated = metrics.get("rlrisk/risk_index"), metrics.get(TRUNCATED)
    if report.risk_level is RiskLevel.UNKNOWN:
        is_cut = truncated is not None and truncated.ci_low > policy.max_truncated_share
        unjudged = [metrics[name].ci_low for name in UNJUDGED if name in metrics]
        return is_cut or any(low > report.config.max_failed_share for low in unjudged)
    if index is None or truncated is None or truncated.ci_high > policy.max_truncated_share:
        return False
    if report.risk_level is RiskLevel.HIGH:
        is_veto = (
            metrics[SIGNAL].ci_high < policy.veto_signal_below
            or metrics[STARVED].ci_low > policy.veto_starved_above
            or index.ci_low < policy.high_from  # so another veto made it high
        )
        return is_veto or _lowest_index(report) >= policy.high_from
    ends = [
        (float(min(q)), float(max(q)))
        for q in (ramp([c.x_low, c.x_high], c.ok, c.bad) for c in report.components)
    ]
    if report.risk_level is RiskLevel.LOW:
        return all(high <= policy.max_component for _, high in ends)
    luck = luck_line(metrics, report.components, policy)
    cannot_be_low = (
        _lowest_index(report) >= policy.low_below
        or (luck is not None and luck.name == AGREEMENT and luck.metric.ci_high < luck.line)
        or metrics[SIGNAL].ci_high < policy.low_signal_from
        or any(low > policy.max_component for low, _ in ends)
    )
    cannot_be_high = (
        index.ci_high < policy.high_from
        and metrics[SIGNAL].ci_low >= policy.veto_signal_below
        and metrics[STARVED].ci_high <= policy.veto_starved_above
    )
    return cannot_be_low and cannot_be_high


def _lowest_index(report: RiskReport) -> float:
    """Lower end of the index whatever more samples of a prompt show of its coverage.

    Coverage is read at the most attempts that were sampled, so an index that rests on fewer than
    planned may yet fall; full coverage is the best that more of them can show.
    """
    low = report.metrics["rlrisk/risk_index"].ci_low
    seen = max((scored for _, scored, _ in report.solve_counts), default=0)
    part = next((each for each in report.components if each.name == "uncovered"), None)
    if part is None or seen >= min(report.config.sampling.num_samples, MOST_ATTEMPTS):
        return low
    left = 1.0 - part.weight * part.q
    return 1.0 - (1.0 - low) / left if left > 0.0 else 0.0


def look_of(round_: Round, report: RiskReport, statistics: Sequence[PromptStatistics]) -> Look:
    """What a look has seen."""
    return Look(
        num_prompts=len(statistics),
        num_samples=round_.num_samples or max(each.num_samples for each in statistics),
        num_rollouts=sum(each.num_samples for each in statistics),
        num_tokens=sum(each.num_tokens for each in statistics),
        confidence=round_.confidence or report.config.confidence,
        risk_level=str(report.risk_level),
        is_decided=is_decided(report),
    )


def budget_record(
    looks: Sequence[Look], rounds: Sequence[Round], config: AssessmentConfig
) -> SequentialBudget:
    """Sum up the rounds that were taken of those planned."""
    last, most = looks[-1], rounds[-1].num_prompts * config.sampling.num_samples
    per_rollout = last.num_tokens / max(last.num_rollouts, 1)
    return SequentialBudget(
        rounds=len(looks),
        planned_rounds=len(rounds),
        is_stopped_early=len(looks) < len(rounds),
        num_rollouts=last.num_rollouts,
        max_rollouts=most,
        num_tokens=last.num_tokens,
        tokens_saved=round(per_rollout * max(most - last.num_rollouts, 0)),
        looks=tuple(looks),
    )
