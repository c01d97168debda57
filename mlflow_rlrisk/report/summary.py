"""PromptStatistics -> RiskReport: aggregate, judge, say why.

`summarize` is pure: equal statistics, settings and provenance give equal reports, to the bit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.entropy_profile import EntropyProfile
from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.metrics.aggregate import aggregate
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report.advice import next_steps
from mlflow_rlrisk.report.given_metrics import add_given
from mlflow_rlrisk.report.notes import metric_notes, sampling_notes
from mlflow_rlrisk.report.reasons import reasons
from mlflow_rlrisk.report_record import (
    ExampleRollout,
    Provenance,
    RiskReport,
)
from mlflow_rlrisk.risk import judge
from mlflow_rlrisk.risk.components import (
    Quantities,
    assess_components,
)
from mlflow_rlrisk.statistics.sequential import resamples_needed

RISK_INDEX = PREFIX + "risk_index"
FAIL_PROBABILITY = PREFIX + "fail_probability"


def summarize(
    statistics: Sequence[PromptStatistics],
    *,
    config: AssessmentConfig,
    policy: PolicyConfig,
    provenance: Provenance,
    profile: EntropyProfile | None = None,
    examples: Sequence[ExampleRollout] = (),
    context: AssessmentContext | None = None,
    look_confidence: float | None = None,
) -> RiskReport:
    """Turn what was counted of each prompt into a verdict.

    Args:
        statistics: One record per prompt, any order; the report does not depend on it.
        config: Settings of the assessment.
        policy: Where the lines are drawn.
        provenance: Where everything comes from.
        profile: Token entropies by value and position.
        examples: Rollouts to show.
        context: Evidence beside the rollouts.
        look_confidence: Confidence that each interval is made at where the rollouts are looked at
            several times, so that all looks together hold the stated one
            (``statistics/sequential.py``); ``None`` for one look.

    Returns:
        The report.

    Raises:
        PromptSetError: There is no prompt, or one occurs twice.
        ConfigError: The policy names an unknown component.
    """
    prompts = _checked(statistics)
    given = context or AssessmentContext()
    seed = config.sampling.seed
    made_at, num_resamples = config.confidence, config.num_resamples
    if look_confidence is not None:
        made_at = look_confidence
        num_resamples = resamples_needed(made_at, num_resamples)
    found = aggregate(
        prompts,
        group_size=config.group_size,
        max_new_tokens=config.sampling.max_new_tokens,
        num_resamples=num_resamples,
        seed=seed,
        confidence=made_at,
    )
    add_given(found, given, len(prompts), given_at=config.confidence, made_at=made_at, seed=seed)
    assessed = assess_components(Quantities(found, given, config.confidence, seed, made_at), policy)
    judgement = judge(
        found,
        assessed,
        policy=policy,
        config=config,
        num_prompts=len(prompts),
        context=given,
        prompts_digest=provenance.digests.get("prompts"),
        made_at=made_at,
    )
    if judgement.index is not None:
        found.metrics[RISK_INDEX] = judgement.index
    else:
        found.undefined[RISK_INDEX] = judgement.index_undefined or "not assessed"
    if judgement.fail_probability is not None:
        found.metrics[FAIL_PROBABILITY] = judgement.fail_probability
    else:
        found.undefined[FAIL_PROBABILITY] = _uncalibrated(policy, assessed.not_assessed)
    return RiskReport(
        risk_level=judgement.level,
        reasons=reasons(
            judgement, assessed, found.metrics, config=config, policy=policy, context=given
        ),
        next_steps=next_steps(
            judgement, assessed, found.metrics, prompts, config=config, policy=policy
        ),
        metrics=dict(sorted(found.metrics.items())),
        undefined=dict(sorted(found.undefined.items())),
        level_probabilities=judgement.probabilities,
        components=tuple(sorted(assessed.components, key=lambda part: part.order)),
        not_assessed=assessed.not_assessed,
        config=config,
        policy=policy,
        provenance=provenance,
        num_prompts=len(prompts),
        num_rollouts=sum(each.num_samples for each in prompts),
        solve_counts=_solve_counts(prompts),
        profile=profile,
        examples=tuple(examples),
        notes=(*metric_notes(prompts, found, config), *sampling_notes(config, provenance)),
    )


def _uncalibrated(policy: PolicyConfig, not_assessed: Mapping[str, str]) -> str:
    if policy.calibration is None:
        return "the policy names no calibration record: rlrisk calibrate"
    if not policy.calibration.used:
        return f"the calibration record is not used: {policy.calibration.reason}"
    if policy.calibration.feature == "lookahead_reach" and "lookahead" in not_assessed:
        return f"the calibration reads the first updates: {not_assessed['lookahead']}"
    return "the evidence does not suffice for a level"


def _checked(statistics: Sequence[PromptStatistics]) -> list[PromptStatistics]:
    """The prompts in the order of their ids: draws must not depend on who finished first."""
    if not statistics:
        raise PromptSetError("the prompt set is empty: there is nothing to assess")
    prompts = sorted(statistics, key=lambda each: each.prompt_id)
    for before, after in pairwise(prompts):
        if before.prompt_id == after.prompt_id:
            raise PromptSetError(f"prompt {after.prompt_id} occurs twice: it would count double")
    return prompts


def _solve_counts(prompts: Sequence[PromptStatistics]) -> tuple[tuple[int, int, int], ...]:
    if any(each.num_correct is None for each in prompts):
        return ()
    counted = Counter((each.num_correct or 0, each.num_scored) for each in prompts)
    return tuple((correct, scored, count) for (correct, scored), count in sorted(counted.items()))
