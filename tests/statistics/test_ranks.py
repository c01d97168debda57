import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact, kendalltau, mannwhitneyu, rankdata, spearmanr

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics import (
    auroc,
    evened,
    exact_permutation_p,
    fisher_p_values,
    holm_adjusted,
    kendall_tau_b,
    mean_ranks,
    pair_counts,
    partial_spearman,
    sign_p_value,
    spearman,
    stratified_permutation_p,
    top1_regret,
)

small = st.integers(-3, 3).map(float)
pairs = st.lists(st.tuples(small, small), min_size=2, max_size=9)


def columns(rows: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.array(rows).T
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    return x, y


@given(pairs)
def test_correlations_with_ties_agree_with_scipy(rows: list[tuple[float, float]]) -> None:
    x, y = columns(rows)

    np.testing.assert_array_equal(mean_ranks(x), rankdata(x))
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert kendall_tau_b(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)


@given(pairs)
def test_pairs_are_counted_one_by_one(rows: list[tuple[float, float]]) -> None:
    x, y = np.array(rows).T
    signs = [
        np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
        for i, j in itertools.combinations(range(x.size), 2)
    ]

    counts = pair_counts(x, y)

    assert counts == (signs.count(1), signs.count(-1), signs.count(0))
    assert sum(counts) == math.comb(x.size, 2)


@settings(max_examples=30)
@given(st.lists(st.tuples(small, small), min_size=3, max_size=5))
def test_the_exact_p_value_equals_enumeration_with_scipy(rows: list[tuple[float, float]]) -> None:
    x, y = columns(rows)
    reached = abs(spearmanr(x, y).statistic) - 1e-12

    extreme = [
        abs(np.corrcoef(rankdata(x), rankdata(order))[0, 1]) >= reached
        for order in itertools.permutations(y)
    ]

    assert exact_permutation_p(x, y) == pytest.approx(np.mean(extreme))


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8])
def test_no_p_value_is_below_what_so_few_checkpoints_can_show(n: int) -> None:
    assert exact_permutation_p(np.arange(n), np.arange(n)) == 2 / math.factorial(n)


def test_one_stratum_is_no_stratum() -> None:
    x, y = [1.0, 5.0, 2.0, 4.0, 3.0], [2.0, 5.0, 3.0, 1.0, 4.0]

    assert spearman(x, y, strata=["a"] * 5) == pytest.approx(spearman(x, y))
    assert stratified_permutation_p(x, y, ["a"] * 5) == exact_permutation_p(x, y)


def test_strata_take_a_difference_between_families_out() -> None:
    # Simpson: the better family is better in both, within each family the order is reversed.
    x = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0])
    y = np.array([3.0, 2.0, 1.0, 13.0, 12.0, 11.0])
    family = np.array(["qwen"] * 3 + ["deepseek"] * 3)

    assert spearman(x, y) > 0.5
    assert spearman(x, y, strata=family) == pytest.approx(-1.0)


def test_the_stratified_p_value_equals_enumeration_in_any_order_of_checkpoints() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=7), rng.normal(size=7)
    family = np.array([1, 0, 1, 1, 0, 0, 1])

    reached = abs(spearman(x, y, family)) - 1e-12
    extreme = []
    first, second = np.flatnonzero(family == 0), np.flatnonzero(family == 1)
    for order_a in itertools.permutations(first):
        for order_b in itertools.permutations(second):
            moved = y.copy()
            moved[first], moved[second] = y[list(order_a)], y[list(order_b)]
            extreme.append(abs(spearman(x, moved, family)) >= reached)

    assert len(extreme) == 144
    assert stratified_permutation_p(x, y, family) == pytest.approx(np.mean(extreme))


def test_partial_correlation_removes_what_a_third_measure_explains() -> None:
    rng = np.random.default_rng(3)
    ceiling = rng.normal(size=2000)
    x, y = ceiling + rng.normal(size=2000), ceiling + rng.normal(size=2000)

    assert spearman(x, y) > 0.4
    assert abs(partial_spearman(x, y, ceiling)) < 0.08
    with pytest.raises(StatisticsError, match="orders a measure perfectly"):
        partial_spearman([1, 2, 3], [1, 3, 2], [1, 2, 3])


