"""PromptStatistics -> RiskReport: aggregate, judge, say why.

`summarize` is pure: equal statistics, settings and provenance give equal reports, to the bit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.entropy_profile import EntropyProfile
from mlflow_rlrisk.errors import InsufficientRolloutsError, PromptSetError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.metrics.aggregate import Aggregates, aggregate
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.metrics.success_columns import success_counts
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report.advice import beta_fit, next_steps, rewards_are_success
from mlflow_rlrisk.report.reasons import reasons
from mlflow_rlrisk.report_record import (
    SCHEMA_VERSION,
    Component,
    ExampleRollout,
    Metric,
    Provenance,
    RiskLevel,
    RiskReport,
)
from mlflow_rlrisk.risk import judge
from mlflow_rlrisk.risk.components import (
    ENTROPY,
    ENTROPY_RELATIVE,
    NO_LOOKAHEAD,
    OVERLAP,
    SIGNAL,
    Quantities,
    assess_components,
)
from mlflow_rlrisk.statistics.beta_binomial import beta_signal
from mlflow_rlrisk.statistics.bootstrap import interval
from mlflow_rlrisk.statistics.confidence import IntervalMethod
from mlflow_rlrisk.statistics.groups import group_signal
from mlflow_rlrisk.statistics.sequential import resamples_needed
from mlflow_rlrisk.thresholds import threshold

__all__ = [
    "SCHEMA_VERSION",
    "AssessmentContext",
    "Component",
    "Evidence",
    "ExampleRollout",
    "Metric",
    "Provenance",
    "RiskLevel",
    "RiskReport",
    "summarize",
]

RISK_INDEX = PREFIX + "risk_index"
FAIL_PROBABILITY = PREFIX + "fail_probability"
TOKENS = PREFIX + "completion_tokens"
LENGTH_RATIO = PREFIX + "expert_length_ratio"
NO_EXPERT = "no expert data were given: --expert-data"
_INTERVAL_REMARKS = {
    IntervalMethod.CONSTANT: "all prompts gave the same value, so the interval is a bound on the "
    "share of prompts that might differ",
    IntervalMethod.SPARSE: "few prompts carry these values, so the interval allows for prompts "
    "unlike those seen",
}
NO_TRAIN = "no training examples beside --expert-data: --expert-train-data"


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
    _add_relative_entropy(found, given.reference_entropy, config.confidence, made_at, seed)
    _add_given(found, given, len(prompts), config.confidence, seed)
    _add_length_ratio(found, given.expert_tokens, config.confidence, made_at, seed)
    _add_overlap(found, given.sft_rl_overlap, len(prompts))
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
        notes=(*_notes(prompts, found, config), *_sampling_notes(config, provenance)),
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


def _add_relative_entropy(
    found: Aggregates,
    reference: Evidence | None,
    given_at: float,
    made_at: float,
    seed: int,
) -> None:
    """Entropy over that of the reference, whose own uncertainty is drawn independently.

    The reference's interval was given at one confidence; the ratio's is made at another.
    """
    own = found.metrics.get(ENTROPY)
    if own is None or reference is None or reference.ci_low <= 0.0:
        reason = found.undefined.get(ENTROPY, "no entropy of a reference checkpoint was given")
        if own is not None and reference is not None:
            reason = "the reference entropy is not resolved from 0"
        found.undefined[ENTROPY_RELATIVE] = reason
        return
    rng = np.random.Generator(np.random.Philox(key=[seed, 3]))
    draws = found.draws[ENTROPY]
    # Half the lower end keeps a rare Gaussian draw from turning a ratio over, no more.
    below = np.maximum(reference.draws(draws.size, given_at, rng), reference.ci_low / 2.0)
    ratios = draws / below
    value = own.value / reference.value
    low, high = interval(ratios, made_at)
    found.draws[ENTROPY_RELATIVE] = ratios
    found.metrics[ENTROPY_RELATIVE] = Metric(
        value=value,
        ci_low=min(low, value),
        ci_high=max(high, value),
        num_prompts=own.num_prompts,
        method="percentile",
    )


def _add_overlap(found: Aggregates, overlap: Evidence | None, num_prompts: int) -> None:
    """The overlap was counted over all prompts: it is no estimate and has no interval."""
    if overlap is None:
        found.undefined[OVERLAP] = "no SFT data were given"
        return
    found.metrics[OVERLAP] = Metric(
        value=overlap.value,
        ci_low=overlap.ci_low,
        ci_high=overlap.ci_high,
        num_prompts=num_prompts,
        method="count",
    )


def _add_given(
    found: Aggregates, given: AssessmentContext, num_prompts: int, confidence: float, seed: int
) -> None:
    """Metrics that are measured apart from the rollouts' aggregates, with their own intervals."""
    num_draws = max((draws.size for draws in found.draws.values()), default=0)
    for place, (name, evidence, reason) in enumerate(
        [
            (
                "mismatch_k3_kl",
                given.mismatch_kl,
                "no comparison with the trainer: rlrisk mismatch",
            ),
            ("heldout_nll", given.heldout_loss, NO_EXPERT),
            ("expert_phi", given.expert_phi, NO_EXPERT),
            ("expert_mastered_share", given.expert_mastered, NO_EXPERT),
            ("expert_disruptive_share", given.expert_disruptive, NO_EXPERT),
            ("train_nll", given.train_loss, NO_TRAIN),
            ("overfit_gap", given.overfit_gap, NO_TRAIN),
            ("lookahead_reach", given.lookahead_reach, given.lookahead_undefined or NO_LOOKAHEAD),
        ]
    ):
        if evidence is None:
            found.undefined[PREFIX + name] = reason
            continue
        rng = np.random.Generator(np.random.Philox(key=[seed, 16 + place]))
        found.draws[PREFIX + name] = evidence.draws(num_draws, confidence, rng)
        found.metrics[PREFIX + name] = Metric(
            value=evidence.value,
            ci_low=evidence.ci_low,
            ci_high=evidence.ci_high,
            num_prompts=num_prompts if evidence.num_prompts is None else evidence.num_prompts,
            method="given",
        )


