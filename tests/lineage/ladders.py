"""Ladders of checkpoints whose true success rates are known."""

from collections.abc import Sequence

import numpy as np

from mlflow_rlrisk.lineage import LineageMember
from mlflow_rlrisk.records import PromptStatistics
from tests.prompt_statistics import prompts, report_of


def drawn(
    rates: np.ndarray, num_samples: int, entropy: float, seed: int
) -> tuple[PromptStatistics, ...]:
    """Solve counts drawn at these true rates, entropies spread around a mean."""
    rng = np.random.default_rng(seed)
    solved = rng.binomial(num_samples, rates)
    spread = np.maximum(rng.normal(entropy, entropy / 4, size=rates.size), 0.0)
    return tuple(prompts(solved, num_samples, spread))


def member(name: str, statistics: Sequence[PromptStatistics], **changes: object) -> LineageMember:
    return LineageMember(
        name=name,
        report=report_of(statistics, model=name, **changes),  # type: ignore[arg-type]
        statistics=tuple(statistics),
    )


def beta_rates(alpha: float, beta: float, num_prompts: int = 200, seed: int = 7) -> np.ndarray:
    """One and the same difficulty order for every member: quantiles, shuffled once."""
    from scipy import stats

    grid = stats.beta.ppf((np.arange(num_prompts) + 0.5) / num_prompts, alpha, beta)
    return np.random.default_rng(seed).permutation(np.asarray(grid))


def collapsing(num_samples: int = 32) -> list[LineageMember]:
    """pass@1 rises while success polarises and entropy falls."""
    rungs = {
        "base": (beta_rates(3.0, 5.0), 0.50),
        "epoch1": (beta_rates(3.0, 3.5), 0.40),
        "epoch5": (beta_rates(0.6, 0.55), 0.15),
        "epoch25": (beta_rates(0.08, 0.055), 0.04),
    }
    return [
        member(name, drawn(rates, num_samples, entropy, seed))
        for seed, (name, (rates, entropy)) in enumerate(rungs.items())
    ]