@given(st.lists(st.tuples(small, st.booleans()), min_size=2, max_size=20))
def test_auroc_equals_the_mann_whitney_statistic(rows: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in rows])
    labels = np.array([label for _, label in rows])
    assume(0 < labels.sum() < labels.size)

    expected = mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert auroc(scores, labels) == pytest.approx(
        expected / (labels.sum() * (~labels).sum()), abs=1e-12
    )


def test_a_tie_for_the_best_measure_is_charged_with_the_worst_outcome() -> None:
    assert top1_regret([1.0, 1.0, 0.0], [0.9, 0.2, 0.5]) == pytest.approx(0.7)
    assert top1_regret([1.0, 0.0], [0.9, 0.2]) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1, 1], [1, 2]), "x does not vary"),
        (lambda: spearman([1, 2], [1, 1]), "y does not vary"),
        (lambda: kendall_tau_b([1, 1], [1, 2]), "does not vary"),
        (lambda: spearman([1], [1]), "2 or more"),
        (lambda: spearman([1, 2], [1, 2, 3]), "one shape"),
        (lambda: spearman([1, np.nan], [1, 2]), "must be finite"),
        (lambda: spearman([1, 2], [1, 2], strata=[0]), "strata has shape"),
        (lambda: exact_permutation_p(range(10), range(10)), "3628800 orders"),
        (lambda: pair_counts([1, 1], [1, 2]).inversion_rate, "all are tied"),
        (lambda: auroc([1, 2], [True, True]), "needs both classes"),
        (lambda: auroc([1, 2], [0, 1]), "one boolean"),
        (lambda: top1_regret([], []), "needed"),
        (lambda: holm_adjusted([]), "needed"),
        (lambda: holm_adjusted([0.5, 1.5]), "p_values=1.5"),
        (lambda: sign_p_value([np.nan]), "must be finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(call: object, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        call()  # type: ignore[operator]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(
    p_values: list[float], level: float
) -> None:
    rejected = set()
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(int(index))

    adjusted = holm_adjusted(p_values)

    assert set(np.flatnonzero(adjusted <= level).tolist()) == rejected
    assert (adjusted >= p_values).all()


def test_two_success_rates_are_held_against_each_other_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    tries, tries_after = rng.integers(1, 65, size=(2, 400))
    tries_after[:200] = tries[:200]  # equal sides have tables that are exactly as likely
    solved = rng.binomial(tries, rng.random(400))
    solved_after = rng.binomial(tries_after, rng.random(400))

    found = fisher_p_values(solved, tries, solved_after, tries_after)

    expected = [
        fisher_exact([[a, n - a], [b, m - b]]).pvalue
        for a, n, b, m in zip(solved, tries, solved_after, tries_after, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert fisher_p_values(*np.zeros((4, 0), dtype=np.int64)).size == 0


def test_a_finite_number_of_draws_never_claims_certainty() -> None:
    assert sign_p_value(np.ones(999)) == 0.002
    assert sign_p_value(-np.ones(999)) == 0.002
    assert sign_p_value(np.zeros(10)) == 1.0
    assert sign_p_value(np.linspace(-1, 1, 1000)) == 1.0


@given(st.lists(st.tuples(st.integers(0, 40960), st.sampled_from([-1, 0, 1])), max_size=8))
def test_evened_shares_are_equal_where_the_counts_behind_them_are(
    drawn: list[tuple[int, int]],
) -> None:
    counts = np.array([count for count, _ in drawn])
    shares = np.array([count / 40960 + 1e-16 * rounding for count, rounding in drawn])

    found = evened(shares)

    order = np.sign(counts[:, None] - counts[None, :])
    assert (np.sign(found[:, None] - found[None, :]) == order).all()
    assert set(found) <= set(shares)
    assert (evened([shares, -shares])[1] == evened(-shares)).all()


def test_evened_figures_may_be_undefined() -> None:
    assert evened([np.inf, 0.5, np.inf, -np.inf]).tolist() == [np.inf, 0.5, np.inf, -np.inf]
