"""What a log of tokens says of the next steps: covariance with the advantage, forking tokens.

Experimental: the published covariances are those of one model (Qwen2.5-7B, step 1), printed beside
ours for comparison; nothing is judged by them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.dynamics import fork_share, token_covariance, top_covariance
from mlflow_rlrisk.thresholds import threshold

PUBLISHED: Mapping[float, float] = {
    0.0002: 5.654,
    0.002: 3.112,
    0.02: 1.385,
    0.2: 0.351,
    0.5: 0.152,
    1.0: 0.003,
}
"""Mean covariance of the top shares of tokens, arXiv:2505.22617, table 1 (Qwen2.5-7B, step 1)."""
FORK_QUANTILE = 0.8


class TokenRow(NamedTuple):
    """One rollout of a token log.

    Attributes:
        step: RL step.
        logprobs: Of its sampled tokens, nats.
        advantage: Of the rollout.
        entropies: Of its tokens, nats; empty where they were not logged.
    """

    step: int
    logprobs: Sequence[float]
    advantage: float
    entropies: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDynamics:
    """Statistics over all tokens of a log.

    Attributes:
        num_tokens: Tokens.
        mean_covariance: ``Cov(log p, A)``; above 0 the next step lowers entropy.
        top_covariance: Mean over the top shares of tokens.
        share_in_band: Share of tokens that Clip-Cov would pick from (covariance 1 to 5).
        fork_share: Share of tokens of the last step above the 80th percentile of the first step's
            entropies; ``None`` without entropies or with a single step.
    """

    num_tokens: int
    mean_covariance: float
    top_covariance: Mapping[float, float]
    share_in_band: float
    fork_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON values."""
        return {
            "num_tokens": self.num_tokens,
            "mean_covariance": self.mean_covariance,
            "top_covariance": {f"{share:g}": v for share, v in self.top_covariance.items()},
            "published_top_covariance": {f"{share:g}": v for share, v in PUBLISHED.items()},
            "share_in_band": self.share_in_band,
            "fork_share": self.fork_share,
            "is_experimental": True,
        }

    def lines(self) -> list[str]:
        """The statistics as text."""
        way = "lowers" if self.mean_covariance > 0.0 else "raises"
        lines = [
            f"tokens (experimental): covariance of log p and advantage {self.mean_covariance:.4f} "
            f"over {counted(self.num_tokens, 'token', spec=',')}; to first order the next step "
            f"{way} entropy"
        ]
        lines += [
            f"  top {share:>6.2%} of tokens  {value:8.3f}   published {PUBLISHED[share]:.3f}"
            for share, value in self.top_covariance.items()
        ]
        if self.fork_share is not None:
            lines.append(f"  forking tokens: {self.fork_share:.1%} (20% at the first step)")
        return lines


def token_dynamics(rows: Sequence[TokenRow]) -> TokenDynamics:
    """Covariance within each step's batch, over all tokens; forks of the last step.

    Raises:
        HistoryError: There is no token.
    """
    by_step: dict[int, list[TokenRow]] = {}
    for row in rows:
        if len(row.logprobs):
            by_step.setdefault(row.step, []).append(row)
    if not by_step:
        raise HistoryError("token log: no rollout has a token")
    parts = [
        token_covariance(
            np.concatenate([np.asarray(row.logprobs, dtype=float) for row in batch]),
            np.concatenate([np.full(len(row.logprobs), row.advantage) for row in batch]),
        )
        for batch in by_step.values()
    ]
    covariance = np.concatenate(parts)
    band = threshold("entropy_covariance").values
    return TokenDynamics(
        num_tokens=int(covariance.size),
        mean_covariance=float(covariance.mean()),
        top_covariance=top_covariance(covariance),
        share_in_band=float(((covariance >= band["low"]) & (covariance <= band["high"])).mean()),
        fork_share=_forks(by_step),
    )


def _forks(by_step: Mapping[int, Sequence[TokenRow]]) -> float | None:
    first, last = (
        np.concatenate([np.asarray(row.entropies, dtype=float) for row in by_step[step]])
        for step in (min(by_step), max(by_step))
    )
    if len(by_step) < 2 or not first.size or not last.size:
        return None
    return fork_share(last, float(np.quantile(first, FORK_QUANTILE)))
