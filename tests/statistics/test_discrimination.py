import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, rankdata
from sklearn.metrics import brier_score_loss

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics import (
    brier_score,
    brier_skill,
    decision_curve,
    expected_calibration_error,
    reliability_bins,
)

pairs = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.booleans()), min_size=1)


def split(rows: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in rows]), np.array([y for _, y in rows])


@given(pairs)
def test_the_brier_score_is_that_of_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    predicted, labels = split(rows)

    expected = brier_score_loss(labels, predicted, pos_label=True)
    assert brier_score(predicted, labels) == pytest.approx(expected)


def test_the_base_rate_has_no_skill_and_a_perfect_forecast_has_all_of_it() -> None:
    labels = np.array([True, False, False, False])
    base = np.full(4, 0.25)

    assert brier_skill(base, labels, base) == 0.0
    assert brier_skill(labels.astype(float), labels, base) == 1.0
    with pytest.raises(StatisticsError, match="perfect"):
        brier_skill(base, labels, labels.astype(float))


@given(pairs, st.integers(1, 6), st.randoms())
def test_bins_hold_every_row_once_and_never_part_equal_predictions(
    rows: list[tuple[float, bool]], num_bins: int, random: object
) -> None:
    predicted, labels = split(rows)

    bins = reliability_bins(predicted, labels, num_bins)

    assert len(bins) <= num_bins
    assert sum(each.num_rows for each in bins) == len(rows)
    assert sum(each.num_rows * each.observed for each in bins) == pytest.approx(labels.sum())
    # The middle rank of equal predictions, among all of them, says which of the bins is theirs.
    bin_of = ((rankdata(predicted) - 0.5) / len(rows) * num_bins).astype(int)
    expected = [predicted[bin_of == each].mean() for each in np.unique(bin_of)]
    assert [each.mean_predicted for each in bins] == pytest.approx(expected)
    order = np.random.default_rng(0).permutation(len(rows))
    again = reliability_bins(predicted[order], labels[order], num_bins)
    np.testing.assert_allclose(np.array(again), np.array(bins))


def test_a_bins_interval_is_clopper_pearsons_and_the_error_is_weighted() -> None:
    predicted = np.array([0.1] * 6 + [0.8] * 2)
    labels = np.array([True] + [False] * 5 + [True] * 2)

    bins = reliability_bins(predicted, labels, 2)

    exact = binomtest(1, 6).proportion_ci(0.95, method="exact")
    assert bins[0][1:4] == pytest.approx((1 / 6, exact.low, exact.high))
    expected = (6 * (1 / 6 - 0.1) + 2 * 0.2) / 8
    assert expected_calibration_error(bins) == pytest.approx(expected)


@settings(max_examples=100)
@given(pairs)
def test_the_decision_curve_counts_what_each_threshold_would_block(
    rows: list[tuple[float, bool]],
) -> None:
    predicted, labels = split(rows)
    hours = np.arange(0.0, len(rows))  # one cost nothing

    curve = decision_curve(predicted, labels, hours)

    for point in curve:
        chosen = [i for i, p in enumerate(predicted) if p >= point.threshold]
        assert point.failed_blocked == sum(bool(labels[i]) for i in chosen)
        assert point.good_blocked == sum(not labels[i] for i in chosen)
        assert point.hours_saved == pytest.approx(sum(hours[i] for i in chosen if labels[i]))
        assert point.hours_lost == pytest.approx(sum(hours[i] for i in chosen if not labels[i]))
    assert curve[-1].failed_blocked + curve[-1].good_blocked == len(rows)


def test_what_is_no_probability_no_label_or_no_cost_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"must lie in \[0, 1\]"):
        brier_score([1.5], np.array([True]))
    with pytest.raises(StatisticsError, match="one boolean"):
        brier_score([0.5], np.array([1]))
    with pytest.raises(StatisticsError, match="hours"):
        decision_curve([0.5], np.array([True]), [-1.0])
    with pytest.raises(StatisticsError, match="num_bins"):
        reliability_bins([0.5], np.array([True]), 0)
