"""The one table of metric names: unit, direction, meaning, source.

Nothing may be measured under a name that is not here. ``pass_at_<k>`` is a family; every other
name stands for itself. Names carry the prefix ``rlrisk/`` and are the same in MLflow, in JSON
and in the report.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "rlrisk/"
PASS_AT_K_FAMILY = PREFIX + "pass_at_<k>"

_PASS_AT_K = re.compile(re.escape(PREFIX) + r"pass_at_([1-9][0-9]*)")


class Direction(StrEnum):
    """What a larger value says about starting RL."""

    RISKIER = "riskier"
    SAFER = "safer"
    CONTEXT = "context"
    """Neither by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One row of the catalogue.

    Attributes:
        name: Full name with prefix.
        unit: Unit of the value; ``share`` is a number in [0, 1].
        direction: What a larger value means.
        meaning: One line for people.
        source: Where the formula comes from.
        lower: Smallest possible value, ``None`` where there is none.
        upper: Largest possible value, ``None`` where it is unbounded or depends on settings.
    """

    name: str
    unit: str
    direction: Direction
    meaning: str
    source: str
    lower: float | None
    upper: float | None


def _row(
    name: str,
    unit: str,
    direction: Direction,
    meaning: str,
    source: str,
    upper: float | None = None,
    lower: float | None = 0.0,
) -> MetricSpec:
    return MetricSpec(
        name=PREFIX + name,
        unit=unit,
        direction=direction,
        meaning=meaning,
        source=source,
        lower=lower,
        upper=1.0 if unit == "share" and upper is None else upper,
    )


_R, _S, _C = Direction.RISKIER, Direction.SAFER, Direction.CONTEXT
_UMVUE = "U-statistic over all groups of g scored rollouts"
_ENTROPY = "exact entropy of the full softmax at the sampling temperature"
_BOUNDS = "probability left to the tail, packed or spread as far as it may be"
_ZERO_STD = "share of groups of g whose rewards are all equal (no gradient); 1 - group signal"
_FORCED = "teacher-forced at temperature 1, stop token included"
_CHORD = "CHORD, arXiv:2508.11408"
_SEQUENCE_NLL = "surprisal of a whole completion, -log p summed over its tokens, mean over rollouts"

CATALOGUE: tuple[MetricSpec, ...] = (
    _row(
        "pass_at_<k>",
        "share",
        _S,
        "chance that at least one of k rollouts is correct (k = 1 is context only)",
        "Chen et al. 2021, arXiv:2107.03374, eq. 1",
    ),
    _row(
        "group_signal_fraction",
        "share",
        _S,
        "share of RL groups of g rollouts whose rewards differ, so that they carry a gradient",
        _UMVUE,
    ),
    _row("frac_reward_zero_std", "share", _R, _ZERO_STD, "TRL's training log; " + _UMVUE),
    _row("frac_all_correct", "share", _R, "share of groups of g that are all correct", _UMVUE),
    _row("frac_all_wrong", "share", _R, "share of groups of g that are all wrong", _UMVUE),
    _row(
        "expected_group_variance",
        "reward²",
        _S,
        "expected reward variance within a group of g (ddof 0)",
        "unbiased; (g-1)/g times the sample variance",
    ),
    _row(
        "headroom",
        "ratio",
        _S,
        "pass@1 over the critical success p*(g), where half of all groups are all equal",
        "p*: root of p^g + (1-p)^g = 1/2; ratio after arXiv:2606.18487",
    ),
    _row(
        "starved_share",
        "share",
        _R,
        "expected share of prompts whose true success lies below p*(g)",
        "Beta(1/2, 1/2) posterior per prompt",
    ),
    _row(
        "saturated_share",
        "share",
        _R,
        "expected share of prompts whose true success lies above 1 - p*(g)",
        "Beta(1/2, 1/2) posterior per prompt",
    ),
    _row(
        "token_entropy",
        "nats/token",
        _S,
        "token entropy: mean per rollout, then per prompt, then over prompts (canonical)",
        _ENTROPY + "; aggregation of arXiv:2505.22617",
    ),
    _row(
        "token_entropy_token_mean",
        "nats/token",
        _S,
        "token entropy averaged over all generated tokens (TRL's `entropy`)",
        _ENTROPY,
    ),
    _row(
        "token_entropy_seq_mean",
        "nats/token",
        _S,
        "token entropy averaged per rollout, then over all rollouts",
        _ENTROPY,
    ),
    _row(
        "token_entropy_lower",
        "nats/token",
        _S,
        "lower bound of token_entropy where only the most likely tokens are known (openai)",
        _BOUNDS,
    ),
    _row("token_entropy_upper", "nats/token", _S, "upper bound of token_entropy, there", _BOUNDS),
    _row(
        "token_entropy_estimate",
        "nats/token",
        _S,
        "estimate of token_entropy there, unbiased, not exact; stands in for it in the index",
        "control variate: top-k sum, and -log p of sampled tokens outside of them",
        lower=None,
    ),
    _row(
        "token_entropy_relative",
        "ratio",
        _S,
        "token entropy over that of a reference checkpoint under the same protocol",
        "ratio of prompt means; arXiv:2606.18487",
    ),
    _row("low_entropy_share", "share", _R, "share of tokens with less than 0.01 nats", _ENTROPY),
    _row(
        "sampled_nll",
        "nats/token",
        _C,
        "-log p of the sampled tokens, averaged over tokens (an estimate, not the entropy)",
        "mean surprisal",
    ),
    _row("sequence_nll", "nats/response", _C, _SEQUENCE_NLL, "mean surprisal"),
    _row(
        "entropy_pressure",
        "nats",
        _R,
        "covariance of mean log p and advantage over prompts with mixed rewards (experimental)",
        "first-order entropy change, arXiv:2505.22617; no threshold is validated",
        lower=None,
    ),
    _row(
        "answer_distinct",
        "count",
        _S,
        "expected number of distinct final answers among g rollouts (no answer counts as one)",
        "rarefaction, Hurlbert 1971",
    ),
    _row(
        "answer_collision",
        "share",
        _R,
        "chance that two rollouts of a prompt give the same final answer",
        "unbiased Simpson index",
    ),
    _row(
        "agreement_accuracy",
        "share",
        _S,
        "share of right ones where two rollouts of a prompt give the same answer, or without "
        "answers the same text",
        "pass@1 of the squared distribution; self-consistency, arXiv:2203.11171",
    ),
    _row(
        "answer_entropy",
        "nats",
        _S,
        "entropy of the final answers of a prompt",
        "Chao & Shen 2003 estimator",
    ),
    _row(
        "correct_diversity",
        "count",
        _S,
        "distinct correct completions among min(4, c) correct ones, over prompts with c >= 2",
        "rarefaction, Hurlbert 1971",
        lower=1.0,
        upper=4.0,
    ),
    _row(
        "duplicate_rate",
        "share",
        _R,
        "chance that two rollouts of a prompt are the same text",
        "unbiased Simpson index",
    ),
    _row(
        "overdispersion",
        "share",
        _R,
        "polarisation of the prompts: Var(p) over mean(p) (1 - mean(p)), 1/(a+b+1) of a Beta",
        "moment estimate, kept within [0, 1]",
    ),
    _row(
        "success_variance",
        "share²",
        _R,
        "variance of the true success rate over prompts (unbiased, may dip below 0)",
        "sample variance of c/n less the binomial part",
        upper=0.5,
        lower=-0.5,
    ),
    _row(
        "band_share",
        "share",
        _S,
        "share of prompts solved in 1/16 to 14/16 of their rollouts",
        "prompt filter of arXiv:2606.18487",
    ),
    _row("truncated_share", "share", _R, "share of rollouts ended by max_new_tokens", "count"),
    _row("parse_failure_share", "share", _R, "share of scored rollouts without an answer", "count"),
    _row("repetition_share", "share", _R, "share of rollouts that end in a loop", "count"),
    _row("completion_tokens", "tokens", _C, "tokens per rollout, stop token included", "count"),
    _row("verifier_failure_share", "share", _R, "share of rollouts with failed grading", "count"),
    _row("verifier_abstained_share", "share", _R, "share of rollouts graded `None`", "count"),
    _row(
        "verifier_attack_share",
        "share",
        _R,
        "share of judged programs that attacked the code judge (their reward stays what it is)",
        "count",
    ),
    _row(
        "verifier_youden_j",
        "share",
        _S,
        "share of right answers that the verifier accepts less that of wrong ones, where "
        "`rlrisk audit-verifier --rollouts` kept it",
        "J = TPR - FPR on labelled answers, Youden 1950",
        lower=-1.0,
    ),
    _row(
        "sft_rl_overlap",
        "share",
        _R,
        "share of the RL prompts that stand in the SFT data, exactly or nearly",
        "normalised text, or Jaccard of word 3-grams at least 0.8; arXiv:2604.13515",
    ),
    _row(
        "heldout_nll",
        "nats/token",
        _R,
        "loss on held-out expert responses, mean over tokens (one SFT data set and tokenizer only)",
        _FORCED,
    ),
    _row(
        "train_nll",
        "nats/token",
        _C,
        "loss on the examples that SFT was trained on, mean over tokens (`--expert-train-data`)",
        _FORCED,
    ),
    _row(
        "overfit_gap",
        "nats/token",
        _R,
        "held-out loss less training loss: what was learnt by heart",
        _FORCED,
        lower=None,
    ),
    _row(
        "expert_phi",
        "share",
        _C,
        "p (1 - p) of the expert's tokens, mean over tokens: how much is left to learn",
        _CHORD,
        upper=0.25,
    ),
    _row("expert_mastered_share", "share", _C, "share of expert tokens with p above .95", _CHORD),
    _row("expert_disruptive_share", "share", _C, "share of expert tokens with p below .05", _CHORD),
    _row(
        "expert_length_ratio",
        "ratio",
        _C,
        "tokens of own rollouts over tokens of the expert's responses",
        "ratio of means; " + _CHORD,
    ),
    _row(
        "mismatch_k3_kl",
        "nats/token",
        _R,
        "KL of sampler and trainer on the sampled tokens, where `rlrisk mismatch` scored them",
        "k3 estimator, Schulman 2020 (verl's `rollout_corr/k3_kl`)",
    ),
    _row(
        "lookahead_reach",
        "ratio",
        _S,
        "gap to certain success that RL would close at the pace of its first updates, tried on the "
        "rollouts by `rlrisk lookahead`",
        "GRPO updates on half of the prompts; self-normalised importance weights on the other",
        lower=None,
    ),
    _row(
        "risk_index",
        "share",
        _R,
        "noisy-OR of the assessed components; documented, not calibrated",
        "1 - prod(1 - weight * severity)",
    ),
    _row(
        "fail_probability",
        "share",
        _R,
        "chance that RL fails, where the policy names a calibration record that may be used",
        "`rlrisk calibrate`: a curve over index or first updates, validated out of lineage",
    ),
)

_BY_NAME = {spec.name: spec for spec in CATALOGUE}


def pass_at_k_name(k: int) -> str:
    """Full name of pass@k."""
    return f"{PREFIX}pass_at_{k}"


def spec_of(name: str) -> MetricSpec | None:
    """The catalogue row of a full metric name; a member of the pass@k family has the family's."""
    if _PASS_AT_K.fullmatch(name):
        return _BY_NAME[PASS_AT_K_FAMILY]
    return None if name == PASS_AT_K_FAMILY else _BY_NAME.get(name)
