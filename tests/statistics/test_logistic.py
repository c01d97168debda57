import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics import GaussianPrior, fit_logistic

ENDOMETRIAL = json.loads((Path(__file__).parents[1] / "data" / "endometrial.json").read_text())


def test_firth_gives_the_published_coefficients_where_a_feature_separates() -> None:
    rows = np.array(ENDOMETRIAL["rows"])

    fit = fit_logistic(rows[:, :3], rows[:, 3] == 1.0)

    assert fit.intercept == pytest.approx(ENDOMETRIAL["intercept"], rel=1e-6)
    np.testing.assert_allclose(fit.slopes, ENDOMETRIAL["slopes"], rtol=1e-5)


@given(st.tuples(*[st.integers(0, 9)] * 4).filter(lambda t: t[0] + t[1] > 0 and t[2] + t[3] > 0))
def test_firth_adds_one_half_to_each_cell_of_a_two_by_two_table(table: tuple[int, ...]) -> None:
    wrong_0, right_0, wrong_1, right_1 = table
    feature = [[0.0]] * (wrong_0 + right_0) + [[1.0]] * (wrong_1 + right_1)
    labels = [False] * wrong_0 + [True] * right_0 + [False] * wrong_1 + [True] * right_1

    fit = fit_logistic(feature, np.array(labels))

    logit_0 = np.log((right_0 + 0.5) / (wrong_0 + 0.5))
    assert fit.intercept == pytest.approx(logit_0, abs=1e-6)
    assert fit.slopes[0] == pytest.approx(
        np.log((right_1 + 0.5) / (wrong_1 + 0.5)) - logit_0, abs=1e-6
    )


def test_a_gaussian_prior_around_zero_is_a_ridge_penalty() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(40, 2))
    labels = rng.random(40) < 1 / (1 + np.exp(-features[:, 0]))
    prior = GaussianPrior(np.zeros(3), np.array([1e6, 0.8, 0.8]))

    fit = fit_logistic(features, labels, prior)

    ridge = LogisticRegression(C=0.8**2, tol=1e-10, max_iter=10_000).fit(features, labels)
    np.testing.assert_allclose(fit.slopes, ridge.coef_[0], atol=1e-5)
    assert fit.intercept == pytest.approx(float(ridge.intercept_[0]), abs=1e-5)
    np.testing.assert_allclose(
        fit.probability(features), ridge.predict_proba(features)[:, 1], atol=1e-5
    )


def test_without_outcomes_that_speak_the_prior_stands() -> None:
    prior = GaussianPrior(np.array([0.0, 1.0]), np.array([2.0, 1.0]))

    fit = fit_logistic([[0.0], [0.0]], np.array([False, True]), prior)

    assert fit.slopes[0] == pytest.approx(1.0)
    assert fit.intercept == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_order_of_the_rows_changes_nothing(seed: int, is_firth: bool) -> None:
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(12, 1)), rng.random(12) < 0.5
    order = rng.permutation(12)
    prior = None if is_firth else GaussianPrior(np.array([0.0, 1.0]), np.array([2.0, 1.0]))

    one = fit_logistic(features, labels, prior)
    other = fit_logistic(features[order], labels[order], prior)

    assert one.intercept == pytest.approx(other.intercept, abs=1e-7)
    np.testing.assert_allclose(one.slopes, other.slopes, atol=1e-7)
    np.testing.assert_allclose(one.probability(features[order]), other.probability(features[order]))


def test_collinear_features_and_foreign_labels_are_refused() -> None:
    with pytest.raises(StatisticsError, match="collinear"):
        fit_logistic([[1.0], [1.0], [1.0]], np.array([True, False, True]))
    with pytest.raises(StatisticsError, match="one boolean"):
        fit_logistic([[1.0], [2.0]], np.array([1, 0]))
    with pytest.raises(StatisticsError, match="rows and columns"):
        fit_logistic([1.0, 2.0], np.array([True, False]))
