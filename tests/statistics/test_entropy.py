import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy as scipy_entropy

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import (
    control_variate_entropy,
    entropy_from_logits,
    entropy_temperature_slope,
    prompt_mean,
    sampled_nll,
    sequence_mean,
    sequence_means,
    token_entropy_bounds,
    token_mean,
)

logits = arrays(np.float64, st.integers(1, 12), elements=st.floats(-30, 30))


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


@given(logits, st.floats(0.1, 5.0), st.floats(-1e3, 1e3))
def test_entropy_agrees_with_scipy_and_ignores_a_shift(
    values: np.ndarray, temperature: float, shift: float
) -> None:
    entropy = entropy_from_logits(values, temperature)

    assert entropy == pytest.approx(scipy_entropy(softmax(values / temperature)), abs=1e-12)
    assert entropy_from_logits(values + shift, temperature) == pytest.approx(entropy, abs=1e-9)
    assert 0.0 <= entropy <= math.log(values.size) + 1e-12


@given(st.integers(1, 200_000))
def test_entropy_is_the_log_of_the_vocabulary_for_equal_logits(vocab_size: int) -> None:
    assert entropy_from_logits(np.zeros(vocab_size)) == pytest.approx(math.log(vocab_size))


@given(logits)
def test_entropy_rises_with_the_temperature_at_its_slope(values: np.ndarray) -> None:
    step = 1e-5
    difference = entropy_from_logits(values, 1 + step) - entropy_from_logits(values, 1 - step)

    slope = entropy_temperature_slope(values)

    assert slope >= 0.0
    assert slope == pytest.approx(difference / (2 * step), abs=1e-4)


def test_one_dominant_logit_has_no_entropy_and_never_a_negative_one() -> None:
    assert entropy_from_logits([1e4, 0.0, 0.0]) == 0.0
    assert entropy_from_logits([1e308, -1e308], temperature=0.5) == 0.0
    assert entropy_from_logits([7.0]) == 0.0


def test_masked_tokens_do_not_count() -> None:
    assert entropy_from_logits([0.0, -np.inf, 0.0]) == pytest.approx(math.log(2))


def test_every_position_is_its_own() -> None:
    block = np.random.default_rng(0).normal(size=(2, 3, 5))

    together = entropy_from_logits(block)

    assert together.shape == (2, 3)
    assert together[1, 2] == entropy_from_logits(block[1, 2])


def test_truncation_keeps_the_smallest_set_of_most_likely_tokens() -> None:
    probs = np.array([0.1, 0.5, 0.4])

    assert entropy_from_logits(np.log(probs), top_k=1) == 0.0
    assert entropy_from_logits(np.log(probs), top_p=0.45) == 0.0
    assert entropy_from_logits(np.log(probs), top_p=0.6) == pytest.approx(scipy_entropy([0.5, 0.4]))
    assert entropy_from_logits(np.log(probs), top_k=99) == pytest.approx(scipy_entropy(probs))
    assert entropy_from_logits(np.log(probs), top_k=2, top_p=0.55) == 0.0
    assert entropy_from_logits(np.log(probs), min_p=0.5) == pytest.approx(scipy_entropy([0.5, 0.4]))
    assert entropy_from_logits(np.log(probs), top_p=0.6, min_p=0.9) == 0.0


def test_a_nucleus_that_is_reached_exactly_takes_no_further_token() -> None:
    assert entropy_from_logits([0.0] * 4, top_p=0.5) == pytest.approx(math.log(2))
    assert entropy_from_logits([0.0] * 4, top_p=0.51) == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([np.nan, 0.0], "NaN"),
        ([np.inf, 0.0], "inf"),
        ([-np.inf, -np.inf], "no possible token"),
        (1.0, "vocabulary"),
        ([], "vocabulary"),
    ],
)
def test_logits_outside_their_contract_are_refused(values: object, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        entropy_from_logits(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": np.nan}, "temperature=nan"),
        ({"temperature": np.inf}, "temperature=inf"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"min_p": np.nan}, "min_p=nan"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_p": np.nan}, "top_p=nan"),
    ],
)
def test_settings_outside_their_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        entropy_from_logits([0.0, 1.0], **setting)  # type: ignore[arg-type]


@given(logits, st.data())
def test_bounds_contain_the_exact_entropy_and_meet_when_all_is_known(
    values: np.ndarray, data: st.DataObject
) -> None:
    probs = np.sort(softmax(values))[::-1]
    k = data.draw(st.integers(1, probs.size), label="K")

    lower, upper = token_entropy_bounds(probs[:k], probs.size)

    exact = entropy_from_logits(values)
    assert lower - 1e-9 <= exact <= upper + 1e-9
    assert lower <= upper <= math.log(probs.size) + 1e-9
    if k == probs.size:
        assert upper - lower < 1e-9


@pytest.mark.parametrize(
    ("probs", "vocab_size", "packed", "spread"),
    [
        ([0.5], 4, [0.5], [0.5 / 3] * 3),
        ([0.3, 0.3], 5, [0.3, 0.1], [0.4 / 3] * 3),
        ([0.6, 0.2, 0.1], 10, [0.1], [0.1 / 7] * 7),
    ],
)
def test_both_bounds_are_attained(
    probs: list[float], vocab_size: int, packed: list[float], spread: list[float]
) -> None:
    lower, upper = token_entropy_bounds(probs, vocab_size)

    assert lower == pytest.approx(scipy_entropy(probs + packed))
    assert upper == pytest.approx(scipy_entropy(probs + spread))


