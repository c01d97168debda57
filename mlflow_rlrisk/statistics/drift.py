"""Non-decoupling of SFT and RL: what one stage may do to the other's objective.

Both laws are exact and are checked on every assessed pair. SFT to RL: RL's regularised optimum
``q ~ p exp(r / beta)`` raises the SFT loss by ``KL(p || q) >= 0``. RL to SFT: whatever moves the
policy moves the reward by at most ``(r_max - r_min) sqrt(KL / 2)`` (Pinsker). After
arXiv:2601.07389; the forms here are derived, not quoted.
"""

import math

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, finite_vector

_SUMS_TO_ONE = 1e-9


def tilted_policy(policy: npt.ArrayLike, rewards: npt.ArrayLike, beta: float) -> FloatVector:
    """RL's optimum under a KL penalty: ``q ~ p exp(r / beta)``.

    Args:
        policy: Probabilities of the answers under the SFT checkpoint, shape ``[A]``, sum 1.
        rewards: Reward of each answer, shape ``[A]``.
        beta: Weight of the KL penalty, above 0.

    Returns:
        Probabilities, shape ``[A]``.

    Raises:
        StatisticsError: Not a distribution, shapes differ, a value is not finite, ``beta <= 0``.

    >>> tilted_policy([0.5, 0.5], [0.0, 0.0], 1.0)
    array([0.5, 0.5])
    """
    chances, gains = _distribution("policy", policy), finite_vector("rewards", rewards)
    if chances.shape != gains.shape:
        raise StatisticsError(f"policy has shape {chances.shape}, rewards {gains.shape}")
    if not (math.isfinite(beta) and beta > 0.0):
        raise StatisticsError(f"beta={beta}: must be above 0")
    held = chances > 0.0  # what is never answered has no part in the optimum, whatever it pays
    weights = np.zeros_like(chances)
    weights[held] = chances[held] * np.exp((gains[held] - gains[held].max()) / beta)
    return np.asarray(weights / weights.sum())


def kl_divergence(policy: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """``KL(policy || other)`` in nats; infinite where ``other`` misses an answer of ``policy``.

    Raises:
        StatisticsError: Not distributions over the same answers.

    >>> kl_divergence([0.5, 0.5], [0.5, 0.5])
    0.0
    """
    first, second = _distribution("policy", policy), _distribution("other", other)
    if first.shape != second.shape:
        raise StatisticsError(f"policy has shape {first.shape}, other {second.shape}")
    held = first > 0.0
    if (second[held] == 0.0).any():
        return math.inf
    return max(0.0, float((first[held] * np.log(first[held] / second[held])).sum()))


def sft_loss_rise(policy: npt.ArrayLike, rewards: npt.ArrayLike, beta: float) -> float:
    """Rise of the SFT loss at RL's optimum: ``ln Z - E_p[r] / beta``, in nats.

    Equal to ``KL(p || q)`` of `tilted_policy`; 0 exactly where the reward is constant on the
    support. Errors as `tilted_policy`.

    >>> round(sft_loss_rise([0.5, 0.3, 0.2], [1.0, 0.0, 1.0], 0.5), 12)
    0.299706179358
    """
    chances, gains = _distribution("policy", policy), finite_vector("rewards", rewards)
    tilted_policy(chances, gains, beta)
    held = chances > 0.0
    chances, scaled = chances[held], gains[held] / beta
    highest = float(scaled.max())
    log_partition = highest + math.log(float((chances * np.exp(scaled - highest)).sum()))
    return max(0.0, log_partition - float(chances @ scaled))


def reward_shift_bound(kl: float, reward_min: float, reward_max: float) -> float:
    """Largest change of the mean reward that a KL of ``kl`` nats allows.

    ``(r_max - r_min) min(1, sqrt(KL / 2))``: total variation is at most 1 and, by Pinsker, at
    most ``sqrt(KL / 2)``.

    Args:
        kl: Divergence between the two policies over whole answers, in nats, at least 0; may be
            infinite.
        reward_min: Smallest possible reward.
        reward_max: Largest possible reward.

    Raises:
        StatisticsError: ``kl`` is below 0 or not a number, or the rewards are no range.

    >>> reward_shift_bound(0.5, 0.0, 1.0)
    0.5
    """
    if math.isnan(kl) or kl < 0.0:
        raise StatisticsError(f"kl={kl}: must be at least 0")
    if not (math.isfinite(reward_min) and math.isfinite(reward_max) and reward_min <= reward_max):
        raise StatisticsError(f"rewards from {reward_min} to {reward_max}: not a range")
    return (reward_max - reward_min) * min(1.0, math.sqrt(kl / 2.0))


def forget_ratio(base_loss: float, sft_loss: float, rl_loss: float) -> float:
    """Share of what SFT gained on the expert data that RL gave back.

    ``(L_RL - L_SFT) / (L_base - L_SFT)``: 0 nothing, 1 all of it, above 1 worse than the base.
    Higher is riskier.

    Args:
        base_loss: Held-out expert loss of the base, nats per token.
        sft_loss: The same of the SFT checkpoint, below the base's.
        rl_loss: The same after RL.

    Raises:
        StatisticsError: A loss is not finite, or SFT gained nothing that could be forgotten.

    >>> round(forget_ratio(2.0, 1.2, 1.5), 12)
    0.375
    """
    losses = (base_loss, sft_loss, rl_loss)
    if not all(math.isfinite(loss) for loss in losses):
        raise StatisticsError(f"losses {losses}: must be finite")
    if base_loss <= sft_loss:
        raise StatisticsError(
            f"base_loss={base_loss}, sft_loss={sft_loss}: SFT gained nothing to forget"
        )
    return (rl_loss - sft_loss) / (base_loss - sft_loss)


def _distribution(name: str, values: npt.ArrayLike) -> FloatVector:
    chances = finite_vector(name, values)
    if (chances < 0.0).any() or abs(float(chances.sum()) - 1.0) > _SUMS_TO_ONE:
        raise StatisticsError(f"{name}: not a distribution (sum {chances.sum()})")
    return chances
