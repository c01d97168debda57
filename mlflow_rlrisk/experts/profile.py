"""How a checkpoint sees an expert's responses: the loss and the profile of its tokens.

Sums are kept for each prompt, so that two checkpoints are compared on the same resamples of the
same prompts. After CHORD (arXiv:2508.11408) a token is mastered where the checkpoint gives it
more than .95 and disruptive where it gives it less than .05; ``p (1 - p)`` is CHORD's weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ComparabilityError, StatisticsError
from mlflow_rlrisk.evidence import Evidence
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap, interval
from mlflow_rlrisk.statistics.drift import forget_ratio
from mlflow_rlrisk.statistics.prompt_intervals import ratio_draws, ratio_interval
from mlflow_rlrisk.statistics.ranks import evened

FloatArray = npt.NDArray[np.float64]

MASTERED, DISRUPTIVE = 0.95, 0.05
"""Probabilities above and below which a token counts; arXiv:2508.11408."""
_BOUNDS = {"phi": 0.25, "mastered": 1.0, "disruptive": 1.0}
"""Largest mean over tokens; the smallest is 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertProfile:
    """Teacher-forced sums over the response tokens of each prompt ``P``, stop token included.

    Attributes:
        identity: What the sums depend on, digests of checkpoint, tokenizer, template and examples.
        source: The expert set, for people.
        examples: Responses, shape ``[P]``; as all arrays in the order of prompt ids.
        tokens: Tokens.
        nll: Sum of ``-log p`` (nats).
        phi: Sum of ``p (1 - p)``.
        mastered: Tokens with ``p`` above `MASTERED`.
        disruptive: Tokens with ``p`` below `DISRUPTIVE`.
    """

    identity: dict[str, Any]
    source: str
    examples: FloatArray
    tokens: FloatArray
    nll: FloatArray
    phi: FloatArray
    mastered: FloatArray
    disruptive: FloatArray

    @property
    def loss(self) -> float:
        """Mean loss over all tokens, nats."""
        return float(self.nll.sum() / self.tokens.sum())

    def loss_draws(self, num_resamples: int, seed: int) -> FloatArray:
        """Draws of `loss` over resamples of the prompts, shape ``[B]``; paired by ``seed``."""
        bootstrap = PromptBootstrap(self.tokens.size, num_resamples, seed)
        return bootstrap.ratios(self.nll[:, None], self.tokens[:, None])[:, 0]

    def evidence(self, num_resamples: int, seed: int, confidence: float) -> dict[str, Evidence]:
        """Every figure with its `ratio_interval`, by field of `AssessmentContext`."""
        bootstrap = PromptBootstrap(self.tokens.size, num_resamples, seed)
        columns = {
            "heldout_loss": (self.nll, self.tokens),
            "expert_phi": (self.phi, self.tokens),
            "expert_mastered": (self.mastered, self.tokens),
            "expert_disruptive": (self.disruptive, self.tokens),
            "expert_tokens": (self.tokens, self.examples),
        }
        above, below = (np.stack(pair, axis=1) for pair in zip(*columns.values(), strict=True))
        draws = bootstrap.ratios(above, below)
        found = {}
        for place, (name, (top, bottom)) in enumerate(columns.items()):
            value = float(top.sum() / bottom.sum())
            limit = _BOUNDS.get(name.removeprefix("expert_"))
            bounds = None if limit is None else (0.0, limit)
            low, high = ratio_interval(draws[:, place], top, bottom, bounds, confidence)
            found[name] = Evidence(
                value=value,
                ci_low=min(low, value),
                ci_high=max(high, value),
                source=self.source,
                num_prompts=top.size,
            )
        return found


def overfit_gap(
    heldout: ExpertProfile,
    train: ExpertProfile,
    *,
    num_resamples: int,
    seed: int,
    confidence: float,
) -> Evidence:
    """Held-out loss less training loss; both sets of examples are resampled independently.

    Args:
        heldout: The profile of examples that SFT did not see.
        train: The profile of examples that it was trained on.
        num_resamples: Resamples of the prompts of each.
        seed: Seed of the resamples.
        confidence: Level of the interval.
    """
    own, other = (
        ratio_draws(each.loss_draws(num_resamples, at), each.nll, each.tokens)
        for each, at in ((heldout, seed), (train, seed + 1))
    )
    draws = own - other
    value = heldout.loss - train.loss
    low, high = interval(draws, confidence)
    return Evidence(
        value=value,
        ci_low=min(low, value),
        ci_high=max(high, value),
        source=f"{heldout.source}, less {train.source}",
        num_prompts=min(heldout.tokens.size, train.tokens.size),
    )


