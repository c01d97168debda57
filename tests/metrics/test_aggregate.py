"""Intervals of a report's metrics against the statistics that they name, by their own jackknife."""

import numpy as np
import pytest

from mlflow_rlrisk.metrics.aggregate import Aggregates, aggregate
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.statistics import (
    PromptBootstrap,
    confidence_draws,
    interval,
    mean_interval,
    ratio_draws,
    success_moments,
    success_variance,
)
from tests.prompt_statistics import prompt

NUM_RESAMPLES, SEED = 2000, 3
POPULATIONS = {
    "many prompts are solved at times": np.random.default_rng(0).binomial(16, 0.3, 60),
    "two prompts carry nearly all": np.array([0] * 46 + [1] * 12 + [16] * 2),
}

populations = pytest.mark.parametrize("solved", POPULATIONS.values(), ids=POPULATIONS.keys())


def aggregated(statistics: list[PromptStatistics]) -> Aggregates:
    return aggregate(
        statistics,
        group_size=8,
        max_new_tokens=256,
        num_resamples=NUM_RESAMPLES,
        seed=SEED,
        confidence=0.95,
    )


def bootstrap_of(statistics: list[PromptStatistics]) -> PromptBootstrap:
    return PromptBootstrap(len(statistics), NUM_RESAMPLES, SEED)


@populations
def test_a_mean_over_prompts_has_the_interval_of_its_column(solved: np.ndarray) -> None:
    statistics = [prompt(place, int(count), 16) for place, count in enumerate(solved)]

    found = aggregated(statistics).metrics["rlrisk/pass_at_1"]

    own = mean_interval(solved / 16, bootstrap_of(statistics), bounds=(0.0, 1.0))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx(
        (own.value, own.low, own.high)
    )
    assert found.method == own.method


@populations
def test_a_mean_over_tokens_has_the_interval_of_a_ratio(solved: np.ndarray) -> None:
    statistics = [
        prompt(place, int(count), 16, entropy=0.1 + 0.01 * place, tokens_each=5 + place % 7)
        for place, count in enumerate(solved)
    ]

    found = aggregated(statistics).metrics["rlrisk/token_entropy_token_mean"]

    above, below = (
        np.array([getattr(each, name) for each in statistics], dtype=float)
        for name in ("entropy_sum", "num_tokens")
    )
    plain = bootstrap_of(statistics).ratios(above[:, None], below[:, None])[:, 0]
    assert (found.ci_low, found.ci_high) == pytest.approx(
        interval(ratio_draws(plain, above, below))
    )


@pytest.mark.parametrize(
    ("solved", "size"),
    [
        *((solved, 16) for solved in POPULATIONS.values()),
        (np.random.default_rng(0).binomial(64, 0.5, 60), 64),  # all alike but for their noise
    ],
)
def test_the_spread_over_prompts_has_the_interval_of_each_prompt_left_out(
    solved: np.ndarray, size: int
) -> None:
    statistics = [prompt(place, int(count), size) for place, count in enumerate(solved)]

    found = aggregated(statistics).metrics["rlrisk/overdispersion"]

    def spread(counts: np.ndarray) -> float:
        mean = counts.mean() / size
        return success_variance(counts, np.full(counts.size, size)) / (mean * (1.0 - mean))

    def drawn_to(count: int) -> float:
        # The prompts a thousand times over and ten more: a slope, by brute force.
        many = np.repeat(solved, 1000)
        more = np.append(many, [count] * 10)
        return value + (spread(more) - spread(many)) * more.size / 10

    value = spread(solved)
    means = bootstrap_of(statistics).means(success_moments(solved, np.full(solved.size, size)))
    rates, squares, noises = means.T
    variances = (squares - rates**2) * solved.size / (solved.size - 1) - noises
    ends = [drawn_to(0), drawn_to(size // 2), drawn_to(size)]
    own = confidence_draws(
        variances / (rates * (1.0 - rates)),
        value,
        [spread(np.delete(solved, place)) for place in range(solved.size)],
        num_prompts=solved.size,
        bounds=(min(ends), max(ends)),
        is_spread=True,
    )
    expected = np.clip([value, *interval(own.draws)], 0.0, 1.0)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx(tuple(expected), abs=0.02)


def test_a_spread_that_is_smaller_than_its_noise_lies_in_its_interval() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(120):
        solved = rng.binomial(16, rng.beta(30.0, 30.0, 60))
        statistics = [prompt(place, int(count), 16) for place, count in enumerate(solved)]

        found = aggregated(statistics).metrics["rlrisk/overdispersion"]

        hits += found.ci_low <= 1.0 / 61.0 <= found.ci_high
    assert hits >= 110
