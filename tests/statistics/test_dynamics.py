"""What a policy-gradient step does to entropy, against finite differences and known curves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy as shannon

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import (
    entropy_step,
    fit_entropy_law,
    fork_share,
    relative_drop,
    token_covariance,
    top_covariance,
)


@given(st.integers(0, 10_000))
def test_the_predicted_entropy_step_is_the_one_that_is_taken(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, advantages = rng.normal(size=5), rng.normal(size=5)
    p = softmax(logits)
    centred = advantages - p @ advantages
    step = 1e-5

    predicted = entropy_step(p, advantages)

    for change, slope in (
        (p * centred, predicted.policy_gradient),
        (centred, predicted.natural_gradient),
    ):
        ahead = shannon(softmax(logits + step * change))
        behind = shannon(softmax(logits - step * change))
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-7)


def test_a_bonus_for_the_likely_action_lowers_entropy_and_one_for_the_rare_raises_it() -> None:
    p = np.array([0.7, 0.2, 0.1])

    assert entropy_step(p, [1.0, 0.0, 0.0]).natural_gradient < 0.0
    assert entropy_step(p, [0.0, 0.0, 1.0]).natural_gradient > 0.0


def test_the_covariance_of_tokens_has_the_mean_that_numpy_gives() -> None:
    rng = np.random.default_rng(0)
    logprobs, advantages = -rng.exponential(size=500), rng.normal(size=500)

    shares = token_covariance(logprobs, advantages)

    assert shares.mean() == pytest.approx(np.cov(logprobs, advantages, ddof=0)[0, 1])
    np.testing.assert_allclose(token_covariance(logprobs - 3.0, advantages + 5.0), shares)
    top = top_covariance(shares)
    assert 0.0002 not in top  # less than one token of 500
    assert top[1.0] == pytest.approx(shares.mean())
    assert top[0.02] == pytest.approx(np.sort(shares)[-10:].mean())


def test_the_law_recovers_its_ceiling_within_the_interval_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    falling = np.linspace(1.2, 0.2, 40)
    curve = 0.6 - 0.15 * np.exp(falling)

    laws = [fit_entropy_law(falling, curve + rng.normal(0, 0.02, 40)) for _ in range(400)]

    hits = np.mean([law.ceiling_low <= 0.45 <= law.ceiling_high for law in laws])
    assert 0.92 <= hits <= 1.0  # serial correlation is allowed for, so at least 95 %
    assert np.mean([law.a for law in laws]) == pytest.approx(0.15, abs=0.003)


def test_the_ceiling_of_a_short_log_whose_noise_persists_lies_in_its_interval() -> None:
    # Student's interval of a plain fit holds it in 68 %, for such logs repeat each other.
    rng, num_logs, rho = np.random.default_rng(0), 20, 0.6
    falling = np.linspace(0.9, 0.15, num_logs)
    hits = 0
    for _ in range(1000):
        noise = rng.normal(0.0, 0.03, num_logs)
        for place in range(1, num_logs):
            noise[place] = rho * noise[place - 1] + (1.0 - rho**2) ** 0.5 * noise[place]

        law = fit_entropy_law(falling, 0.6 - 0.12 * np.exp(falling) + noise)

        hits += law.ceiling_low <= 0.48 <= law.ceiling_high
    assert hits >= 890


@pytest.mark.parametrize(
    ("entropy", "message"),
    [
        (np.linspace(1.0, 0.1, 7), "needs 8"),
        (np.linspace(1.0, 0.8, 20), "factor 1.5"),
        (np.linspace(0.1, 1.0, 20), "does not fall"),
        (np.zeros(20), "factor 1.5"),
        (np.geomspace(1e-17, 1e-19, 9), "too little for e"),
        (np.linspace(2000.0, 900.0, 9), "that of no token"),
    ],
)
def test_the_law_is_refused_where_it_would_mean_nothing(entropy: np.ndarray, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        fit_entropy_law(entropy, np.linspace(0.2, 0.5, entropy.size))


def test_settings_and_shapes_are_checked() -> None:
    with pytest.raises(ConfigError, match="confidence"):
        fit_entropy_law(np.linspace(1, 0.1, 9), np.ones(9), confidence=1.0)
    with pytest.raises(StatisticsError, match="one of each a log"):
        fit_entropy_law(np.linspace(1, 0.1, 9), np.ones(8))
    with pytest.raises(StatisticsError, match="one of each a token"):
        token_covariance([-1.0], [1.0, 2.0])
    with pytest.raises(StatisticsError, match="no token"):
        top_covariance([])
    with pytest.raises(StatisticsError, match="sum to"):
        entropy_step([0.5, 0.6], [1.0, 0.0])
    with pytest.raises(StatisticsError, match="above 0"):
        relative_drop(0.0, 0.1)
    with pytest.raises(StatisticsError, match="none below 0"):
        fork_share([-0.1], 0.5)
