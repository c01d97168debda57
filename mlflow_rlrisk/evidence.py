"""What may be known of a checkpoint beyond its rollouts: siblings, audits, held-out losses.

All of it is optional. What is not given is not assessed, and the report says so.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A measured value with its interval.

    Attributes:
        value: The estimate.
        ci_low: Lower end of its interval; equal to ``value`` for an exact count.
        ci_high: Upper end.
        source: Where it was measured, for people.
        num_prompts: Prompts it rests on, where they are others than those of the rollouts.
    """

    value: float
    ci_low: float
    ci_high: float
    source: str
    num_prompts: int | None = None

    def __post_init__(self) -> None:
        if not -np.inf < self.ci_low <= self.value <= self.ci_high < np.inf:  # NaN fails too
            raise StatisticsError(
                f"{self.source}: {self.ci_low} <= {self.value} <= {self.ci_high} must hold"
            )

    @classmethod
    def exact(cls, value: float, source: str) -> "Evidence":
        """A value that is counted, not estimated."""
        return cls(value=value, ci_low=value, ci_high=value, source=source)

    def draws(self, num_draws: int, confidence: float, rng: np.random.Generator) -> FloatVector:
        """Draws that have about the given interval: each side Gaussian with its own width."""
        z = float(ndtri(0.5 + confidence / 2.0))
        normal = rng.standard_normal(num_draws)
        above, below = self.ci_high - self.value, self.value - self.ci_low
        return np.asarray(self.value + normal / z * np.where(normal > 0.0, above, below))


_SHARE, _NOT_NEGATIVE = (0.0, 1.0), (0.0, np.inf)
_RANGES = {
    "reference_entropy": _NOT_NEGATIVE,
    "sibling_pass_at_64": _SHARE,
    "heldout_loss": _NOT_NEGATIVE,
    "lowest_heldout_loss": _NOT_NEGATIVE,
    "verifier_youden_j": (-1.0, 1.0),
    "sft_rl_overlap": _SHARE,
    "expert_mastered": _SHARE,
    "expert_disruptive": _SHARE,
    "expert_tokens": _NOT_NEGATIVE,
    "train_loss": _NOT_NEGATIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessmentContext:
    """Optional evidence beside the rollouts.

    Attributes:
        reference_entropy: ``rlrisk/token_entropy`` of the base or the shallowest sibling under
            the same prompts, sampler and tokenizer (nats/token).
        sibling_pass_at_64: Best ``rlrisk/pass_at_64`` of the lineage, same protocol.
        heldout_loss: Loss on held-out SFT data (nats/token).
        lowest_heldout_loss: Smallest such loss of the lineage, same data.
        verifier_youden_j: J = TPR - FPR of the verifier from an audit.
        sft_rl_overlap: Share of the RL prompts that occur in the SFT data.
        heldout_rise: Relative rise of that loss above the lineage's smallest, paired over the
            same examples; taken instead of the quotient of the two above.
        heldout_rise_undefined: Why a lineage's losses tell no such rise.
        expert_phi: Mean p (1 - p) of the expert's tokens.
        expert_mastered: Share of the expert's tokens with p above .95.
        expert_disruptive: Share of the expert's tokens with p below .05.
        expert_tokens: Tokens of an expert's response, stop token included.
        train_loss: Loss on the examples that SFT was trained on (nats/token).
        overfit_gap: `heldout_loss` less `train_loss`.
        mismatch_kl: KL between trainer and sampler on the same tokens (nats).
        lookahead_reach: Share of the gap to certain success that the RL run would close at the pace
            of its first updates, which were tried on the rollouts.
        lookahead_undefined: Why updates that were asked for say nothing; then no ``low``.
        expected_prompts_digest: Digest of the prompt set that the RL run will use.
    """

    reference_entropy: Evidence | None = None
    sibling_pass_at_64: Evidence | None = None
    heldout_loss: Evidence | None = None
    lowest_heldout_loss: Evidence | None = None
    verifier_youden_j: Evidence | None = None
    sft_rl_overlap: Evidence | None = None
    heldout_rise: Evidence | None = None
    heldout_rise_undefined: str | None = None
    expert_phi: Evidence | None = None
    expert_mastered: Evidence | None = None
    expert_disruptive: Evidence | None = None
    expert_tokens: Evidence | None = None
    train_loss: Evidence | None = None
    overfit_gap: Evidence | None = None
    mismatch_kl: Evidence | None = None
    lookahead_reach: Evidence | None = None
    lookahead_undefined: str | None = None
    expected_prompts_digest: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no such quantity: a share in percent would be fully severe.

        Raises:
            StatisticsError: A value lies outside of its range.
        """
        for name, (low, high) in _RANGES.items():
            found = getattr(self, name)
            if found is not None and not low <= found.value <= high:
                raise StatisticsError(
                    f"{name}={found.value:g} ({found.source}): must lie within {low:g} and {high:g}"
                )
