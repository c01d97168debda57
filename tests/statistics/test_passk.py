import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics import pass_at_k, pass_at_k_bound, pass_at_ks, pass_hat_k


@st.composite
def drawn(draw: st.DrawFn, largest: int = 8) -> tuple[int, int, int]:
    n = draw(st.integers(1, largest), label="n")
    return n, draw(st.integers(0, n), label="c"), draw(st.integers(1, n), label="k")


@given(drawn())
def test_pass_at_k_and_pass_hat_k_equal_brute_force_over_all_draws(
    case: tuple[int, int, int],
) -> None:
    n, c, k = case
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))

    assert pass_at_k([c], [n], k)[0] == float(Fraction(sum(map(any, draws)), len(draws)))
    assert pass_hat_k([c], [n], k)[0] == float(Fraction(sum(map(all, draws)), len(draws)))


@given(drawn(largest=400))
def test_values_are_correctly_rounded(case: tuple[int, int, int]) -> None:
    n, c, k = case

    assert pass_at_k([c], [n], k)[0] == float(1 - Fraction(comb(n - c, k), comb(n, k)))
    assert pass_hat_k([c], [n], k)[0] == float(Fraction(comb(c, k), comb(n, k)))


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("success", [Fraction(0), Fraction(1, 7), Fraction(1, 2), Fraction(1)])
def test_pass_at_k_is_unbiased(success: Fraction, k: int) -> None:
    n = 6
    mean = sum(
        comb(n, c)
        * success**c
        * (1 - success) ** (n - c)
        * Fraction(float(pass_at_k([c], [n], k)[0])).limit_denominator(1000)
        for c in range(n + 1)
    )

    assert mean == 1 - (1 - success) ** k


@given(drawn(largest=60))
def test_pass_at_k_grows_with_k_and_with_c_and_bounds_pass_hat_k(
    case: tuple[int, int, int],
) -> None:
    n, c, k = case
    value = pass_at_k([c], [n], k)[0]

    assert 0.0 <= pass_hat_k([c], [n], k)[0] <= value <= 1.0
    if k < n:
        assert value <= pass_at_k([c], [n], k + 1)[0]
        assert pass_hat_k([c], [n], k + 1)[0] <= pass_hat_k([c], [n], k)[0]
    if c < n:
        assert value <= pass_at_k([c + 1], [n], k)[0]


@given(drawn(largest=60))
def test_all_of_k_correct_is_the_mirror_image_of_none_correct(case: tuple[int, int, int]) -> None:
    n, c, k = case

    assert pass_hat_k([c], [n], k)[0] == pytest.approx(1 - pass_at_k([n - c], [n], k)[0], abs=1e-15)


def test_pass_at_1_is_the_solve_rate() -> None:
    assert pass_at_k([3], [16], 1)[0] == pass_hat_k([3], [16], 1)[0] == 3 / 16


def test_ten_thousand_rollouts_neither_overflow_nor_lose_digits() -> None:
    # C(10000, 5000) is about 10^3008: far beyond a float.
    exact = 1 - Fraction(comb(9_999, 5_000), comb(10_000, 5_000))

    assert pass_at_k([1, 10_000, 0], [10_000] * 3, 5_000).tolist() == [float(exact), 1.0, 0.0]


def test_pass_at_k_refuses_a_prompt_with_too_few_scored_rollouts() -> None:
    # The usual estimator gives 1.0 here although nothing was ever correct.
    with pytest.raises(
        InsufficientRolloutsError,
        match=r"pass@3 needs 3 .*; 2 of 4 prompts have fewer \(first: prompt 1 with 2\)",
    ):
        pass_at_k([0, 0, 0, 0], [4, 2, 4, 1], k=3)


def test_one_short_prompt_stops_all_k() -> None:
    with pytest.raises(InsufficientRolloutsError, match="pass@4 needs 4"):
        pass_at_ks([0, 0], [4, 2], [1, 4])


def test_several_k_equal_one_at_a_time() -> None:
    correct, scored = np.array([0, 3, 8]), np.array([8, 9, 10])

    together = pass_at_ks(correct, scored, [1, 2, 8])

    assert list(together) == [1, 2, 8]
    for k, values in together.items():
        np.testing.assert_array_equal(values, pass_at_k(correct, scored, k))


def test_a_million_prompts_are_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    scored = rng.integers(8, 65, 1_000_000)
    correct = rng.integers(0, scored + 1)

    values = pass_at_k(correct, scored, 8)

    for prompt in rng.integers(0, scored.size, 50):
        n, c = int(scored[prompt]), int(correct[prompt])
        assert values[prompt] == float(1 - Fraction(comb(n - c, 8), comb(n, 8)))


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20), st.integers(2, 64))
def test_no_distribution_has_a_higher_pass_at_k_than_the_bound(
    success: list[float], k: int
) -> None:
    p = np.array(success)
    mean = min(float(p.mean()), 1.0)
    variance = min(float(p.var()), mean * (1 - mean))

    assert np.mean(1 - (1 - p) ** k) <= pass_at_k_bound(mean, variance, k) + 1e-9


def test_an_impossible_spread_is_refused() -> None:
    with pytest.raises(StatisticsError, match="no distribution"):
        pass_at_k_bound(0.5, 0.3, 2)
