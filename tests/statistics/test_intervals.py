import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution
from scipy.stats import binom, binomtest

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import (
    beta_posterior_interval,
    clopper_pearson,
    constant_interval,
    jeffreys,
    rule_of_three_upper,
    wilson,
)


@st.composite
def trials(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 300), label="n")
    return draw(st.integers(0, n), label="k"), n


@given(trials(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_clopper_pearson_and_wilson_agree_with_scipy(
    case: tuple[int, int], confidence: float
) -> None:
    k, n = case
    test = binomtest(k, n)

    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        reference = test.proportion_ci(confidence, method=method)
        assert ours(k, n, confidence) == pytest.approx((reference.low, reference.high), abs=1e-9)


@given(trials())
def test_jeffreys_is_the_beta_posterior_closed_at_the_ends(case: tuple[int, int]) -> None:
    k, n = case
    low, high = beta_distribution(k + 0.5, n - k + 0.5).ppf([0.025, 0.975])

    assert jeffreys(k, n) == pytest.approx((0.0 if k == 0 else low, 1.0 if k == n else high))
    posterior_low, posterior_high = beta_posterior_interval([k], [n])
    assert (posterior_low[0], posterior_high[0]) == pytest.approx((low, high), abs=1e-12)


@given(trials())
def test_intervals_are_mirror_images_and_contain_the_rate(case: tuple[int, int]) -> None:
    k, n = case

    for function in (clopper_pearson, wilson, jeffreys):
        low, high = function(k, n)
        mirrored = function(n - k, n)
        assert 0.0 <= low <= k / n <= high <= 1.0
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("success", [0.01, 0.1, 0.37, 0.5])
def test_clopper_pearson_never_covers_less_than_promised(success: float) -> None:
    n = 40
    covered = [low <= success <= high for low, high in (clopper_pearson(k, n) for k in range(41))]

    assert binom.pmf(np.arange(n + 1), n, success) @ covered >= 0.95


def test_nothing_in_n_trials_leaves_about_three_in_n() -> None:
    assert rule_of_three_upper(1000) == pytest.approx(3 / 1000, rel=0.01)
    assert (1 - rule_of_three_upper(16)) ** 16 == pytest.approx(0.05)


def test_the_constant_interval_covers_every_distribution_that_could_look_constant() -> None:
    # P prompts at 0.3, a hidden share q at the worst bound: all P look alike with (1-q)^P.
    num_prompts, value, bounds = 50, 0.3, (0.0, 1.0)
    low, high = constant_interval(value, num_prompts, bounds)

    for hidden in np.linspace(0, 1, 200):
        chance = (1 - hidden) ** num_prompts
        for worst in bounds:
            mean = (1 - hidden) * value + hidden * worst
            assert low <= mean <= high or chance <= 0.025 + 1e-12


def test_constant_intervals_stay_within_their_bounds() -> None:
    assert constant_interval(0.0, 1, (0.0, 2.0))[0] == 0.0
    assert constant_interval(2.0, 1, (0.0, 2.0))[1] == 2.0
    with pytest.raises(StatisticsError, match="must lie in the finite bounds"):
        constant_interval(3.0, 5, (0.0, 2.0))
    with pytest.raises(StatisticsError, match="must lie in the finite bounds"):
        constant_interval(3.0, 5, (0.0, np.inf))
    with pytest.raises(StatisticsError, match="must lie in the finite bounds"):
        constant_interval(np.nan, 5, (0.0, 1.0))


@pytest.mark.parametrize(
    ("k", "n"), [(-1, 4), (5, 4), (0, 0), (1.0, 4), (1, 4.0), (np.nan, 4), (True, 4)]
)
def test_counts_outside_their_contract_are_refused(k: object, n: object) -> None:
    for function in (clopper_pearson, wilson, jeffreys):
        with pytest.raises(StatisticsError, match="num_"):
            function(k, n)  # type: ignore[operator]


@pytest.mark.parametrize("confidence", [0.0, 1.0, np.nan, 95])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    for call in (
        lambda: clopper_pearson(1, 4, confidence),
        lambda: rule_of_three_upper(4, confidence),
        lambda: beta_posterior_interval([1], [4], confidence),
        lambda: constant_interval(0.0, 4, (0.0, 1.0), confidence),
    ):
        with pytest.raises(ConfigError, match="confidence="):
            call()


def test_a_prior_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"alpha=0\.0"):
        beta_posterior_interval([1], [4], alpha=0.0)
