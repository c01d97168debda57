"""Sentences that a report carries beside its verdict; none of them changes the level."""

from collections.abc import Sequence

from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import InsufficientRolloutsError
from mlflow_rlrisk.metrics.aggregate import Aggregates
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.metrics.success_columns import success_counts
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report.signal_steps import beta_fit, rewards_are_success
from mlflow_rlrisk.report_record import Provenance
from mlflow_rlrisk.risk.components import ENTROPY, SIGNAL
from mlflow_rlrisk.statistics.beta_binomial import beta_signal
from mlflow_rlrisk.statistics.confidence import IntervalMethod
from mlflow_rlrisk.statistics.groups import group_signal
from mlflow_rlrisk.thresholds import threshold

_INTERVAL_REMARKS = {
    IntervalMethod.CONSTANT: "all prompts gave the same value, so the interval is a bound on the "
    "share of prompts that might differ",
    IntervalMethod.SPARSE: "few prompts carry these values, so the interval allows for prompts "
    "unlike those seen",
}


def metric_notes(
    prompts: Sequence[PromptStatistics], found: Aggregates, config: AssessmentConfig
) -> tuple[str, ...]:
    """What must be known to read the metrics: extrapolations, rewards, lines, intervals."""
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
        as_is = "was graded as it is" if truncated == 1 else "were graded as they are"
        notes.append(
            f"{counted(truncated, 'truncated rollout')} {as_is}; "
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


def sampling_notes(config: AssessmentConfig, provenance: Provenance) -> tuple[str, ...]:
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
