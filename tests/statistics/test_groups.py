import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution

from mlflow_rlrisk.errors import ConfigError, InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics import (
    band_probability,
    band_share,
    critical_success,
    expected_group_variance,
    frac_all_correct,
    frac_all_wrong,
    group_advantages,
    group_signal,
    group_signal_from_values,
    posterior_below,
    reward_variance,
    saturated_probability,
    signal_sampling_variance,
    smallest_group_size,
    starved_probability,
    true_group_variance,
    true_signal,
)


@st.composite
def drawn(draw: st.DrawFn, largest: int = 8) -> tuple[int, int, int]:
    n = draw(st.integers(2, largest), label="n")
    return n, draw(st.integers(0, n), label="c"), draw(st.integers(2, n), label="g")


@given(drawn())
def test_the_split_of_groups_equals_brute_force_over_all_subsets(
    case: tuple[int, int, int],
) -> None:
    n, c, g = case
    subsets = list(itertools.combinations([1] * c + [0] * (n - c), g))
    mixed = Fraction(sum(len(set(subset)) > 1 for subset in subsets), len(subsets))
    solved = Fraction(sum(map(all, subsets)), len(subsets))

    assert group_signal([c], [n], g)[0] == float(mixed)
    assert frac_all_correct([c], [n], g)[0] == float(solved)
    assert frac_all_wrong([c], [n], g)[0] == float(1 - mixed - solved)


@given(drawn())
def test_expected_variance_equals_brute_force_over_all_subsets(case: tuple[int, int, int]) -> None:
    n, c, g = case
    subsets = list(itertools.combinations([1.0] * c + [0.0] * (n - c), g))

    for ddof in (0, 1):
        mean = np.mean([np.var(subset, ddof=ddof) for subset in subsets])
        assert expected_group_variance([c], [n], g, ddof)[0] == pytest.approx(mean, abs=1e-12)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0]), min_size=2, max_size=7), st.data())
def test_rewards_of_any_value_equal_brute_force_over_all_subsets(
    rewards: list[float], data: st.DataObject
) -> None:
    g = data.draw(st.integers(2, len(rewards)), label="g")
    subsets = list(itertools.combinations(rewards, g))
    mixed = np.mean([len(set(subset)) > 1 for subset in subsets])

    assert group_signal_from_values([rewards], g)[0] == pytest.approx(mixed, abs=1e-12)
    for ddof in (0, 1):
        mean = np.mean([np.var(subset, ddof=ddof) for subset in subsets])
        assert reward_variance([rewards], g, ddof)[0] == pytest.approx(mean, abs=1e-12)


@given(drawn(largest=100))
def test_counts_and_rewards_of_0_and_1_agree(case: tuple[int, int, int]) -> None:
    n, c, g = case
    rewards = [[1.0] * c + [0.0] * (n - c)]

    assert group_signal_from_values(rewards, g)[0] == pytest.approx(
        group_signal([c], [n], g)[0], abs=1e-14
    )
    assert reward_variance(rewards, g)[0] == pytest.approx(
        expected_group_variance([c], [n], g)[0], abs=1e-14
    )


@pytest.mark.parametrize("success", [Fraction(0), Fraction(1, 9), Fraction(1, 2), Fraction(1)])
@pytest.mark.parametrize("g", [2, 3, 6])
def test_signal_and_variance_are_unbiased(success: Fraction, g: int) -> None:
    n = 6
    weights = [comb(n, c) * success**c * (1 - success) ** (n - c) for c in range(n + 1)]
    counts, scored = np.arange(n + 1), np.full(n + 1, n)

    signal = sum(
        weight * Fraction(value).limit_denominator(1000)
        for weight, value in zip(weights, group_signal(counts, scored, g).tolist(), strict=True)
    )
    variance = np.dot(np.array(weights, dtype=float), expected_group_variance(counts, scored, g))

    assert signal == 1 - success**g - (1 - success) ** g
    assert float(signal) == pytest.approx(true_signal(float(success), g), abs=1e-15)
    assert variance == pytest.approx(true_group_variance(float(success), g), abs=1e-15)


@given(drawn(largest=200))
def test_signal_is_zero_exactly_where_the_group_cannot_be_mixed(
    case: tuple[int, int, int],
) -> None:
    n, c, g = case
    value = group_signal([c], [n], g)[0]

    assert (value == 0.0) == (c in (0, n))
    assert (expected_group_variance([c], [n], g)[0] == 0.0) == (c in (0, n))
    assert value == group_signal([n - c], [n], g)[0]
    assert value == float(1 - Fraction(comb(c, g) + comb(n - c, g), comb(n, g)))
    if g < n:
        assert value <= group_signal([c], [n], g + 1)[0]


