"""How often the intervals of ``rlrisk mismatch`` hold the truth.

``nice python -m tests.benchmarks.mismatch_coverage [--reps 400] [--json FILE]``

The log ratio of trainer and sampler of a token is Gaussian, of a spread that its prompt has and of
the mean that makes the ratio 1 on average, as it is where the sampler draws the tokens. A few
tokens have ten times that spread and more. Rollouts have 5 to 29 tokens. The truths are exact, but
for ``log_ppl_abs_diff``, whose truth is the mean of 1.6 million rollouts.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from mlflow_rlrisk.statistics import ratio_interval
from mlflow_rlrisk.statistics.mismatch import mismatch_sums
from mlflow_rlrisk.train_inference_mismatch import BOUNDS
from tests.benchmarks.coverage import NUM_SEEDS, kept_bootstrap
from tests.benchmarks.held import Held, run

Array = npt.NDArray[np.float64]
LARGEST, SHAPES = 0.12, (1.0, 3.0)
"""A prompt's spread of the log ratio, nats: this times a Beta of these shapes, .03 on average."""
OUTLIERS = (0.0, 0.002, 0.01)
"""Shares of tokens whose spread is `_outlying`."""
SIZES = (50, 200)
ROLLOUTS, LENGTHS, CLIP = 16, np.arange(5, 30), 2.0
RESAMPLES, NODES = 2000, 2000


def _outlying(spread: Array) -> Array:
    return 0.2 + 10.0 * spread


def draw(rng: np.random.Generator, size: int, outliers: float) -> list[list[Array]]:
    """Log ratios of every rollout of every prompt."""
    lengths = rng.choice(LENGTHS, (size, ROLLOUTS))
    spread = np.repeat(LARGEST * rng.beta(*SHAPES, size), lengths.sum(axis=1))
    spread = np.where(rng.random(spread.size) < outliers, _outlying(spread), spread)
    tokens = rng.normal(-(spread**2) / 2.0, spread)
    rollouts = np.split(tokens, np.cumsum(lengths.ravel())[:-1])
    return [rollouts[start : start + ROLLOUTS] for start in range(0, len(rollouts), ROLLOUTS)]


def truths(outliers: float) -> dict[str, float]:
    """What each estimate estimates."""
    spread = LARGEST * stats.beta.ppf((np.arange(NODES) + 0.5) / NODES, *SHAPES)
    chances, spreads = (1.0 - outliers, outliers), (spread, _outlying(spread))

    def token(mean: Callable[[Array], Array]) -> Array:
        """Mean over the tokens of a prompt of each spread."""
        return np.sum([p * mean(s) for p, s in zip(chances, spreads, strict=True)], axis=0)

    def power(exponent: float) -> Array:
        """Mean of the ratio to a power."""
        return token(lambda s: np.exp((exponent**2 - exponent) * s**2 / 2.0))

    def truncated(s: Array) -> Array:
        mean, edge = -(s**2) / 2.0, np.log(CLIP)
        inside = stats.norm.cdf((edge - mean - s**2) / s)
        return np.asarray(inside + CLIP * stats.norm.sf((edge - mean) / s))

    def beyond(s: Array) -> Array:
        law = stats.norm(-(s**2) / 2.0, s)
        return np.asarray(law.sf(np.log(CLIP)) + law.cdf(-np.log(CLIP)))

    def rollout(mean: Callable[[int], Array]) -> float:
        return float(np.mean([mean(int(length)).mean() for length in LENGTHS]))

    half = float(token(lambda s: s**2 / 2.0).mean())
    many = draw(np.random.default_rng(99), 100_000, outliers)
    return {
        "kl": half,
        "k3_kl": half,
        "chi2_token": float(power(2.0).mean()) - 1.0,
        "is_mean": float(token(truncated).mean()),
        "frac_beyond": float(token(beyond).mean()),
        "chi2_seq_product": rollout(lambda t: power(2.0) ** t) - 1.0,
        "chi2_seq_geometric": rollout(lambda t: power(2.0 / t) ** t) - 1.0,
        "log_ppl_diff": half,
        "log_ppl_abs_diff": float(np.mean([abs(x.mean()) for prompt in many for x in prompt])),
        "ppl_ratio": rollout(lambda t: power(-1.0 / t) ** t),
    }


def cells(reps: int) -> Iterator[list[dict[str, Any]]]:
    for outliers in OUTLIERS:
        known = truths(outliers)
        for size in SIZES:
            held = Held(known)
            for seed in range(reps):
                rng = np.random.default_rng([seed, size, int(1000 * outliers)])
                sums = mismatch_sums(draw(rng, size, outliers))
                above, below = (np.stack(side, axis=1) for side in zip(*sums.values(), strict=True))
                draws = kept_bootstrap(size, RESAMPLES, seed % NUM_SEEDS).ratios(above, below)
                for place, (name, sides) in enumerate(sums.items()):
                    held.add(name, *ratio_interval(draws[:, place], *sides, BOUNDS.get(name)))
            yield held.rows(outliers=outliers, N=size)


if __name__ == "__main__":
    run(cells, __doc__, reps=400)
