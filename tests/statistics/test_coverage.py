"""How often intervals of means over prompts hold the truth, where plain percentiles do not."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from mlflow_rlrisk.statistics import (
    PromptBootstrap,
    confidence_draws,
    constant_interval,
    frac_all_correct,
    group_signal,
    interval,
    jackknife_means,
    pass_at_k,
)

Array = npt.NDArray[np.float64]
RUNS, NUM_PROMPTS, NUM_SCORED, GROUP = 1200, 50, 16, 8


def beta_binomial(alpha: float, beta: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return rng.binomial(NUM_SCORED, rng.beta(alpha, beta, size=(RUNS, NUM_PROMPTS)))


def of_counts(
    estimate: Callable[..., Array], counts: npt.NDArray[np.int64], argument: int
) -> Array:
    flat = counts.ravel()
    return estimate(flat, np.full_like(flat, NUM_SCORED), argument).reshape(counts.shape)


def coverage(
    samples: Array, truth: float, bounds: tuple[float, float] | None
) -> tuple[float, float]:
    """Share of intervals that hold the truth: those of `confidence_draws`, and percentiles."""
    plain = PromptBootstrap(NUM_PROMPTS, 600).means(samples.T)
    held = held_by_percentiles = 0
    for values, draws in zip(samples, plain.T, strict=True):
        low, high = interval(draws)
        held_by_percentiles += low <= truth <= high
        if np.ptp(values) == 0.0:
            assert bounds is not None
            low, high = constant_interval(float(values[0]), NUM_PROMPTS, bounds)
        else:
            found = confidence_draws(
                draws,
                float(values.mean()),
                jackknife_means(values),
                num_prompts=NUM_PROMPTS,
                bounds=bounds,
            )
            low, high = interval(found.draws)
        held += low <= truth <= high
    return held / RUNS, held_by_percentiles / RUNS


# The standard error of a share of 1200 at 95 % is 0.6 %.


def test_pass_at_1_of_a_u_shaped_set_is_held_95_times_in_100() -> None:
    samples = beta_binomial(0.5, 0.5, np.random.default_rng(1)) / NUM_SCORED

    held, _ = coverage(samples, 0.5, (0.0, 1.0))

    assert 0.93 <= held <= 0.97


def test_pass_at_1_of_a_hard_set_is_held_where_percentiles_lose_it() -> None:
    samples = beta_binomial(0.15, 1.5, np.random.default_rng(2)) / NUM_SCORED

    held, by_percentiles = coverage(samples, 0.15 / 1.65, (0.0, 1.0))

    assert 0.93 <= held <= 0.97
    assert by_percentiles < 0.93


@pytest.mark.parametrize(
    ("estimate", "argument", "truth"),
    [
        # Closed forms of Beta(2, 3): E(1 - p)^8 = B(2, 11)/B(2, 3), E p^8 = B(10, 3)/B(2, 3).
        (group_signal, GROUP, 1 - 1 / 11 - 1 / 55),
        (pass_at_k, 8, 1 - 1 / 11),
    ],
)
def test_signal_and_pass_at_8_of_a_balanced_set_are_held_95_times_in_100(
    estimate: Callable[..., Array], argument: int, truth: float
) -> None:
    counts = beta_binomial(2.0, 3.0, np.random.default_rng(3))

    held, _ = coverage(of_counts(estimate, counts, argument), truth, (0.0, 1.0))

    assert 0.93 <= held <= 0.97


def test_a_share_that_few_prompts_carry_is_not_lost() -> None:
    # Groups that are all correct are 1 in 55; a bootstrap of 50 prompts rarely has seen one.
    counts = beta_binomial(2.0, 3.0, np.random.default_rng(4))

    samples = of_counts(frac_all_correct, counts, GROUP)
    held, by_percentiles = coverage(samples, 1 / 55, (0.0, 1.0))

    assert held >= 0.93
    assert by_percentiles < 0.85


def test_entropies_with_a_long_tail_are_held() -> None:
    samples = np.random.default_rng(5).gamma(1.0, 0.3, size=(RUNS, NUM_PROMPTS))

    held, by_percentiles = coverage(samples, 0.3, None)

    assert 0.93 <= held <= 0.97
    assert by_percentiles < 0.93
