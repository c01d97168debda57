"""Entropy pressure: do a policy's own likely answers earn the advantage? Experimental.

To first order a policy-gradient step changes the entropy by minus the covariance of log
probability and advantage (Cui et al. 2025, arXiv:2505.22617). Measured on rollouts before RL it
says which way the first steps would push. No threshold is validated.
"""

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import finite_vector
from mlflow_rlrisk.statistics.groups import REWARD_TOLERANCE


def entropy_pressure(mean_logprobs: npt.ArrayLike, rewards: npt.ArrayLike) -> float:
    """Covariance of the mean log probability and the group-normalised advantage of one prompt.

    ``mean((x - mean(x)) * (r - mean(r)) / std(r))`` with ``std`` of ddof 1, as GRPO scales.

    Args:
        mean_logprobs: Mean of ``log p`` over the tokens of each rollout, nats, shape ``[G]``.
        rewards: Its reward, shape ``[G]``, not all equal.

    Returns:
        Nats; above 0 the first steps of RL lower the entropy (riskier).

    Raises:
        StatisticsError: Shapes differ, a value is not finite, or the rewards do not differ (by more
            than `REWARD_TOLERANCE`).

    >>> round(entropy_pressure([-0.1, -0.3], [1.0, 0.0]), 6)
    0.070711
    """
    likely, gains = finite_vector("mean_logprobs", mean_logprobs), finite_vector("rewards", rewards)
    if likely.shape != gains.shape:
        raise StatisticsError(f"mean_logprobs has shape {likely.shape}, rewards {gains.shape}")
    if np.ptp(gains) <= REWARD_TOLERANCE:
        raise StatisticsError("rewards: all are equal, so there is no advantage")
    spread = float(gains.std(ddof=1))
    return float(((likely - likely.mean()) * (gains - gains.mean())).mean() / spread)
