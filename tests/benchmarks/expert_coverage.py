"""How often the intervals of the figures on expert data hold the truth.

``nice python -m tests.benchmarks.expert_coverage [--reps 600] [--json FILE]``

Examples are drawn whose tokens have surprisals from an exponential about a level of the example's
own, and that level from a gamma: the smaller its shape, the fewer examples hold most of the loss.
The truth is that of 400 000 examples.
"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np

from mlflow_rlrisk.experts.profile import DISRUPTIVE, MASTERED, ExpertProfile
from tests.benchmarks.coverage import NUM_SEEDS, kept_bootstrap
from tests.benchmarks.held import Held, run

SHAPES = (0.3, 1.0, 3.0)
SIZES = (50, 128, 200)
LEVEL = 0.5
"""Mean surprisal, nats a token."""
POPULATION = 400_000


def draw(rng: np.random.Generator, size: int, shape: float) -> ExpertProfile:
    """Examples of 4 to 24 tokens."""
    tokens = rng.integers(4, 25, size)
    levels = np.repeat(rng.gamma(shape, LEVEL / shape, size), tokens)
    surprisals = rng.exponential(levels)
    p = np.exp(-surprisals)
    starts = np.cumsum(tokens) - tokens

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.astype(float), starts)

    return ExpertProfile(
        identity={},
        source="drawn",
        examples=np.ones(size),
        tokens=tokens.astype(float),
        nll=total(surprisals),
        phi=total(p * (1.0 - p)),
        mastered=total(p > MASTERED),
        disruptive=total(p < DISRUPTIVE),
    )


def cells(reps: int) -> Iterator[list[dict[str, Any]]]:
    for shape in SHAPES:
        whole = draw(np.random.default_rng(99), POPULATION, shape)
        exact = whole.evidence(num_resamples=1, seed=0, confidence=0.95)
        for size in SIZES:
            held = Held({name: each.value for name, each in exact.items()})
            for seed in range(reps):
                rng = np.random.default_rng([seed, size, int(10 * shape)])
                with patch("mlflow_rlrisk.experts.profile.PromptBootstrap", kept_bootstrap):
                    found = draw(rng, size, shape).evidence(2000, seed % NUM_SEEDS, 0.95)
                for name, each in found.items():
                    held.add(name, each.ci_low, each.ci_high)
            yield held.rows(shape=shape, N=size)


if __name__ == "__main__":
    run(cells, __doc__, reps=600)
