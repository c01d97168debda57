import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics import (
    audit_j_draws,
    audit_j_interval,
    audit_rates,
    observed_success,
    rogan_gladen,
    usable_signal,
    youden_j,
    youden_j_interval,
)

rate = st.floats(0.0, 1.0)


@given(rate, rate, rate)
def test_correction_brings_the_true_success_back(tpr: float, fpr: float, success: float) -> None:
    observed = observed_success(success, tpr, fpr)

    assert observed == pytest.approx(success * tpr + (1 - success) * fpr, abs=1e-12)
    if tpr - fpr > 0.01:
        assert rogan_gladen(min(observed, 1.0), tpr, fpr) == pytest.approx(success, abs=1e-9)


def test_usable_signal_is_the_squared_correlation_of_reward_and_truth() -> None:
    rng = np.random.default_rng(5)
    truth = rng.random(400_000) < 0.3
    reward = np.where(truth, rng.random(truth.size) < 0.8, rng.random(truth.size) < 0.1)

    measured = np.corrcoef(truth, reward)[0, 1] ** 2

    assert usable_signal(0.3, 0.8, 0.1) == pytest.approx(measured, abs=0.005)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_audit_rates_are_bayes_rule(tpr: float, fpr: float, success: float) -> None:
    accept = success * tpr + (1 - success) * fpr

    found = audit_rates(accept, success * tpr / accept, success * (1 - tpr) / (1 - accept))

    assert found.true_positive == pytest.approx(tpr, abs=1e-9)
    assert found.false_positive == pytest.approx(fpr, abs=1e-9)
    assert found.youden_j == pytest.approx(youden_j(tpr, fpr), abs=1e-9)


def test_the_interval_of_j_is_newcombes_published_one() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10, cases (a), (b), (e), (g).
    published = {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (5, 56, 0, 29): (-0.0381, 0.1926),
        (10, 10, 0, 20): (0.6791, 1.0),
    }

    for counts, expected in published.items():
        assert youden_j_interval(*counts) == pytest.approx(expected, abs=6e-5)


def test_the_audit_interval_keeps_a_spread_where_a_stratum_is_all_correct() -> None:
    # Resampling 100 of 100 correct would claim a false positive rate of exactly 0.
    low, high = audit_j_interval(0.3, accepted=(100, 100), rejected=(0, 100))

    assert 0.9 < low < 0.99
    assert high == 1.0  # the estimate itself


def test_audit_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(6)
    truth = audit_rates(0.3, 0.9, 0.2).youden_j
    covered = 0
    for _ in range(300):
        accepted = (int(rng.binomial(100, 0.9)), 100)
        rejected = (int(rng.binomial(100, 0.2)), 100)
        low, high = audit_j_interval(0.3, accepted, rejected, num_resamples=1000)
        covered += low <= truth <= high

    assert 0.91 <= covered / 300 <= 0.99


@pytest.mark.parametrize(("accept_rate", "precision", "missed"), [(0.3, 0.9, 0.2), (0.8, 0.6, 0.5)])
def test_the_draws_of_an_audit_of_nearly_everything_lie_at_the_rates_themselves(
    accept_rate: float, precision: float, missed: float
) -> None:
    audited = 10**8
    correct, wrong = (
        accept_rate * p + (1 - accept_rate) * m
        for p, m in ((precision, missed), (1 - precision, 1 - missed))
    )

    draws = audit_j_draws(
        accept_rate, (int(precision * audited), audited), (int(missed * audited), audited), 9
    )

    expected = accept_rate * (precision / correct - (1 - precision) / wrong)
    np.testing.assert_allclose(draws, expected, atol=1e-3)


def test_equal_seeds_give_equal_audit_draws() -> None:
    first = audit_j_draws(0.3, (9, 10), (2, 10), 50, seed=1)

    assert first.tobytes() == audit_j_draws(0.3, (9, 10), (2, 10), 50, seed=1).tobytes()
    assert np.abs(first).max() <= 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: youden_j(1.2, 0.0), "true_positive=1.2"),
        (lambda: youden_j(0.5, np.nan), "must be finite"),
        (lambda: observed_success(-0.1, 0.5, 0.5), "success=-0.1"),
        (lambda: rogan_gladen(0.5, 0.3, 0.3), "must be positive"),
        (lambda: rogan_gladen(0.5, 0.2, 0.3), "must be positive"),
        (lambda: usable_signal(0.0, 0.9, 0.0), "correlate with nothing"),
        (lambda: audit_rates(1.0, 1.0, 0.5), "one kind is missing"),
        (lambda: audit_rates(0.5, 0.0, 0.0), "one kind is missing"),
        (lambda: youden_j_interval(1, 0, 1, 2), "num_trials"),
        (lambda: audit_j_draws(0.0, (1, 2), (1, 2)), "accept_rate=0.0"),
        (lambda: audit_j_draws(0.5, (3, 2), (1, 2)), r"accepted=\(3, 2\)"),
        (lambda: audit_j_draws(0.5, (1, 2), (0, 0)), r"rejected=\(0, 0\)"),
    ],
)
def test_audits_that_show_nothing_are_refused(call: object, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        call()  # type: ignore[operator]
