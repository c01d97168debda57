"""What a policy-gradient step does to entropy: the entropy law, token covariance, forking tokens.

Entropies in nats. The law and the covariance describe training without an entropy or KL bonus;
who calls them has to know that there is none.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.counts import FloatVector, finite_array
from mlflow_rlrisk.statistics.ranks import spearman

LAW_MIN_POINTS = 8
"""Fewer points fit two parameters and leave no idea of the error."""
LAW_MIN_RATIO = 1.5
"""Highest over lowest entropy: over less the curve cannot be told from a straight line."""
LAW_MAX_TREND = -0.5
"""Rank correlation of entropy with time: the law describes entropy that is being spent."""
LAW_MAX_NATS = 100.0
"""No vocabulary has an entropy near it, nor an e^H that arithmetic would overflow at."""
TOP_SHARES = (0.0002, 0.002, 0.02, 0.2, 0.5, 1.0)
"""Shares of tokens with the largest covariance, as published (arXiv:2505.22617, table 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyLaw:
    """``R = -a e^H + b``, fitted.

    Attributes:
        a: Reward paid for a unit of ``e^H``.
        b: Reward of the curve at ``e^H = 0``.
        ceiling: ``b - a``, the reward at which entropy is used up.
        ceiling_low: Lower end of the ceiling's interval.
        ceiling_high: Upper end.
        residual_sd: Standard deviation about the curve, in rewards.
        num_points: Points fitted.
    """

    a: float
    b: float
    ceiling: float
    ceiling_low: float
    ceiling_high: float
    residual_sd: float
    num_points: int

    def reward_at(self, entropy: float) -> float:
        """Reward of the curve at an entropy in nats."""
        return self.b - self.a * float(np.exp(entropy))


def fit_entropy_law(
    entropy: npt.ArrayLike, reward: npt.ArrayLike, *, confidence: float = 0.95
) -> EntropyLaw:
    """Fit ``R = -a e^H + b`` by least squares (Cui et al. 2025, arXiv:2505.22617, eq. 3).

    The ceiling's interval is that of the curve at ``H = 0`` (delta method, Student's t). Logs that
    repeat each other count as fewer ones, by the serial correlation of the residuals.

    Args:
        entropy: Policy entropy in nats, in order of time, shape ``[S]``.
        reward: Reward or success of the same logs, shape ``[S]``.
        confidence: Level of the ceiling's interval.

    Raises:
        StatisticsError: Fewer than 8 points, an entropy that spans less than a factor 1.5, does
            not fall or is that of no token, or shapes that differ.
        ConfigError: ``confidence`` is not strictly between 0 and 1.

    >>> law = fit_entropy_law(h := np.linspace(1.0, 0.1, 9), 0.55 - 0.12 * np.exp(h))
    >>> round(law.ceiling, 9)
    0.43
    """
    if not 0.0 < confidence < 1.0:
        raise ConfigError("confidence", confidence, "must lie strictly between 0 and 1")
    h, r = finite_array("entropy", entropy), finite_array("reward", reward)
    _check_law_input(h, r)
    x = np.exp(h)
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ r) / spread
    b = float(r.mean() - slope * x.mean())
    residuals = r - (b + slope * x)
    sd = float(np.sqrt(residuals @ residuals / (r.size - 2)))
    ceiling = b + slope
    inflation = _inflation(residuals)
    error = sd * np.sqrt((1.0 / r.size + (1.0 - x.mean()) ** 2 / spread) * inflation)
    freedom = max(r.size / inflation - 2.0, 1.0)
    half = float(stdtrit(freedom, 0.5 + confidence / 2.0)) * float(error)
    return EntropyLaw(
        a=-slope,
        b=b,
        ceiling=ceiling,
        ceiling_low=ceiling - half,
        ceiling_high=ceiling + half,
        residual_sd=sd,
        num_points=int(r.size),
    )


def _check_law_input(h: FloatVector, r: FloatVector) -> None:
    if h.shape != r.shape or h.ndim != 1:
        raise StatisticsError(f"entropy {h.shape} and reward {r.shape}: one of each a log")
    if h.size < LAW_MIN_POINTS:
        raise StatisticsError(f"{counted(h.size, 'point')}: the entropy law needs {LAW_MIN_POINTS}")
    if h.min() < 0.0 or h.max() < LAW_MIN_RATIO * h.min() or h.max() == 0.0:
        raise StatisticsError(
            f"entropy goes from {h.min():.3g} to {h.max():.3g} nats: the entropy law needs a range "
            f"of a factor {LAW_MIN_RATIO:g}"
        )
    if h.max() > LAW_MAX_NATS:
        raise StatisticsError(f"an entropy of {h.max():.3g} nats is that of no token")
    if np.exp(h.min()) == np.exp(h.max()):
        raise StatisticsError(
            f"entropy goes from {h.min():.3g} to {h.max():.3g} nats: too little for e^H to tell"
        )
    trend = spearman(np.arange(h.size), h)
    if trend > LAW_MAX_TREND:
        raise StatisticsError(
            f"entropy does not fall (rank correlation with time {trend:.2f}): the entropy law "
            "describes entropy that is being spent"
        )


