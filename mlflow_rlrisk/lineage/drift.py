"""What one training stage did to a checkpoint: a record from weights to rewards.

SFT and RL cannot be taken apart (arXiv:2601.07389): RL raises the loss on SFT's data, SFT may
lower RL's reward. Whatever a stage did, the mean reward cannot have moved further than
``(r_max - r_min) sqrt(KL / 2)``; a report that breaks this bound has a fault in it, and says so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlflow_rlrisk.lineage.measures import Bounds, Estimate, FloatArray, estimate
from mlflow_rlrisk.lineage.measures import mean_estimate as estimate_of_mean
from mlflow_rlrisk.lineage.modes import AnswerModes
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap, jackknife_ratios
from mlflow_rlrisk.statistics.drift import reward_shift_bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far one checkpoint's policy is from another's, on rollouts of the first, in nats.

    Attributes:
        sampled_from: The checkpoint whose rollouts these are.
        against: The other one.
        per_token: Mean of ``log p - log q`` over all tokens.
        per_token_k3: The same by ``q/p - 1 - log(q/p)``, which is never below 0 for a token.
        per_sequence: Mean over prompts of the sum over a rollout.
        num_sequences: Rollouts scored.
    """

    sampled_from: str
    against: str
    per_token: Estimate
    per_token_k3: Estimate
    per_sequence: Estimate
    num_sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDrift:
    """How far the weights moved: the norm of the change over the norm before.

    Attributes:
        total: Over all weights that both have.
        by_part: By part of the network.
        num_unchanged: Tensors that are equal to the bit.
        num_tensors: Tensors that both have.
        only_before: Names that only the first has.
        only_after: Names that only the second has, or with another shape.
    """

    total: float
    by_part: dict[str, float]
    num_unchanged: int
    num_tensors: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """From ``before`` to ``after``, step by step.

    Attributes:
        before: The earlier checkpoint.
        after: The later one.
        num_prompts: Prompts that both were assessed on.
        weights: How far the weights moved; ``None`` with the reason in ``notes``.
        is_tokenizer_equal: Same tokenizer files.
        is_template_equal: Same chat template.
        generation_config: What differs in the generation settings, as (before, after).
        reverse: ``KL(after || before)`` on rollouts of ``after``.
        forward: ``KL(before || after)`` on rollouts of ``before``.
        changes: Paired difference of a metric, after less before, by full name.
        reward_change: Paired difference of the mean reward.
        reward_bound: The largest change that the smaller of both divergences allows.
        is_bound_kept: False where the interval of the reward change lies beyond the bound that
            the upper ends of the divergences allow: then a figure is wrong.
        is_reward_lower: True where the interval lies below 0.
        modes: Answers that were lost or are new, where the verifier extracts answers.
        heldout_nll: Paired change of the loss on held-out expert data, where it was measured.
        forget_ratio: Share of what SFT gained on the expert data that was given back: 0 nothing,
            1 all of it, above 1 worse than the base. Informational: RL is expected to raise it.
        forget_ratio_ci: Its interval, paired over the examples.
        notes: What a careful reader should also know.
    """

    before: str
    after: str
    num_prompts: int
    weights: WeightDrift | None
    is_tokenizer_equal: bool
    is_template_equal: bool
    generation_config: dict[str, tuple[Any, Any]]
    reverse: Divergence | None
    forward: Divergence | None
    changes: dict[str, Estimate]
    reward_change: Estimate
    reward_bound: float | None
    is_bound_kept: bool | None
    is_reward_lower: bool
    modes: AnswerModes | None
    heldout_nll: Estimate | None = None
    forget_ratio: float | None = None
    forget_ratio_ci: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        raw = asdict(self)
        raw["notes"] = list(self.notes)
        return raw


def divergence(
    own: Sequence[Sequence[FloatArray]],
    other: Sequence[Sequence[FloatArray]],
    bootstrap: PromptBootstrap,
    *,
    sampled_from: str,
    against: str,
    confidence: float,
) -> Divergence:
    """Estimate a divergence from logprobs of the same tokens under both checkpoints.

    Args:
        own: For every prompt and rollout the logprobs ``[T]`` under the checkpoint that sampled
            it, at the sampling temperature over the full vocabulary.
        other: The same tokens under the other checkpoint.
        bootstrap: Resamples of the prompts.
        sampled_from: Name of the checkpoint that sampled.
        against: Name of the other.
        confidence: Level of the intervals.

    Returns:
        The divergence; infinite ratios raise in the bootstrap, for there is no estimate then.
    """
    ratios = [
        [np.asarray(q, dtype=float) - np.asarray(p, dtype=float) for p, q in zip(a, b, strict=True)]
        for a, b in zip(own, other, strict=True)
    ]
    tokens = _column(ratios, lambda row: float(row.size))
    direct = _column(ratios, lambda row: float(-row.sum()))
    k3 = _column(ratios, lambda row: float((np.expm1(row) - row).sum()))
    sequences = np.array([len(rows) for rows in ratios], dtype=float)
    draws = bootstrap.ratios(np.stack([direct, k3], axis=1), np.stack([tokens, tokens], axis=1))
    per_sequence = direct / sequences
    return Divergence(
        sampled_from=sampled_from,
        against=against,
        per_token=_per_token(direct, tokens, draws[:, 0], confidence),
        per_token_k3=_per_token(k3, tokens, draws[:, 1], confidence),
        per_sequence=mean_estimate(per_sequence, bootstrap, confidence),
        num_sequences=int(sequences.sum()),
    )


def _per_token(
    sums: FloatArray, tokens: FloatArray, draws: FloatArray, confidence: float
) -> Estimate:
    value = float(sums.sum() / tokens.sum())
    left_out = jackknife_ratios(sums, tokens) if sums.size > 1 else np.array([value])
    return estimate(value, draws, left_out, confidence)


def mean_estimate(
    values: FloatArray,
    bootstrap: PromptBootstrap,
    confidence: float,
    bounds: Bounds | None = None,
    *,
    is_difference: bool = False,
) -> Estimate:
    """Mean over prompts with its interval."""
    draws = bootstrap.means(values[:, None])[:, 0]
    return estimate_of_mean(values, draws, confidence, bounds, is_difference=is_difference)


def reward_bound(
    forward: Divergence | None, reverse: Divergence | None, rewards: tuple[float, float]
) -> tuple[float, float] | None:
    """Bound of the reward change from the smaller divergence: at the estimate, at the upper end.

    Args:
        forward: Divergence one way.
        reverse: Divergence the other way.
        rewards: Smallest and largest reward.

    Returns:
        Both bounds, or ``None`` where no divergence was measured.
    """
    known = [each.per_sequence for each in (forward, reverse) if each is not None]
    if not known:
        return None
    least = min(max(each.value, 0.0) for each in known)
    upper = min(max(each.ci_high, 0.0) for each in known)
    return reward_shift_bound(least, *rewards), reward_shift_bound(upper, *rewards)


def is_bound_kept(change: Estimate, upper_bound: float) -> bool:
    """False only where the whole interval of the change lies beyond the bound."""
    return change.ci_low <= upper_bound and change.ci_high >= -upper_bound


def _column(ratios: Sequence[Sequence[FloatArray]], read: Any) -> FloatArray:
    return np.array([sum(read(row) for row in rows) for rows in ratios], dtype=float)