def test_equal_rewards_have_no_variance_to_the_last_bit() -> None:
    # 0.1 summed three times is not 0.3: a mean that rounds must not look like a signal.
    assert reward_variance([[0.1] * 3, [1e300] * 7], 2).tolist() == [0.0, 0.0]
    assert group_signal_from_values([[0.1] * 3], 2).tolist() == [0.0]


def test_rewards_within_the_trainers_tolerance_are_equal() -> None:
    near, apart = [0.5, 0.5 + 5e-9], [0.5, 0.5 + 5e-8]

    assert group_signal_from_values([near, apart], 2).tolist() == [0.0, 1.0]


def test_prompts_with_different_numbers_of_rewards_stay_apart() -> None:
    # Equal rewards of neighbouring prompts must not join into one run.
    values = group_signal_from_values([[0.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], 2)

    np.testing.assert_allclose(values, [1.0, 0.0, 2 / 3], atol=1e-15)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "values is empty"),
        ([[0.0, np.nan]], "values of prompt 0 holds nan"),
        ([[0.0, 1.0], [1.0, np.inf]], "values of prompt 1 holds inf"),
        ([0.0, 1.0], "one flat sequence of numbers"),
        ([[[0.0], [1.0]]], "one flat sequence of numbers"),
        ([["a", "b"]], "one flat sequence of numbers"),
    ],
)
def test_rewards_outside_their_contract_are_refused(values: object, message: str) -> None:
    for function in (group_signal_from_values, reward_variance):
        with pytest.raises(StatisticsError, match=message):
            function(values, 2)  # type: ignore[operator]


@pytest.mark.parametrize("rewards", [[0.0, 1e200], [-1.7e308, 1.7e308]])
def test_rewards_whose_variance_overflows_are_refused(rewards: list[float]) -> None:
    with pytest.raises(StatisticsError, match="too large"):
        reward_variance([rewards], 2)


def test_too_few_rollouts_are_refused_and_named() -> None:
    message = r"a group of 8 needs 8 .*; 1 of 2 prompts have fewer \(first: prompt 1 with 7\)"
    with pytest.raises(InsufficientRolloutsError, match=message):
        group_signal([0, 0], [8, 7], 8)
    with pytest.raises(InsufficientRolloutsError, match="prompt 1 with 1"):
        group_signal_from_values([[0, 1], [1]], 2)
    with pytest.raises(InsufficientRolloutsError, match="prompt 0 with 1"):
        reward_variance([[1]], 2)


@pytest.mark.parametrize("g", [2, 3, 4, 5, 8, 16, 64, 1000, 10_000])
def test_critical_success_solves_the_polynomial(g: int) -> None:
    p = critical_success(g)

    assert 0 < p <= 0.5
    assert true_signal(p, g) == pytest.approx(0.5, abs=1e-12)
    assert true_signal(p * 0.999, g) < 0.5 or g == 2


def test_critical_success_of_a_pair_is_exactly_one_half() -> None:
    assert critical_success(2) == 0.5


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([2, 3, 8, 64]))
def test_starved_and_saturated_are_beta_posteriors_at_the_root(c: int, wrong: int, g: int) -> None:
    n = max(c + wrong, 1)
    edge = critical_success(g)
    posterior = beta_distribution(0.5 + c, 0.5 + n - c)

    assert starved_probability([c], [n], g)[0] == pytest.approx(posterior.cdf(edge), rel=1e-9)
    assert saturated_probability([c], [n], g)[0] == pytest.approx(
        posterior.sf(1 - edge), rel=1e-7, abs=1e-300
    )
    assert saturated_probability([n - c], [n], g)[0] == starved_probability([c], [n], g)[0]


def test_the_prior_moves_the_posterior_the_right_way() -> None:
    optimist = starved_probability([0], [4], 8, alpha=5.0, beta=0.5)[0]
    pessimist = starved_probability([0], [4], 8, alpha=0.5, beta=5.0)[0]

    assert optimist < starved_probability([0], [4], 8)[0] < pessimist
    assert saturated_probability([4], [4], 8, alpha=0.5, beta=5.0)[0] == optimist


@pytest.mark.parametrize("prior", [0.0, -1.0, np.nan, np.inf])
def test_a_prior_that_is_none_is_refused(prior: float) -> None:
    with pytest.raises(ConfigError, match="alpha="):
        starved_probability([1], [4], 8, alpha=prior)
    with pytest.raises(ConfigError, match="beta="):
        posterior_below([1], [4], 0.5, beta=prior)