def _add_length_ratio(
    found: Aggregates, expert: Evidence | None, given_at: float, made_at: float, seed: int
) -> None:
    """Own length over the expert's; prompts and examples are resampled independently."""
    own = found.metrics.get(TOKENS)
    if own is None or expert is None:
        found.undefined[LENGTH_RATIO] = (
            NO_EXPERT if expert is None else found.undefined.get(TOKENS, "no tokens were counted")
        )
        return
    rng = np.random.Generator(np.random.Philox(key=[seed, 4]))
    draws = found.draws[TOKENS]
    # A response has at least one token: no Gaussian draw may say otherwise.
    ratios = draws / np.maximum(expert.draws(draws.size, given_at, rng), 1.0)
    value = own.value / expert.value
    low, high = interval(ratios, made_at)
    found.draws[LENGTH_RATIO] = ratios
    found.metrics[LENGTH_RATIO] = Metric(
        value=value,
        ci_low=min(low, value),
        ci_high=max(high, value),
        num_prompts=own.num_prompts,
        method="percentile",
    )


def _solve_counts(prompts: Sequence[PromptStatistics]) -> tuple[tuple[int, int, int], ...]:
    if any(each.num_correct is None for each in prompts):
        return ()
    counted = Counter((each.num_correct or 0, each.num_scored) for each in prompts)
    return tuple((correct, scored, count) for (correct, scored), count in sorted(counted.items()))


def _notes(
    prompts: Sequence[PromptStatistics], found: Aggregates, config: AssessmentConfig
) -> tuple[str, ...]:
    notes = []
    if SIGNAL in found.undefined:
        fit = beta_fit(prompts)
        if fit is not None and fit.can_extrapolate:
            signal = float(beta_signal(fit.alpha, fit.beta, config.group_size))
            notes.append(
                f"extrapolated by a Beta-binomial fit, not used in the level: the group signal at "
                f"groups of {config.group_size} would be about {signal:.2f}"
            )
    correctness = _correctness_signal(prompts, config.group_size)
    if correctness is not None and SIGNAL in found.metrics:
        notes.append(
            f"the group signal counts every difference of rewards, "
            f"{found.metrics[SIGNAL].value:.2f}; correct or not alone would give {correctness:.2f}"
        )
    if ENTROPY in found.draws:
        line = threshold("tau_H")
        below = float((found.draws[ENTROPY] < line.values["value"]).mean())
        notes.append(
            f"token entropy is below {line.values['value']:g} nats in {below:.0%} of the resamples "
            f"[{line.source}; {line.scope}]"
        )
    truncated = sum(each.num_truncated for each in prompts)
    if truncated:
        notes.append(
            f"{truncated} truncated rollouts were graded as they are; "
            "a truncated answer mostly counts as wrong"
        )
    for method, remark in _INTERVAL_REMARKS.items():
        names = [name for name, metric in found.metrics.items() if metric.method == method]
        if names:
            listed = ", ".join(sorted(name.removeprefix(PREFIX) for name in names))
            notes.append(f"{remark}: {listed}")
    return tuple(notes)


def _correctness_signal(prompts: Sequence[PromptStatistics], group_size: int) -> float | None:
    """Group signal of correctness, where rewards tell more apart; a format reward is no skill."""
    counts = success_counts(prompts)
    if counts is None or rewards_are_success(prompts):
        return None
    try:
        return float(group_signal(*counts, group_size).mean())
    except InsufficientRolloutsError:
        return None


def _sampling_notes(config: AssessmentConfig, provenance: Provenance) -> tuple[str, ...]:
    """What the sampler's settings and its arithmetic mean for the entropies."""
    notes = []
    sampling = config.sampling
    if sampling.reshaping:
        is_penalised = sampling.repetition_penalty != 1.0
        # Surprisal under the distribution that tokens were drawn from.
        told = provenance.sampler.get("backend") in ("transformers", "vllm")
        notes.append(
            f"rollouts were drawn with {sampling.reshaping}, token entropy is that of the full "
            f"softmax{' without the penalty' * is_penalised}: what RL can explore has "
            f"{'another' if is_penalised else 'less'}" + ", which sampled_nll estimates" * told
        )
        if is_penalised:
            notes.append(
                "trainers compute logprobs without the repetition penalty: the updates of such a "
                "run are off-policy from the first on, and nothing here says what that changes"
            )
    logits = provenance.sampler.get("logits_dtype")
    if logits not in (None, "float32"):
        notes.append(
            f"this architecture rounds its logits to {logits}: entropies are exact for the "
            "rounded logits only, and single tokens may be off by tenths of a nat"
        )
    remark = provenance.sampler.get("remark")
    if remark:
        notes.append(str(remark))
    return tuple(notes)
