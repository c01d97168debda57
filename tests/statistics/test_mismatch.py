import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import logprob_mismatch


def logprob_arrays(rng: np.random.Generator, num_rollouts: int) -> list[np.ndarray]:
    return [-rng.exponential(size=rng.integers(1, 9)) for _ in range(num_rollouts)]


def test_equal_logprobs_differ_in_nothing() -> None:
    same = logprob_mismatch([[-1.0, -2.0], [-0.5]], [[-1.0, -2.0], [-0.5]])

    assert (same.kl, same.k3_kl, same.chi2_token, same.chi2_seq_product) == (0, 0, 0, 0)
    assert (same.ppl_ratio, same.ess, same.is_mean, same.frac_beyond) == (1, 1, 1, 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_every_estimate_equals_its_formula_token_by_token(seed: int, num_rollouts: int) -> None:
    rng = np.random.default_rng(seed)
    sampler = logprob_arrays(rng, num_rollouts)
    trainer = [np.minimum(row + rng.normal(0, 0.7, row.size), 0.0) for row in sampler]
    ratios = [
        [math.exp(a - b) for a, b in zip(*rows, strict=True)]
        for rows in zip(trainer, sampler, strict=True)
    ]
    flat = [ratio for row in ratios for ratio in row]
    products = [math.prod(row) for row in ratios]
    clamped = [min(max(ratio, 0.5), 2.0) for ratio in flat]

    found = logprob_mismatch(trainer, sampler, clip=2.0)

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    geometric = [p ** (1 / len(row)) for p, row in zip(products, ratios, strict=True)]
    assert found.kl == pytest.approx(mean([-math.log(r) for r in flat]), abs=1e-12)
    assert found.k3_kl == pytest.approx(mean([r - math.log(r) - 1 for r in flat]), abs=1e-12)
    assert found.k3_kl >= 0
    assert found.chi2_token == pytest.approx(mean([r * r for r in flat]) - 1)
    assert found.chi2_seq_product == pytest.approx(mean([p * p for p in products]) - 1)
    assert found.chi2_seq_geometric == pytest.approx(mean([g * g for g in geometric]) - 1)
    assert found.ppl_ratio == pytest.approx(mean([1 / g for g in geometric]))
    assert found.training_ppl == pytest.approx(mean([math.exp(-row.mean()) for row in trainer]))
    assert found.rollout_ppl == pytest.approx(mean([math.exp(-row.mean()) for row in sampler]))
    assert found.log_ppl_abs_diff >= abs(found.log_ppl_diff) - 1e-12
    assert found.ess == pytest.approx(1 / mean([(w / mean(clamped)) ** 2 for w in clamped]))
    assert found.is_mean == pytest.approx(mean([min(r, 2.0) for r in flat]))
    beyond = mean([float(r > 2.0 or r < 0.5) for r in flat])
    assert found.frac_beyond == pytest.approx(beyond)
    assert found.max_abs == pytest.approx(max(abs(math.log(r)) for r in flat))


def test_kl_of_an_enumerated_vocabulary_is_the_closed_form() -> None:
    # Tokens in proportion to the sampler's probabilities make the mean an exact expectation.
    sampler, trainer = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    tokens = [0, 0, 1, 2]

    found = logprob_mismatch([np.log(trainer[tokens])], [np.log(sampler[tokens])])

    assert found.kl == pytest.approx(float(sampler @ np.log(sampler / trainer)), abs=1e-15)
    assert found.k3_kl == pytest.approx(found.kl, abs=1e-15)
    assert found.chi2_token == pytest.approx(float((trainer**2 / sampler).sum()) - 1)


def test_the_rollout_that_differs_most_is_named_first() -> None:
    sampler = [[-1.0] * 4, [-1.0] * 2, [-1.0]]
    trainer = [[-1.0] * 4, [-3.0, -1.0], [-0.5]]

    found = logprob_mismatch(trainer, sampler)

    assert found.outliers(2).tolist() == [1, 2]
    assert found.sequence_log_ppl_diff.tolist() == [0.0, 1.0, -0.5]
    assert found.sequence_max_abs.tolist() == [0.0, 2.0, 0.5]


def test_a_long_rollout_whose_product_overflows_stays_finite_and_huge() -> None:
    found = logprob_mismatch([[-1.0] * 2000], [[-2.0] * 2000])

    assert math.isfinite(found.chi2_seq_product)
    assert found.chi2_seq_product > 1e17


@pytest.mark.parametrize(
    ("trainer", "sampler", "message"),
    [
        ([], [], "empty"),
        ([[]], [[]], "rollout 0 has no token"),
        ([[-1.0], [-1.0, -1.0]], [[-1.0], [-1.0]], "rollout 1: 2 trainer"),
        ([[-1.0]], [[-1.0], [-1.0]], "1 rollout,"),
        ([[math.nan]], [[-1.0]], "not finite"),
        ([[-1.0]], [[-math.inf]], "not finite"),
        ([[0.5]], [[-1.0]], "at most 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(trainer: list, sampler: list, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        logprob_mismatch(trainer, sampler)


@pytest.mark.parametrize("clip", [1.0, 0.0, math.nan, math.inf])
def test_a_clip_that_cuts_nothing_or_everything_is_refused(clip: float) -> None:
    with pytest.raises(ConfigError, match="clip"):
        logprob_mismatch([[-1.0]], [[-1.0]], clip=clip)