def test_the_band_counts_solve_rates_with_its_edges() -> None:
    counts = np.arange(17)

    inside = band_share(counts, np.full(17, 16), 1 / 16, 14 / 16)

    assert inside.tolist() == [0.0] + [1.0] * 14 + [0.0] * 2
    assert band_share([0, 1], [1, 1], 0.0, 1.0).tolist() == [1.0, 1.0]
    assert band_share([0, 1], [2, 2], 0.5, 0.5).tolist() == [0.0, 1.0]
    assert band_probability([1], [16], 0.1, 0.9)[0] == pytest.approx(
        np.diff(beta_distribution(1.5, 15.5).cdf([0.1, 0.9]))[0], rel=1e-12
    )


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1), (np.nan, 0.5)])
def test_a_band_that_is_none_is_refused(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="low="):
        band_share([1], [4], low, high)
    with pytest.raises(ConfigError, match="low="):
        band_probability([1], [4], low, high)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.5, 1.0), (0.5, 0.5)])
def test_a_band_of_the_true_rate_has_a_width_and_no_end_of_the_scale(
    low: float, high: float
) -> None:
    with pytest.raises(ConfigError, match="low="):
        band_probability([1], [4], low, high)


@given(st.integers(2, 32), st.data())
def test_squared_advantages_sum_to_the_group_size_less_ddof(g: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, g - 1), label="k")
    rewards = np.array([1.0] * k + [0.0] * (g - k))

    for ddof in (0, 1):
        right, wrong = group_advantages(k, g, ddof)
        expected = (rewards - rewards.mean()) / rewards.std(ddof=ddof)
        np.testing.assert_allclose([right, wrong], [expected[0], expected[-1]], rtol=1e-12)
        assert k * right**2 + (g - k) * wrong**2 == pytest.approx(g - ddof)


@pytest.mark.parametrize("k", [0, 8, -1])
def test_a_group_that_is_not_mixed_has_no_advantages(k: int) -> None:
    with pytest.raises(StatisticsError, match="is mixed from 1 to 7"):
        group_advantages(k, 8)


@pytest.mark.parametrize("ddof", [-1, 2])
def test_a_divisor_nobody_uses_is_refused(ddof: int) -> None:
    for call in (
        lambda: expected_group_variance([1], [4], 2, ddof),
        lambda: reward_variance([[0, 1]], 2, ddof),
        lambda: group_advantages(1, 4, ddof),
        lambda: true_group_variance(0.5, 4, ddof),
    ):
        with pytest.raises(ConfigError, match="ddof="):
            call()


@given(st.floats(0.001, 0.5), st.floats(0.01, 0.99))
def test_the_smallest_group_size_reaches_the_target_and_one_less_does_not(
    success: float, target: float
) -> None:
    found = smallest_group_size(lambda g: float(true_signal(success, g)), target)

    if found is None:
        assert true_signal(success, 4096) < target
    else:
        assert true_signal(success, found) >= target
        assert found == 2 or true_signal(success, found - 1) < target


def test_no_group_size_helps_a_prompt_that_is_never_solved() -> None:
    assert smallest_group_size(lambda g: float(true_signal(0.0, g)), 0.5) is None


@pytest.mark.parametrize("success", [-0.1, 1.1, np.nan])
def test_a_probability_that_is_none_is_refused(success: float) -> None:
    with pytest.raises(StatisticsError, match="success"):
        true_signal(success, 8)


def test_the_sampling_variance_matches_a_simulation() -> None:
    rng = np.random.default_rng(7)
    counts = rng.binomial(16, 0.1, 200_000)

    simulated = group_signal(counts, np.full_like(counts, 16), 8).var()

    assert signal_sampling_variance(0.1, 16, 8) == pytest.approx(simulated, rel=0.02)
    assert signal_sampling_variance(0.0, 10_000, 8) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_signal_from_values([[0, 1]], 2, tolerance=-1.0), "tolerance=-1.0"),
        (lambda: group_signal_from_values([[0, 1]], 2, tolerance=np.nan), "tolerance=nan"),
        (lambda: posterior_below([1], [4], 0.0), "edge=0.0"),
        (lambda: posterior_below([1], [4], np.nan), "edge=nan"),
        (lambda: smallest_group_size(lambda _: 0.9, 1.0), "target=1.0"),
        (lambda: smallest_group_size(lambda _: 0.9, 0.0), "target=0.0"),
        (lambda: smallest_group_size(lambda _: 0.9, 0.5, largest=1), "largest=1"),
    ],
)
def test_settings_outside_their_range_are_refused(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()  # type: ignore[operator]