def check_same_experts(profiles: Sequence[ExpertProfile]) -> None:
    """Refuse losses that are of other examples or of other tokens.

    Raises:
        ComparabilityError: They are.
    """
    for what, key in (("expert data", "expert"), ("tokenizer", "tokenizer")):
        if len({each.identity[key] for each in profiles}) > 1:
            raise ComparabilityError(f"held-out losses with another {what} cannot be compared")


def heldout_rises(
    profiles: Sequence[ExpertProfile], num_resamples: int, seed: int, confidence: float
) -> list[Evidence]:
    """Relative rise of each loss above the smallest, paired over the same prompts.

    Args:
        profiles: One for each checkpoint, of the same expert set.
        num_resamples: Resamples of the prompts.
        seed: Seed of the resamples.
        confidence: Level of the intervals.

    Returns:
        ``L / L_min - 1``; exactly 0 for the checkpoint with the smallest loss.

    Raises:
        ComparabilityError: The profiles are of other examples or tokens.
        StatisticsError: The smallest loss is 0, on the examples or on a resample of them.
    """
    check_same_experts(profiles)
    least = int(evened([each.loss for each in profiles]).argmin())
    floor = profiles[least].loss_draws(num_resamples, seed)
    if min(profiles[least].loss, floor.min()) <= 0.0:
        raise StatisticsError("the smallest held-out loss may be 0: nothing is relative to it")
    rises = []
    for place, each in enumerate(profiles):
        if place == least:
            rises.append(Evidence.exact(0.0, f"the least of {len(profiles)}: {each.source}"))
            continue
        value = each.loss / profiles[least].loss - 1.0
        draws = each.loss_draws(num_resamples, seed) / floor
        ratios = ratio_draws(draws, each.nll, profiles[least].nll, is_difference=True)
        low, high = interval(ratios - 1.0, confidence)
        rises.append(
            Evidence(
                value=value,
                ci_low=min(low, value),
                ci_high=max(high, value),
                source=f"paired over {counted(each.tokens.size, 'prompt')} of {each.source}",
                num_prompts=each.tokens.size,
            )
        )
    return rises


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRatio:
    """Share of SFT's gain on the expert data that was given back, or why there is none.

    Attributes:
        value: The ratio; ``None`` where SFT gained nothing that the examples resolve.
        ends: Its interval.
        undefined: Why there is none.
    """

    value: float | None
    ends: tuple[float, float] | None
    undefined: str | None


def paired_forget_ratio(
    base: ExpertProfile,
    sft: ExpertProfile,
    rl: ExpertProfile,
    *,
    num_resamples: int,
    seed: int,
    confidence: float,
) -> ForgetRatio:
    """`forget_ratio` of three checkpoints with its interval over resamples of the prompts.

    The ratio has no meaning where its denominator may be 0, so it is told only where all
    resamples say that SFT gained.

    Raises:
        ComparabilityError: The profiles are of other examples or tokens.
    """
    check_same_experts([base, sft, rl])
    first, second, third = (each.loss_draws(num_resamples, seed) for each in (base, sft, rl))
    gained = first - second
    if base.loss <= sft.loss or (gained <= 0.0).any():
        low, high = interval(gained, confidence)
        reason = (
            "no forget ratio: the examples do not resolve that SFT lowered the base's loss "
            f"({base.loss - sft.loss:+.4f} nats/token, [{low:+.4f}, {high:+.4f}])"
        )
        return ForgetRatio(value=None, ends=None, undefined=reason)
    value = forget_ratio(base.loss, sft.loss, rl.loss)
    back, gain = rl.nll - sft.nll, base.nll - sft.nll  # of the same tokens
    draws = ratio_draws((third - second) / gained, back, gain, is_difference=True)
    low, high = interval(draws, confidence)
    return ForgetRatio(value=value, ends=(min(low, value), max(high, value)), undefined=None)