@given(logits, st.data())
def test_the_hybrid_estimate_is_unbiased(values: np.ndarray, data: st.DataObject) -> None:
    probs = np.sort(softmax(values))[::-1]
    assume(probs[-1] > 1e-12)
    k = data.draw(st.integers(1, probs.size), label="K")

    estimates = control_variate_entropy(
        np.tile(probs[:k], (probs.size, 1)),
        np.arange(probs.size) < k,
        np.log(probs),
        probs.size,
    )

    assert probs @ estimates == pytest.approx(entropy_from_logits(np.log(probs)), abs=1e-9)


def test_the_hybrid_estimate_has_a_fraction_of_the_variance_of_the_surprisal() -> None:
    weights = np.arange(1, 2001) ** -2.2
    probs = weights / weights.sum()
    estimates = control_variate_entropy(
        np.tile(probs[:20], (2000, 1)), np.arange(2000) < 20, np.log(probs), 2000
    )

    hybrid = probs @ (estimates - probs @ estimates) ** 2
    surprisal = probs @ np.log(probs) ** 2 - (probs @ np.log(probs)) ** 2

    assert hybrid < surprisal / 10


def test_float32_probabilities_may_break_the_laws_by_their_rounding_only() -> None:
    probs = softmax(np.linspace(0, -5, 50)).astype(np.float32)

    lower, upper = token_entropy_bounds(probs, 50)

    assert lower == pytest.approx(scipy_entropy(probs), abs=1e-4)
    assert upper == pytest.approx(scipy_entropy(probs), abs=1e-4)


@pytest.mark.parametrize(
    ("probs", "vocab_size", "message"),
    [
        ([0.2, 0.6], 10, "sorted"),
        ([-0.1], 10, "sorted"),
        ([0.9, 0.9], 10, "sums to 1.8"),
        ([0.2, 0.1], 4, "not the top of a distribution"),
        ([0.5, 0.4], 2, "not the top of a distribution"),
        ([np.nan], 10, "must be finite"),
        (0.5, 10, "K >= 1"),
    ],
)
def test_what_is_no_top_k_is_refused(probs: object, vocab_size: int, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        token_entropy_bounds(probs, vocab_size)  # type: ignore[arg-type]


def test_a_vocabulary_smaller_than_the_top_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size=1"):
        token_entropy_bounds([0.5, 0.5], 1)


@pytest.mark.parametrize("probs", [[1.000009], [1.0, 0.0], [0.7, 0.300009]])
def test_probabilities_a_rounding_above_1_have_no_negative_entropy(probs: list[float]) -> None:
    assert token_entropy_bounds(probs, len(probs))[0] >= 0.0


@pytest.mark.parametrize(
    ("logits", "temperature"),
    [([0.0, 1.0], 1e-110), ([0.0, 1.0], 5e-324), ([0.0, 1.0], 1e308), ([1e308, -1e308], 1.0)],
)
def test_a_slope_at_an_extreme_temperature_is_0_and_no_nan(
    logits: list[float], temperature: float
) -> None:
    assert entropy_temperature_slope(logits, temperature) == 0.0


@pytest.mark.parametrize("logits", [[[1.0, 2.0], [1.0]], ["a", 1.0]])
def test_logits_that_are_no_array_of_numbers_are_refused(logits: object) -> None:
    with pytest.raises(StatisticsError, match="logits is not an array of numbers"):
        entropy_from_logits(logits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("in_top", "logprob", "message"),
    [
        (1, -1.0, "boolean"),
        ([True], -1.0, "boolean"),
        (True, 0.5, "at most 0"),
        (True, np.nan, "must be finite"),
        (False, np.log(0.3), "more likely than what is left"),
    ],
)
def test_a_sampled_token_that_does_not_fit_is_refused(
    in_top: object, logprob: float, message: str
) -> None:
    with pytest.raises(StatisticsError, match=message):
        control_variate_entropy([0.5, 0.3], in_top, logprob, 10)  # type: ignore[arg-type]


def test_each_aggregation_counts_what_its_name_says() -> None:
    entropies = [[1.0, 1.0], [0.0] * 8, [0.5]]

    assert token_mean(entropies) == pytest.approx(2.5 / 11)
    assert sequence_means(entropies).tolist() == [1.0, 0.0, 0.5]
    assert sequence_mean(entropies) == 0.5
    assert prompt_mean(entropies, [0, 0, 1]) == 0.5
    assert prompt_mean(entropies, [0, 1, 1]) == 0.625


def test_the_sampled_nll_of_a_rollout_is_per_token() -> None:
    assert sampled_nll([[-1.0, -2.0], [0.0]]).tolist() == [1.5, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_mean([[1.0], []]), "rollout 1 has no token"),
        (lambda: token_mean([]), "entropies is empty"),
        (lambda: token_mean([[-0.1]]), "at least 0"),
        (lambda: sequence_mean([[np.nan]]), "not finite"),
        (lambda: sampled_nll([[0.1]]), "at most 0"),
        (lambda: sampled_nll([[]]), "rollout 0 has no token"),
        (lambda: prompt_mean([[1.0]], [0, 1]), "prompt_index"),
        (lambda: prompt_mean([[1.0], [1.0]], [0, 2]), "prompt 1 has no rollout"),
        (lambda: prompt_mean([[1.0]], [-1]), "at least 0"),
    ],
)
def test_token_values_outside_their_contract_are_refused(call: object, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        call()  # type: ignore[operator]