def _inflation(residuals: FloatVector) -> float:
    """Variance of a mean of AR(1) residuals over that of independent ones, at least 1.

    About a line that was fitted their correlation comes out too low, by ``(2 + 4 rho) / S``.
    """
    power = float(residuals @ residuals)
    if power < 1e-24:
        return 1.0
    seen = float(residuals[1:] @ residuals[:-1]) / power
    rho = min((residuals.size * seen + 2.0) / (residuals.size - 4.0), 0.95)
    return max((1.0 + rho) / (1.0 - rho), 1.0)


def relative_drop(before: float, after: float) -> float:
    """Share of the entropy that is gone, ``(H_a - H_b) / H_a``; negative for a rise.

    Raises:
        StatisticsError: ``before`` is not above 0, ``after`` below 0, or one is not finite.

    >>> round(relative_drop(0.0174, 0.0063), 6)
    0.637931
    """
    if not (0.0 < before < math.inf and 0.0 <= after < math.inf):
        raise StatisticsError(f"entropies {before} and {after}: above 0, and at least 0; finite")
    return (before - after) / before


def token_covariance(logprobs: npt.ArrayLike, advantages: npt.ArrayLike) -> FloatVector:
    """Each token's share in the covariance of log probability and advantage.

    ``(log p - mean)(A - mean)`` over the tokens of a batch (arXiv:2505.22617, eq. 10). Its mean is
    the covariance; a positive one lowers entropy at the next step.

    Args:
        logprobs: Log probability of each sampled token, nats, shape ``[T]``.
        advantages: Advantage of each token's rollout, shape ``[T]``.

    Raises:
        StatisticsError: Shapes differ, or there is no token.

    >>> token_covariance([-1.0, -3.0], [1.0, -1.0])
    array([1., 1.])
    """
    lp, a = finite_array("logprobs", logprobs), finite_array("advantages", advantages)
    if lp.shape != a.shape or lp.ndim != 1 or lp.size == 0:
        raise StatisticsError(f"logprobs {lp.shape} and advantages {a.shape}: one of each a token")
    return np.asarray((lp - lp.mean()) * (a - a.mean()))


def top_covariance(covariance: npt.ArrayLike) -> dict[float, float]:
    """Mean covariance of the tokens that drive entropy most, by their share (`TOP_SHARES`).

    A share that holds less than one token is left out.

    Raises:
        StatisticsError: There is no token.
    """
    cov = finite_array("covariance", covariance)
    if cov.size == 0:
        raise StatisticsError("covariance: there is no token")
    ordered = np.sort(cov.ravel())[::-1]
    sizes = {share: int(share * ordered.size) for share in TOP_SHARES}
    return {share: float(ordered[:size].mean()) for share, size in sizes.items() if size}


class EntropyStep(NamedTuple):
    """First-order change of entropy for a step of size 1, in nats.

    Attributes:
        policy_gradient: ``-Cov(log p, p A)``.
        natural_gradient: ``-Cov(log p, A)``.
    """

    policy_gradient: float
    natural_gradient: float


def entropy_step(probabilities: npt.ArrayLike, advantages: npt.ArrayLike) -> EntropyStep:
    """Entropy change of a tabular softmax policy by one step, over the learning rate.

    First order (arXiv:2505.22617, theorem 1 and 2): ``dH = -Cov_p(log p, dz)``, with ``dz`` the
    change of the logits. The advantages are centred under the policy first.

    Args:
        probabilities: The policy in one state, shape ``[V]``, all above 0, summing to 1.
        advantages: Advantage of each action, shape ``[V]``.

    Raises:
        StatisticsError: No such policy, or shapes differ.
    """
    p, a = finite_array("probabilities", probabilities), finite_array("advantages", advantages)
    if p.shape != a.shape or p.ndim != 1 or p.size == 0 or (p <= 0.0).any():
        raise StatisticsError(f"probabilities {p.shape}, advantages {a.shape}: all above 0 needed")
    if abs(float(p.sum()) - 1.0) > 1e-6:
        raise StatisticsError(f"probabilities sum to {p.sum()}: 1 is needed")
    a = a - p @ a
    log_p = np.log(p)
    centred = p * (log_p - p @ log_p)
    return EntropyStep(-float(centred @ (p * a)), -float(centred @ a))


def fork_share(entropies: npt.ArrayLike, reference: float) -> float:
    """Share of tokens whose entropy exceeds a fixed reference (arXiv:2506.01939).

    Args:
        entropies: Token entropies in nats, shape ``[T]``.
        reference: Entropy above which a token is a fork: the 80th percentile of the checkpoint
            that is compared with, never that of the same tokens.

    Raises:
        StatisticsError: There is no token, an entropy is below 0, or ``reference`` is not finite.

    >>> fork_share([0.0, 0.1, 0.9, 1.2], reference=0.5)
    0.5
    """
    h = finite_array("entropies", entropies)
    if h.size == 0 or h.min() < 0.0:
        raise StatisticsError("entropies: at least one, none below 0")
    if not math.isfinite(reference):
        raise StatisticsError(f"reference={reference}: must be finite")
    return float((h > reference).mean())
