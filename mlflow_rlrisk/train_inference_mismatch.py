"""Stored rollouts scored again by the forward pass that a trainer differentiates.

The sampler recorded the log probability of each token that it drew. An engine with kernels, a
dtype or a cache of its own gives others than the trainer does, and every policy gradient is then
off-policy. Here both stand side by side: in trainers' own metric names, with intervals over
prompts, and the rollouts and tokens that differ most.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.evidence import Evidence
from mlflow_rlrisk.forward.teacher_forced import TeacherForcedScorer, TokenScores
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap
from mlflow_rlrisk.statistics.mismatch import LogprobMismatch, logprob_mismatch, mismatch_sums
from mlflow_rlrisk.statistics.prompt_intervals import ratio_interval

TRAINER_NAMES = {
    "kl": "rollout_corr/kl",
    "k3_kl": "rollout_corr/k3_kl",
    "chi2_token": "rollout_corr/chi2_token",
    "chi2_seq_product": "rollout_corr/chi2_seq",
    "chi2_seq_geometric": "rollout_correction/chi2_seq",
    "log_ppl_diff": "rollout_corr/log_ppl_diff",
    "log_ppl_abs_diff": "rollout_corr/log_ppl_abs_diff",
    "ppl_ratio": "rollout_corr/ppl_ratio",
    "training_ppl": "rollout_corr/training_ppl",
    "rollout_ppl": "rollout_corr/rollout_ppl",
    "ess": "rollout_corr/rollout_is_eff_sample_size",
    "is_mean": "rollout_corr/rollout_is_mean",
    "mean_abs": "sampling/sampling_logp_difference/mean",
    "max_abs": "sampling/sampling_logp_difference/max",
}
"""Our names -> those that verl (``rollout_corr``), ms-swift (``rollout_correction``) and TRL
(``sampling``) log. verl's chi2 of sequences is of products over tokens, ms-swift's of geometric
means."""

PROMPTS_AT_ONCE = 64
BOUNDS = {"frac_beyond": (0.0, 1.0)}
"""Least and most of a prompt: that no token of any is one does not mean that there are none."""

Encode = Callable[[Sequence[Prompt]], list[list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOutlier:
    """A rollout on which sampler and trainer differ."""

    prompt_id: str
    sample_index: int
    num_tokens: int
    log_ppl_diff: float
    """The sampler's mean logprob minus the trainer's, nats a token."""
    max_abs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOutlier:
    """A token on which they differ."""

    prompt_id: str
    sample_index: int
    position: int
    token_id: int
    sampler_logprob: float
    trainer_logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchReport:
    """How far sampler and trainer are apart on the same tokens.

    Attributes:
        estimates: Estimates with their intervals, by our names.
        values: Those without an interval.
        sequences: Rollouts that differ most in mean logprob, worst first.
        tokens: Tokens that differ most, worst first.
        entropy_mean_abs: Mean absolute difference of recorded and recomputed token entropies,
            nats; ``None`` where entropies were not recorded.
        entropy_max_abs: The largest one.
        num_prompts: Prompts compared.
        num_rollouts: Rollouts compared.
        num_tokens: Tokens compared.
        confidence: Level of the intervals.
        sampler: What sampled, as it said of itself.
        trainer: What scored.
        notes: What the reader has to know.
    """

    estimates: Mapping[str, Metric]
    values: Mapping[str, float]
    sequences: tuple[SequenceOutlier, ...]
    tokens: tuple[TokenOutlier, ...]
    entropy_mean_abs: float | None
    entropy_max_abs: float | None
    num_prompts: int
    num_rollouts: int
    num_tokens: int
    confidence: float
    sampler: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def evidence(self) -> Evidence:
        """What the risk component ``mismatch`` reads: the k3 estimate of the KL."""
        found = self.estimates["k3_kl"]
        source = f"k3 over {counted(self.num_tokens, 'token')} of {self.num_prompts} prompts"
        return Evidence(
            value=found.value, ci_low=found.ci_low, ci_high=found.ci_high, source=source
        )

    def by_trainer_name(self) -> dict[str, float]:
        """Every figure under the name that a trainer logs it with."""
        values = {name: each.value for name, each in self.estimates.items()} | dict(self.values)
        return {TRAINER_NAMES[name]: values[name] for name in TRAINER_NAMES}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            **asdict(self),
            "rlrisk/mismatch_k3_kl": asdict(self.estimates["k3_kl"]),
            "metrics": self.by_trainer_name(),
        }


def measure_mismatch(
    groups: Sequence[RolloutGroup],
    encode: Encode,
    scorer: TeacherForcedScorer,
    *,
    temperature: float,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    num_outliers: int = 10,
) -> MismatchReport:
    """Score the rollouts again and compare.

    Args:
        groups: Rollouts with token ids and the sampler's logprobs, of at least two prompts.
        encode: Prompts to token ids, as they were sampled from.
        scorer: The trainer's forward pass.
        temperature: That the rollouts were sampled at.
        num_resamples: Resamples of the prompts.
        confidence: Level of the intervals.
        seed: Seed of the resamples.
        num_outliers: Rollouts and tokens to name.

    Raises:
        StatisticsError: There are fewer, or a rollout lacks token ids or logprobs.
        SamplerError: The model cannot score a rollout.
    """
    groups = sorted(groups, key=lambda group: group.prompt.id)
    if len(groups) < 2:
        raise StatisticsError(
            f"rollouts of {counted(len(groups), 'prompt')}: at least 2 prompts are needed for an "
            "interval"
        )
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    for rollout in rollouts:
        _require_recorded(rollout)
    scores = list(_score(groups, encode, scorer, temperature))
    trainer = [each.logprobs.astype(np.float64) for each in scores]
    sampler = [np.asarray(each.logprobs, dtype=np.float64) for each in rollouts]
    # Rounding puts a logprob of an engine a little above 0.
    summary = logprob_mismatch(trainer, [np.minimum(each, 0.0) for each in sampler])
    differences = [own - other for own, other in zip(trainer, sampler, strict=True)]
    ends = np.cumsum([len(group.rollouts) for group in groups]).tolist()
    starts = [0, *ends[:-1]]
    by_prompt = [differences[start:end] for start, end in zip(starts, ends, strict=True)]
    entropies = _entropy_differences(rollouts, scores)
    return MismatchReport(
        estimates=_estimates(by_prompt, summary, num_resamples, confidence, seed),
        values={
            "training_ppl": summary.training_ppl,
            "rollout_ppl": summary.rollout_ppl,
            "ess": summary.ess,
            "mean_abs": float(np.abs(np.concatenate(differences)).mean()),
            "max_abs": summary.max_abs,
        },
        sequences=_sequence_outliers(rollouts, summary, num_outliers),
        tokens=_token_outliers(rollouts, trainer, sampler, num_outliers),
        entropy_mean_abs=None if entropies is None else float(entropies.mean()),
        entropy_max_abs=None if entropies is None else float(entropies.max()),
        num_prompts=len(groups),
        num_rollouts=len(rollouts),
        num_tokens=summary.num_tokens,
        confidence=confidence,
    )


def _require_recorded(rollout: Rollout) -> None:
    where = f"rollout {rollout.sample_index} of {rollout.prompt_id}"
    if rollout.logprobs is None:
        raise StatisticsError(f"{where}: the sampler's logprobs were not recorded")
    if (rollout.token_ids < 0).any():  # unknown, or known by name only
        raise StatisticsError(f"{where}: its token ids were not recorded")


def _score(
    groups: Sequence[RolloutGroup], encode: Encode, scorer: TeacherForcedScorer, temperature: float
) -> Iterator[TokenScores]:
    for start in range(0, len(groups), PROMPTS_AT_ONCE):
        part = groups[start : start + PROMPTS_AT_ONCE]
        prompts = encode([group.prompt for group in part])
        sequences = [
            (ids, rollout.token_ids.tolist())
            for ids, group in zip(prompts, part, strict=True)
            for rollout in group.rollouts
        ]
        yield from scorer.score(sequences, temperature=temperature)


def _estimates(
    by_prompt: Sequence[Sequence[npt.NDArray[np.float64]]],
    summary: LogprobMismatch,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Metric]:
    """Estimates whose intervals resample prompts: tokens of a rollout move together."""
    sums = mismatch_sums(by_prompt)
    above = np.stack([numerator for numerator, _ in sums.values()], axis=1)
    below = np.stack([denominator for _, denominator in sums.values()], axis=1)
    draws = PromptBootstrap(len(by_prompt), num_resamples, seed).ratios(above, below)
    found = {}
    for column, name in enumerate(sums):
        value = float(getattr(summary, name))
        sides = above[:, column], below[:, column]
        low, high = ratio_interval(draws[:, column], *sides, BOUNDS.get(name), confidence)
        found[name] = Metric(
            value=value,
            ci_low=min(low, value),
            ci_high=max(high, value),
            num_prompts=len(by_prompt),
        )
    return found


def _entropy_differences(
    rollouts: Sequence[Rollout], scores: Sequence[TokenScores]
) -> npt.NDArray[np.float64] | None:
    if any(rollout.entropies is None for rollout in rollouts):
        return None
    recorded = np.concatenate([np.asarray(rollout.entropies) for rollout in rollouts])
    return np.asarray(np.abs(recorded - np.concatenate([each.entropies for each in scores])))


def _sequence_outliers(
    rollouts: Sequence[Rollout], summary: LogprobMismatch, count: int
) -> tuple[SequenceOutlier, ...]:
    return tuple(
        SequenceOutlier(
            prompt_id=rollouts[index].prompt_id,
            sample_index=rollouts[index].sample_index,
            num_tokens=len(rollouts[index].token_ids),
            log_ppl_diff=float(summary.sequence_log_ppl_diff[index]),
            max_abs=float(summary.sequence_max_abs[index]),
        )
        for index in summary.outliers(count).tolist()
    )


def _token_outliers(
    rollouts: Sequence[Rollout],
    trainer: Sequence[npt.NDArray[np.float64]],
    sampler: Sequence[npt.NDArray[np.float64]],
    count: int,
) -> tuple[TokenOutlier, ...]:
    sizes = np.array([each.size for each in trainer])
    magnitude = np.abs(np.concatenate(trainer) - np.concatenate(sampler))
    worst = np.argsort(-magnitude, kind="stable")[:count]
    rows = np.searchsorted(np.cumsum(sizes), worst, side="right")
    positions = worst - (np.cumsum(sizes) - sizes)[rows]
    return tuple(
        TokenOutlier(
            prompt_id=rollouts[row].prompt_id,
            sample_index=rollouts[row].sample_index,
            position=position,
            token_id=int(rollouts[row].token_ids[position]),
            sampler_logprob=float(sampler[row][position]),
            trainer_logprob=float(trainer[row][position]),
        )
        for row, position in zip(rows.tolist(), positions.tolist(), strict=True)
    )
