"""How often intervals of what a checkpoint solves or answers beside another hold the truth.

``nice python -m tests.benchmarks.answers_coverage [--reps 400] [--json FILE]``

Problems lost and gained are of the pairs of ``paired.py``; answers lost and new of a checkpoint
whose chances of every answer are squared, as sharpening would.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from mlflow_rlrisk.lineage.measures import mean_estimate
from mlflow_rlrisk.lineage.modes import MODE_SIZE, Sample, answer_modes
from mlflow_rlrisk.statistics import pass_at_k
from tests.benchmarks.coverage import NUM_SEEDS, kept_bootstrap
from tests.benchmarks.held import Held, run
from tests.benchmarks.paired import populations
from tests.coverage_populations import POPULATIONS, Population

Array = npt.NDArray[np.float64]
DESIGNS = ((50, 16), (50, 64), (200, 16), (200, 64))
RESAMPLES = 2000


def problems(before: Array, after: Array, num_prompts: int, num_samples: int, reps: int) -> Held:
    """Problems solved within half of the rollouts before and not after, and the other way round."""
    k = num_samples // 2
    solved = 1.0 - (1.0 - before) ** k, 1.0 - (1.0 - after) ** k
    held = Held(
        {
            "lost": float((solved[0] * (1.0 - solved[1])).mean()),
            "gained": float((solved[1] * (1.0 - solved[0])).mean()),
        }
    )
    scored = np.full(num_prompts, num_samples)
    for seed in range(reps):
        rng = np.random.default_rng([seed, num_prompts, num_samples])
        row = rng.integers(0, before.size, num_prompts)
        old, new = (
            pass_at_k(rng.binomial(num_samples, each[row]), scored, k) for each in (before, after)
        )
        columns = np.stack([old * (1.0 - new), new * (1.0 - old)], axis=1)
        draws = kept_bootstrap(num_prompts, RESAMPLES, seed % NUM_SEEDS).means(columns)
        for place, name in enumerate(held.truths):
            found = mean_estimate(columns[:, place], draws[:, place], 0.95, (0.0, 1.0))
            held.add(name, found.ci_low, found.ci_high)
    return held


def modes(population: Population, num_prompts: int, num_samples: int, reps: int) -> Held:
    """Answers lost and new, per prompt."""
    before = population.answers()
    after = before**2 / (before**2).sum(axis=1, keepdims=True)

    def lost(own: Array, other: Array) -> Array:
        is_mode = 1.0 - stats.binom.cdf(MODE_SIZE - 1, num_samples, own)
        return np.asarray(is_mode * stats.binom.pmf(0, num_samples, other))

    gone, new = lost(before, after), lost(after, before)
    held = Held(
        {
            "lost": population.mean(gone.sum(axis=1)),
            "new": population.mean(new.sum(axis=1)),
            "lost_correct": population.mean(gone[:, 0]),
        }
    )
    for seed in range(reps):
        rng = np.random.default_rng([seed, num_prompts, num_samples, 1])
        row = rng.choice(len(before), num_prompts, p=population.weight)
        samples = [_samples(rng.multinomial(num_samples, each[row])) for each in (before, after)]
        bootstrap = kept_bootstrap(num_prompts, RESAMPLES, seed % NUM_SEEDS)
        found = answer_modes(samples[0], samples[1:], bootstrap, 0.95)[0]
        for name in held.truths:
            estimate = getattr(found, name)
            held.add(name, estimate.ci_low, estimate.ci_high)
    return held


def _samples(counts: npt.NDArray[np.int64]) -> list[Sample]:
    return [
        (int(row.sum()), {str(k): (int(n), k == 0) for k, n in enumerate(row) if n})
        for row in counts
    ]


def cells(reps: int) -> Iterator[list[dict[str, Any]]]:
    for num_prompts, num_samples in DESIGNS:
        design = {"N": num_prompts, "n": num_samples}
        for name, pair in populations().items():
            held = problems(*pair, num_prompts, num_samples, reps)
            yield held.rows(of="problems", population=name, **design)
        for population in POPULATIONS:
            if population.is_ragged:  # as the other of its kind: every rollout has an answer here
                continue
            held = modes(population, num_prompts, num_samples, reps)
            yield held.rows(of="answers", population=population.name, **design)


if __name__ == "__main__":
    run(cells, __doc__, reps=400)
