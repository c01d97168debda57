"""Metrics from evidence beside the rollouts: as given, or the rollouts' own over them."""

import numpy as np

from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.metrics.aggregate import Aggregates
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.risk.components import ENTROPY, ENTROPY_RELATIVE, NO_AUDIT, NO_LOOKAHEAD, OVERLAP
from mlflow_rlrisk.statistics.bootstrap import interval
from mlflow_rlrisk.statistics.counts import FloatVector

TOKENS = PREFIX + "completion_tokens"
LENGTH_RATIO = PREFIX + "expert_length_ratio"
NO_EXPERT = "no expert data were given: --expert-data"
NO_TRAIN = "no training examples beside --expert-data: --expert-train-data"


def add_given(
    found: Aggregates,
    given: AssessmentContext,
    num_prompts: int,
    *,
    given_at: float,
    made_at: float,
    seed: int,
) -> None:
    """Add what was measured beside the rollouts to the metrics, or why it is undefined.

    Args:
        found: Metrics of the rollouts and their draws; added to.
        given: The evidence.
        num_prompts: Prompts of the rollouts, for evidence that does not tell its own.
        given_at: Confidence of the evidence's intervals.
        made_at: Confidence of the ratios' intervals, which are made here.
        seed: Of the draws, one stream for each metric.
    """
    _add_relative_entropy(found, given.reference_entropy, given_at, made_at, seed)
    _add_measured(found, given, num_prompts, given_at, seed)
    _add_length_ratio(found, given.expert_tokens, given_at, made_at, seed)
    _add_overlap(found, given.sft_rl_overlap, num_prompts)


def _add_relative_entropy(
    found: Aggregates, reference: Evidence | None, given_at: float, made_at: float, seed: int
) -> None:
    """Entropy over that of the reference; both are of the same prompts."""
    if ENTROPY not in found.metrics or reference is None:
        reason = found.undefined.get(ENTROPY, "no entropy of a reference checkpoint was given")
        found.undefined[ENTROPY_RELATIVE] = reason
    elif reference.ci_low <= 0.0:
        found.undefined[ENTROPY_RELATIVE] = "the reference entropy is not resolved from 0"
    else:
        draws = reference.draws(found.draws[ENTROPY].size, given_at, _stream(seed, 3))
        # Half the lower end keeps a rare Gaussian draw from turning a ratio over, no more.
        below = np.maximum(draws, reference.ci_low / 2.0)
        _add_ratio(found, ENTROPY_RELATIVE, ENTROPY, reference.value, below, made_at)


def _add_length_ratio(
    found: Aggregates, expert: Evidence | None, given_at: float, made_at: float, seed: int
) -> None:
    """Own length over the expert's."""
    if expert is None:
        found.undefined[LENGTH_RATIO] = NO_EXPERT
    elif TOKENS not in found.metrics:
        found.undefined[LENGTH_RATIO] = found.undefined.get(TOKENS, "no tokens were counted")
    else:
        draws = expert.draws(found.draws[TOKENS].size, given_at, _stream(seed, 4))
        # A response has at least one token: no Gaussian draw may say otherwise.
        _add_ratio(found, LENGTH_RATIO, TOKENS, expert.value, np.maximum(draws, 1.0), made_at)


def _add_ratio(
    found: Aggregates, name: str, own: str, below: float, below_draws: FloatVector, made_at: float
) -> None:
    """A metric over a given value, whose own uncertainty is drawn independently."""
    value = found.metrics[own].value / below
    draws = found.draws[own] / below_draws
    low, high = interval(draws, made_at)
    found.draws[name] = draws
    found.metrics[name] = Metric(
        value=value,
        ci_low=min(low, value),
        ci_high=max(high, value),
        num_prompts=found.metrics[own].num_prompts,
        method="percentile",
    )


def _add_measured(
    found: Aggregates, given: AssessmentContext, num_prompts: int, given_at: float, seed: int
) -> None:
    """Metrics that are the evidence itself, with its own intervals."""
    num_draws = max((draws.size for draws in found.draws.values()), default=0)
    no_mismatch = "no comparison with the trainer: rlrisk mismatch"
    measured = (
        ("mismatch_k3_kl", given.mismatch_kl, no_mismatch),
        ("heldout_nll", given.heldout_loss, NO_EXPERT),
        ("expert_phi", given.expert_phi, NO_EXPERT),
        ("expert_mastered_share", given.expert_mastered, NO_EXPERT),
        ("expert_disruptive_share", given.expert_disruptive, NO_EXPERT),
        ("train_nll", given.train_loss, NO_TRAIN),
        ("overfit_gap", given.overfit_gap, NO_TRAIN),
        ("lookahead_reach", given.lookahead_reach, given.lookahead_undefined or NO_LOOKAHEAD),
        ("verifier_youden_j", given.verifier_youden_j, NO_AUDIT),
    )
    for place, (name, evidence, reason) in enumerate(measured):
        if evidence is None:
            found.undefined[PREFIX + name] = reason
            continue
        rng = _stream(seed, 16 + place)
        found.draws[PREFIX + name] = evidence.draws(num_draws, given_at, rng)
        own = num_prompts if evidence.num_prompts is None else evidence.num_prompts
        found.metrics[PREFIX + name] = _as_given(evidence, own, "given")


def _add_overlap(found: Aggregates, overlap: Evidence | None, num_prompts: int) -> None:
    """The overlap was counted over all prompts: it is no estimate and has no interval."""
    if overlap is None:
        found.undefined[OVERLAP] = "no SFT data were given"
    else:
        found.metrics[OVERLAP] = _as_given(overlap, num_prompts, "count")


def _as_given(evidence: Evidence, num_prompts: int, method: str) -> Metric:
    return Metric(
        value=evidence.value,
        ci_low=evidence.ci_low,
        ci_high=evidence.ci_high,
        num_prompts=num_prompts,
        method=method,
    )


def _stream(seed: int, place: int) -> np.random.Generator:
    """A random stream of its own for one metric of one seed."""
    return np.random.Generator(np.random.Philox(key=[seed, place]))
