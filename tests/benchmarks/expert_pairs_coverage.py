"""How often intervals of two or three checkpoints on the same expert data hold the truth.

``nice python -m tests.benchmarks.expert_pairs_coverage [--reps 1000] [--json FILE]``

An example's level of surprisal is a gamma under the base; SFT multiplies it by a lognormal of its
own, RL that again. A token's surprisal is an exponential that the checkpoints share, times noise
of each. The truth is that of 400 000 examples.
"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np

from mlflow_rlrisk.experts.profile import (
    ExpertProfile,
    heldout_rises,
    overfit_gap,
    paired_forget_ratio,
)
from mlflow_rlrisk.lineage.measures import Measure
from mlflow_rlrisk.statistics import jackknife_ratios
from tests.benchmarks.coverage import NUM_SEEDS, kept_bootstrap
from tests.benchmarks.expert_coverage import LEVEL, POPULATION, SHAPES, SIZES
from tests.benchmarks.held import Held, run

STEPS = ((-0.7, 0.4), (0.15, 0.4))
"""Mean and spread of what SFT and RL add to the logarithm of an example's level."""
RESAMPLES = 2000


def draw(rng: np.random.Generator, size: int, shape: float) -> list[ExpertProfile]:
    """Base, SFT and RL on the same examples of 4 to 24 tokens."""
    tokens = rng.integers(4, 25, size)
    levels = [rng.gamma(shape, LEVEL / shape, size)]
    for mean, spread in STEPS:
        levels.append(levels[-1] * np.exp(rng.normal(mean, spread, size)))
    shared = rng.exponential(1.0, tokens.sum())
    starts = np.cumsum(tokens) - tokens
    zeros = np.zeros(size)
    return [
        ExpertProfile(
            identity={"expert": "drawn", "tokenizer": "drawn"},
            source="drawn",
            examples=np.ones(size),
            tokens=tokens.astype(float),
            nll=np.add.reduceat(
                np.repeat(level, tokens) * shared * rng.gamma(4.0, 0.25, shared.size), starts
            ),
            phi=zeros,
            mastered=zeros,
            disruptive=zeros,
        )
        for level in levels
    ]


def measure(profiles: list[ExpertProfile], seed: int) -> Measure:
    """The losses as a lineage has them."""
    return Measure(
        name="heldout_nll",
        values=np.array([each.loss for each in profiles]),
        draws=np.stack([each.loss_draws(RESAMPLES, seed) for each in profiles], axis=1),
        left_out=np.stack([jackknife_ratios(each.nll, each.tokens) for each in profiles], axis=1),
    )


def count(held: Held, rng: np.random.Generator, size: int, shape: float, seed: int) -> None:
    """Count the intervals of one set of examples."""
    base, sft, rl = profiles = draw(rng, size, shape)
    unseen = draw(rng, size, shape)[0]  # held-out examples of another set than SFT's own
    rises = heldout_rises([sft, rl], RESAMPLES, seed, 0.95)
    if rises[0].value == 0.0:  # the true order: of the least, the rise is 0 by definition
        held.add("heldout_rise", rises[1].ci_low, rises[1].ci_high)
    losses = measure(profiles, seed)
    above = losses.difference(2, 1, 0.95)
    held.add("above_least", above.ci_low, above.ci_high)
    settings = {"num_resamples": RESAMPLES, "seed": seed, "confidence": 0.95}
    forgotten = paired_forget_ratio(base, sft, rl, **settings).ends
    if forgotten is not None:
        held.add("forget_ratio", *forgotten)
    gap = overfit_gap(unseen, sft, **settings)
    held.add("overfit_gap", gap.ci_low, gap.ci_high)


def cells(reps: int) -> Iterator[list[dict[str, Any]]]:
    for shape in SHAPES:
        losses = [each.loss for each in draw(np.random.default_rng(99), POPULATION, shape)]
        rise, gain = losses[2] - losses[1], losses[0] - losses[1]
        truths = {
            "heldout_rise": rise / losses[1],
            "above_least": rise,
            "forget_ratio": rise / gain,
            "overfit_gap": gain,
        }
        for size in SIZES:
            held = Held(truths)
            with patch("mlflow_rlrisk.experts.profile.PromptBootstrap", kept_bootstrap):
                for seed in range(reps):
                    rng = np.random.default_rng([seed, size, int(10 * shape), 2])
                    count(held, rng, size, shape, seed % (NUM_SEEDS - 1))
            yield held.rows(shape=shape, N=size)


if __name__ == "__main__":
    run(cells, __doc__, reps=1000)
