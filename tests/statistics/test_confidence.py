import numpy as np
import pytest
from scipy import stats
from scipy.stats import bootstrap as scipy_bootstrap

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import (
    IntervalMethod,
    PromptBootstrap,
    confidence_draws,
    interval,
    jackknife_means,
    num_carriers,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


def expanded(confidence: float, num_prompts: int, freedom: int) -> float:
    """Normal confidence whose quantile is Student's, times sqrt(P / (P - 1)) (Hesterberg 2015)."""
    quantile = stats.t.ppf((1 + confidence) / 2, freedom)
    return float(2 * stats.norm.cdf(quantile * np.sqrt(num_prompts / (num_prompts - 1))) - 1)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("has_long_tails", [True, False])
@pytest.mark.parametrize(
    ("num_prompts", "name", "method"),
    [
        (50, "BCa", IntervalMethod.BCA),
        (30, "BCa", IntervalMethod.BCA),
        (29, "percentile", IntervalMethod.PERCENTILE),
        (49, "percentile of a difference", IntervalMethod.PERCENTILE),
    ],
)
def test_ends_are_those_of_scipys_bootstrap_at_the_expanded_level(
    rng: np.random.Generator,
    confidence: float,
    has_long_tails: bool,
    num_prompts: int,
    name: str,
    method: IntervalMethod,
) -> None:
    values = rng.gamma(3.0, size=num_prompts) if has_long_tails else rng.uniform(size=num_prompts)
    # Satterthwaite's degrees of freedom of a variance.
    tails = int(2 * num_prompts / (stats.kurtosis(values, fisher=False) - 1))
    assert (tails < num_prompts - 1) == has_long_tails
    freedom = min(num_prompts - 1, tails)
    # 801 draws: the levels asked for fall on draws, where nothing is interpolated.
    reference = scipy_bootstrap(
        (values,),
        np.mean,
        n_resamples=801,
        method=name.split(" ")[0],
        confidence_level=expanded(confidence, num_prompts, freedom),
        rng=1,
    )

    found = confidence_draws(
        reference.bootstrap_distribution,
        values.mean(),
        jackknife_means(values),
        num_prompts=num_prompts,
        is_difference="difference" in name,
    )

    assert found.method is method
    ends = interval(found.draws, confidence)
    np.testing.assert_allclose(ends, reference.confidence_interval, rtol=1e-9)


def test_draws_keep_their_ranks_and_so_what_they_say_jointly(rng: np.random.Generator) -> None:
    values = rng.gamma(0.5, size=60)
    plain = PromptBootstrap(60, 500).means(values[:, None])[:, 0]

    found = confidence_draws(plain, values.mean(), jackknife_means(values), num_prompts=60)

    assert (np.argsort(found.draws) == np.argsort(plain)).all()


def test_an_index_that_follows_one_metric_has_the_ends_of_that_metric() -> None:
    # What the level rules lean on: percentiles pass through every monotone function.
    values = np.random.default_rng(3).uniform(size=50)
    plain = PromptBootstrap(50, 2001).means(values[:, None])[:, 0]
    draws = confidence_draws(plain, values.mean(), jackknife_means(values), num_prompts=50).draws

    low, high = interval(draws)

    assert interval(1 - draws**2) == pytest.approx((1 - high**2, 1 - low**2), rel=1e-3)


def test_carriers_count_the_prompts_that_make_the_spread() -> None:
    # k of P equal prompts apart from the rest: the skewness of a Bernoulli, in closed form.
    for k in (1, 2, 10):
        values = np.array([1.0] * k + [0.0] * (400 - k))
        skewness = stats.skew(values)
        assert num_carriers(jackknife_means(values)) == pytest.approx(400 / skewness**2)
    assert num_carriers([1.0, 1.0]) == np.inf


@pytest.mark.parametrize("mirrored", [False, True])
def test_where_few_prompts_carry_a_mean_its_end_allows_for_prompts_not_seen(mirrored: bool) -> None:
    values = np.array([0.2, 0.1] + [0.0] * 98)
    bounds = (0.0, 1.0)
    if mirrored:
        values = 1.0 - values
    plain = PromptBootstrap(100, 2000).means(values[:, None])[:, 0]
    given = (plain, float(values.mean()), jackknife_means(values))

    found = confidence_draws(*given, num_prompts=100, bounds=bounds)
    blind = confidence_draws(*given, num_prompts=100)

    # Jeffreys: none of 100 prompts is of the unseen kind.
    share = stats.beta.ppf(0.975, 0.5, 100.5)
    low, high = interval(found.draws)
    if mirrored:
        assert low == pytest.approx(given[1] * (1 - share), rel=1e-3)
        assert low < interval(blind.draws)[0]
    else:
        assert high == pytest.approx(given[1] + share * (1 - given[1]), rel=1e-3)
        assert high > interval(blind.draws)[1]
    assert found.method is IntervalMethod.SPARSE
    assert blind.method is IntervalMethod.BCA


def test_an_estimate_at_the_end_of_all_draws_has_no_bias_correction_and_still_an_interval() -> None:
    found = confidence_draws([1.0, 2.0, 3.0], 9.0, [1.0, 2.0] * 20, num_prompts=40)

    assert found.method is IntervalMethod.PERCENTILE
    assert np.isfinite(found.draws).all()


def test_extreme_skewness_and_bias_leave_finite_draws_in_order() -> None:
    draws = np.arange(4000.0)
    jackknife = np.array([1.0] + [0.0] * 39)

    found = confidence_draws(draws, 3998.0, jackknife, num_prompts=40).draws

    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert found.min() >= draws.min()
    assert found.max() <= draws.max()


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0]])
def test_draws_that_are_none_are_refused(bad: list[float]) -> None:
    with pytest.raises(StatisticsError, match="draws"):
        confidence_draws(bad, 0.0, [1.0, 2.0], num_prompts=2)
    with pytest.raises(StatisticsError, match="jackknife"):
        confidence_draws([1.0, 2.0], 1.0, bad, num_prompts=2)
    with pytest.raises(ConfigError, match="num_prompts=0"):
        confidence_draws([1.0, 2.0], 1.0, [1.0, 2.0], num_prompts=0)
