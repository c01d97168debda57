import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution
from scipy.stats import betabinom

from mlflow_rlrisk.errors import InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics import (
    PromptBootstrap,
    beta_pass_at_k,
    beta_signal,
    fit_beta_binomial,
    moment_overdispersion,
    success_moments,
    success_variance,
    success_variance_of_means,
)

parameter = st.floats(0.05, 50.0)


@given(parameter, parameter, st.integers(2, 40))
def test_beta_means_agree_with_numerical_integration(alpha: float, beta: float, size: int) -> None:
    density = beta_distribution(alpha, beta)
    # Integrated over quantiles, where the density's poles at 0 and 1 do no harm.
    levels = (np.arange(4000) + 0.5) / 4000
    p = density.ppf(levels)

    assert beta_signal(alpha, beta, size) == pytest.approx(
        np.mean(1 - p**size - (1 - p) ** size), abs=2e-3
    )
    assert beta_pass_at_k(alpha, beta, size) == pytest.approx(
        np.mean(1 - (1 - p) ** size), abs=2e-3
    )


def test_beta_signal_agrees_with_adaptive_integration_to_many_digits() -> None:
    density = beta_distribution(2.0, 8.0)
    exact, _ = quad(lambda p: (1 - p**8 - (1 - p) ** 8) * density.pdf(p), 0, 1, epsabs=1e-13)

    assert beta_signal(2.0, 8.0, 8) == pytest.approx(exact, abs=1e-11)


def test_ten_thousand_attempts_neither_overflow_nor_vanish() -> None:
    assert beta_pass_at_k(0.5, 0.5, 10_000) == pytest.approx(
        betabinom(10_000, 0.5, 0.5).sf(0), abs=1e-10
    )
    assert beta_pass_at_k(1e-9, 1.0, 2) == pytest.approx(1.5e-9, rel=1e-6)


def test_parameters_may_be_arrays_over_prompts() -> None:
    correct = np.array([0, 3, 16])

    posterior_mean = beta_signal(0.5 + correct, 16.5 - correct, 8)

    assert posterior_mean.shape == (3,)
    assert posterior_mean[0] == pytest.approx(posterior_mean[2])
    assert posterior_mean[1] == beta_signal(3.5, 13.5, 8)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_a_parameter_that_is_none_is_refused(bad: float) -> None:
    for function in (beta_signal, beta_pass_at_k):
        with pytest.raises(StatisticsError, match="alpha"):
            function(bad, 1.0, 8)
        with pytest.raises(StatisticsError, match="beta"):
            function(1.0, bad, 8)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (2.0, 8.0), (0.2, 0.8), (30.0, 30.0)])
def test_the_fit_finds_the_likelihood_maximum_and_the_truth_near_it(
    alpha: float, beta: float
) -> None:
    rng = np.random.default_rng(17)
    correct = rng.binomial(16, rng.beta(alpha, beta, 5000))
    scored = np.full(5000, 16)

    fit = fit_beta_binomial(correct, scored)

    reached = betabinom(16, fit.alpha, fit.beta).logpmf(correct).sum()
    for factor_a in (0.95, 1.0, 1.05):
        for factor_b in (0.95, 1.0, 1.05):
            other = betabinom(16, fit.alpha * factor_a, fit.beta * factor_b)
            assert other.logpmf(correct).sum() <= reached + 1e-6
    assert fit.overdispersion == pytest.approx(1 / (alpha + beta + 1), abs=0.02)
    assert fit.mean == pytest.approx(alpha / (alpha + beta), abs=0.02)
    assert not fit.is_at_bound


def test_prompts_with_different_numbers_of_rollouts_are_fitted_together() -> None:
    rng = np.random.default_rng(18)
    scored = rng.integers(2, 33, 4000)
    correct = rng.binomial(scored, rng.beta(1.0, 3.0, 4000))

    fit = fit_beta_binomial(correct, scored)

    assert fit.overdispersion == pytest.approx(0.2, abs=0.02)
    assert fit.mean == pytest.approx(0.25, abs=0.02)


def test_more_dead_prompts_than_a_beta_explains_are_flagged() -> None:
    rng = np.random.default_rng(19)
    alive = rng.binomial(16, rng.beta(8.0, 8.0, 300))
    scored = np.full(400, 16)

    dead = fit_beta_binomial(np.concatenate([alive, np.zeros(100, dtype=int)]), scored)
    done = fit_beta_binomial(np.concatenate([alive, np.full(100, 16)]), scored)
    clean = fit_beta_binomial(alive, scored[:300])

    assert (dead.zero_inflated, dead.one_inflated) == (True, False)
    assert (done.zero_inflated, done.one_inflated) == (False, True)
    assert (clean.zero_inflated, clean.one_inflated) == (False, False)


def test_a_true_beta_is_rarely_flagged() -> None:
    rng = np.random.default_rng(20)
    flagged = 0
    for _ in range(100):
        fit = fit_beta_binomial(rng.binomial(16, rng.beta(0.5, 0.5, 200)), np.full(200, 16))
        flagged += fit.zero_inflated or fit.one_inflated

    assert flagged <= 12


