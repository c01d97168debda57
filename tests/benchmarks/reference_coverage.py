"""How often intervals of what a checkpoint is beside another hold the truth.

``nice python -m tests.benchmarks.reference_coverage [--reps 400] [--json FILE]``

* Divergences of ``drift``: log ratios of a token under the two checkpoints are Gaussian, of a
  spread that its prompt has, with the mean that makes the ratio 1 on average.
* ``entropy_relative``: over a reference with 1.3 times the entropy, on the same prompts and on
  others. ``expert_length_ratio``: rollouts beside the answers of 192 examples.
* ``spread_ratio`` of ``compare``: five checkpoints, each with a tenth or a third less left to gain
  on every prompt than the one before.
"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from scipy import stats

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.lineage import LineageMember, build_table, compare_orders
from mlflow_rlrisk.lineage.drift import divergence
from mlflow_rlrisk.lineage.measures import mean_estimate
from mlflow_rlrisk.records import PromptStatistics
from tests.benchmarks.coverage import NUM_SEEDS, kept_bootstrap
from tests.benchmarks.held import Held, run
from tests.coverage_populations import POPULATIONS, Population, draw
from tests.prompt_statistics import prompts, report_of

Array = npt.NDArray[np.float64]
SIZES, ROLLOUTS, RESAMPLES, NODES = (50, 200), 16, 2000, 4000
LENGTHS = np.arange(5, 30)
LARGEST, SHAPES = (0.4, 1.6), (1.0, 3.0)
"""A prompt's spread of the log ratio, nats: one of these times a Beta of these shapes."""
GROWTH, EXPERTS, EXPERT_LENGTH = 1.3, 192, 50.0
GAINS, MEMBERS = (0.1, 1.0 / 3.0), 5
ENTROPY, LENGTH = "rlrisk/token_entropy_relative", "rlrisk/expert_length_ratio"


def divergences(size: int, largest: float, reps: int) -> Held:
    """Nats a token and a sequence, from one checkpoint to the next."""
    half = float(largest**2 * stats.beta(*SHAPES).moment(2) / 2.0)
    held = Held(
        {"per_token": half, "per_token_k3": half, "per_sequence": half * float(LENGTHS.mean())}
    )
    for seed in range(reps):
        rng = np.random.default_rng([seed, size, int(10 * largest)])
        ratios = [
            [rng.normal(-(s**2) / 2.0, s, n) for n in rng.choice(LENGTHS, ROLLOUTS)]
            for s in largest * rng.beta(*SHAPES, size)
        ]
        found = divergence(
            [[np.zeros_like(row) for row in rows] for rows in ratios],
            ratios,
            kept_bootstrap(size, RESAMPLES, seed % NUM_SEEDS),
            sampled_from="before",
            against="after",
            confidence=0.95,
        )
        for name in held.truths:
            held.add(name, getattr(found, name).ci_low, getattr(found, name).ci_high)
    return held


def ratios(population: Population, size: int, reps: int) -> Held:
    """Entropy over a reference's, and length over an expert's."""
    length = population.mean(population.lengths()) / EXPERT_LENGTH
    held = Held(
        {"same prompts": 1.0 / GROWTH, "other prompts": 1.0 / GROWTH, "expert length": length}
    )
    for seed in range(reps):
        rng = np.random.default_rng([seed, size, POPULATIONS.index(population)])
        own, other = (draw(population, size, ROLLOUTS, rng) for _ in range(2))
        again = rng.gamma(4.0 * ROLLOUTS, 1 / (4.0 * ROLLOUTS), size)
        tokens = 1.0 + rng.poisson(EXPERT_LENGTH - 1.0, EXPERTS)
        references = {
            "same prompts": GROWTH * _entropies(own) * again,
            "other prompts": GROWTH * _entropies(other),
        }
        for name, values in references.items():
            context = AssessmentContext(
                reference_entropy=_evidence(values, (seed + 1) % NUM_SEEDS),
                expert_tokens=_evidence(tokens, (seed + 2) % NUM_SEEDS),
            )
            with patch("mlflow_rlrisk.metrics.aggregate.PromptBootstrap", kept_bootstrap):
                sampling = SamplingConfig(num_samples=ROLLOUTS, seed=seed % NUM_SEEDS)
                found = report_of(
                    own, context=context, sampling=sampling, num_resamples=RESAMPLES
                ).metrics
            held.add(name, found[ENTROPY].ci_low, found[ENTROPY].ci_high)
        held.add("expert length", found[LENGTH].ci_low, found[LENGTH].ci_high)
    return held


def _entropies(statistics: list[PromptStatistics]) -> Array:
    return np.array([each.sequence_entropy for each in statistics])


def _evidence(values: Array, seed: int) -> Evidence:
    draws = kept_bootstrap(values.size, RESAMPLES, seed).means(values[:, None])[:, 0]
    found = mean_estimate(values, draws, 0.95)
    return Evidence(value=found.value, ci_low=found.ci_low, ci_high=found.ci_high, source="drawn")


def spread_ratios(size: int, gain: float, reps: int) -> Held:
    """Spread of pass@8 between checkpoints over that of pass@1."""
    first = stats.beta.ppf((np.arange(NODES) + 0.5) / NODES, 1.0, 2.0)
    left = [(1.0 - first) * (1.0 - gain) ** place for place in range(MEMBERS)]
    spreads = [np.std([(1.0 - each**k).mean() for each in left]) for k in (1, ROLLOUTS // 2)]
    held = Held({"pass@8 over pass@1": float(spreads[1] / spreads[0])})
    for seed in range(reps):
        rng = np.random.default_rng([seed, size, int(100 * gain)])
        row = rng.integers(NODES, size=size)
        members = []
        for place, each in enumerate(left):
            drawn = prompts(rng.binomial(ROLLOUTS, 1.0 - each[row]), ROLLOUTS, np.full(size, 0.3))
            report = report_of(drawn, model=f"v{place}", num_resamples=200)
            members.append(LineageMember(name=f"v{place}", report=report, statistics=tuple(drawn)))
        table = build_table(members, num_resamples=RESAMPLES, seed=seed % NUM_SEEDS)
        _, (found,) = compare_orders(table, [table.coverage_name])
        if found.spread_ratio_low is not None and found.spread_ratio_high is not None:
            held.add("pass@8 over pass@1", found.spread_ratio_low, found.spread_ratio_high)
    return held


def cells(reps: int) -> Iterator[list[dict[str, Any]]]:
    for size in SIZES:
        for largest in LARGEST:
            held = divergences(size, largest, reps)
            yield held.rows(of="divergence", population=f"spread up to {largest:g}", N=size)
        for population in POPULATIONS:
            if not population.is_ragged:
                held = ratios(population, size, reps)
                yield held.rows(of="ratio", population=population.name, N=size)
        for gain in GAINS:
            held = spread_ratios(size, gain, reps)
            yield held.rows(of="spread ratio", population=f"gains of {gain:.2f}", N=size)


if __name__ == "__main__":
    run(cells, __doc__, reps=400)