@pytest.mark.parametrize("correct", [0, 16])
def test_a_checkpoint_that_is_all_wrong_or_all_right_ends_at_a_bound_and_says_so(
    correct: int,
) -> None:
    fit = fit_beta_binomial(np.full(50, correct), np.full(50, 16))

    assert fit.is_at_bound
    assert np.isfinite([fit.alpha, fit.beta, fit.overdispersion]).all()


def test_one_rollout_for_each_prompt_shows_no_spread() -> None:
    with pytest.raises(InsufficientRolloutsError, match="no prompt has more than 1"):
        fit_beta_binomial([0, 1, 1], [1, 1, 1])


def test_the_variance_of_success_is_unbiased() -> None:
    rng = np.random.default_rng(21)
    estimates = [
        success_variance(rng.binomial(8, rng.beta(2.0, 2.0, 50)), np.full(50, 8))
        for _ in range(3000)
    ]

    truth = beta_distribution(2.0, 2.0).var()
    assert np.mean(estimates) == pytest.approx(truth, abs=4 * np.std(estimates) / np.sqrt(3000))


def test_the_variance_equals_its_textbook_form() -> None:
    correct, scored = np.array([0, 3, 8, 5]), np.array([8, 8, 9, 6])
    rate = correct / scored

    expected = np.var(rate, ddof=1) - np.mean(
        correct * (scored - correct) / (scored**2 * (scored - 1.0))
    )

    assert success_variance(correct, scored) == pytest.approx(expected, abs=1e-15)


def test_the_variance_can_be_resampled_jointly_with_everything_else() -> None:
    rng = np.random.default_rng(22)
    correct, scored = rng.binomial(16, rng.beta(0.5, 0.5, 200)), np.full(200, 16)

    draws = success_variance_of_means(
        PromptBootstrap(200, 2000, seed=1).means(success_moments(correct, scored)), 200
    )

    assert draws.shape == (2000,)
    assert draws.mean() == pytest.approx(success_variance(correct, scored), abs=0.002)


def test_moments_and_likelihood_agree_on_a_true_beta() -> None:
    rng = np.random.default_rng(23)
    correct, scored = rng.binomial(32, rng.beta(1.0, 1.0, 5000)), np.full(5000, 32)

    by_moments = moment_overdispersion((correct / 32).mean(), success_variance(correct, scored))

    assert by_moments == pytest.approx(fit_beta_binomial(correct, scored).overdispersion, abs=0.01)


def test_spread_is_undefined_where_there_can_be_none() -> None:
    with pytest.raises(StatisticsError, match="all or no rollout"):
        moment_overdispersion(0.0, 0.0)
    with pytest.raises(StatisticsError, match="at least 2 prompts"):
        success_variance([1], [4])
    with pytest.raises(InsufficientRolloutsError, match="prompt 1 with 1"):
        success_variance([1, 1], [4, 1])
    with pytest.raises(StatisticsError, match="last axis must be 3"):
        success_variance_of_means([[1.0, 2.0]], 5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 3.0), (0.8, 1.2), (1.0, 1.0), (0.1, 0.3)])
def test_a_true_beta_is_rarely_called_a_misfit(alpha: float, beta: float) -> None:
    rng = np.random.default_rng(11)
    drawn = betabinom(16, alpha, beta).rvs(size=(60, 200), random_state=rng)

    flagged = sum(fit_beta_binomial(row, np.full(200, 16)).is_misfit for row in drawn)

    assert flagged <= 6  # 60 tests at 2.3 % give 1.4; more than 6 has a chance of 1 in 1000


@pytest.mark.parametrize("kinds", [(0.0, 0.5), (0.02, 0.9), (0.0, 0.3)])
def test_prompts_of_two_kinds_are_a_misfit_and_not_extrapolated(kinds: tuple[float, float]) -> None:
    rng = np.random.default_rng(12)
    success = np.where(np.arange(200) % 2 == 0, *kinds)

    fit = fit_beta_binomial(rng.binomial(16, success), np.full(200, 16))

    assert fit.is_misfit
    assert not fit.can_extrapolate


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_prompts_with_one_success_in_the_place_of_none_are_a_misfit(is_mirrored: bool) -> None:
    # Counted together with the lowest (or highest) rates they would fit.
    drawn = betabinom(16, 1.0, 3.0).rvs(size=300, random_state=np.random.default_rng(1))
    correct = np.where(drawn == 0, 1, drawn)

    fit = fit_beta_binomial(16 - correct if is_mirrored else correct, np.full(300, 16))

    assert fit.is_misfit


def test_too_few_prompts_to_fill_bands_are_not_called_a_misfit() -> None:
    assert not fit_beta_binomial([0, 4, 8], [8, 8, 8]).is_misfit


def test_a_fit_is_judged_where_prompts_have_different_numbers_of_rollouts() -> None:
    rng = np.random.default_rng(13)
    scored = rng.integers(4, 33, size=400)
    alike = betabinom(scored, 1.0, 2.0).rvs(random_state=rng)
    split = rng.binomial(scored, np.where(np.arange(400) % 2 == 0, 0.0, 0.5))

    assert not fit_beta_binomial(alike, scored).is_misfit
    assert fit_beta_binomial(split, scored).is_misfit
