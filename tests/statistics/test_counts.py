import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlflow_rlrisk.errors import ConfigError, InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics import (
    CountPairs,
    band_probability,
    band_share,
    beta_posterior_interval,
    expected_group_variance,
    fit_beta_binomial,
    frac_all_correct,
    frac_all_wrong,
    group_signal,
    marked_share,
    pass_at_k,
    pass_hat_k,
    saturated_probability,
    starved_probability,
    success_variance,
)

ON_COUNTS = {
    "pass_at_k": lambda c, n: pass_at_k(c, n, 2),
    "pass_hat_k": lambda c, n: pass_hat_k(c, n, 2),
    "group_signal": lambda c, n: group_signal(c, n, 2),
    "frac_all_correct": lambda c, n: frac_all_correct(c, n, 2),
    "frac_all_wrong": lambda c, n: frac_all_wrong(c, n, 2),
    "expected_group_variance": lambda c, n: expected_group_variance(c, n, 2),
    "starved_probability": lambda c, n: starved_probability(c, n, 2),
    "saturated_probability": lambda c, n: saturated_probability(c, n, 2),
    "marked_share": marked_share,
    "band_share": lambda c, n: band_share(c, n, 0.1, 0.9),
    "band_probability": lambda c, n: band_probability(c, n, 0.1, 0.9),
    "beta_posterior_interval": beta_posterior_interval,
    "fit_beta_binomial": fit_beta_binomial,
    "success_variance": success_variance,
}

every_function = pytest.mark.parametrize("function", ON_COUNTS.values(), ids=ON_COUNTS.keys())


@every_function
@pytest.mark.parametrize(
    ("num_correct", "num_scored", "message"),
    [
        ([], [], r"num_correct has shape \(0,\)"),
        ([[1]], [[2]], r"num_correct has shape \(1, 1\)"),
        (1, 2, r"num_correct has shape \(\)"),
        ([1], [2, 2], r"num_correct has shape \(1,\), num_scored \(2,\)"),
        ([0, -1], [2, 2], r"num_correct\[1\]=-1: counts are at least 0"),
        ([2, 3], [2, 2], r"num_correct\[1\]=3: at most num_scored=2"),
        ([0.0, 1.0], [2, 2], "num_correct has dtype float64"),
        ([0, 1], [2.0, np.nan], "num_scored has dtype float64"),
        ([True, False], [2, 2], "num_correct has dtype bool"),
        ([None, 1], [2, 2], "num_correct has dtype object"),
        (["0", "1"], [2, 2], "num_correct has dtype <U1"),
    ],
)
def test_counts_outside_their_contract_are_refused_by_name(
    function: object, num_correct: object, num_scored: object, message: str
) -> None:
    with pytest.raises(StatisticsError, match=message):
        function(num_correct, num_scored)  # type: ignore[operator]


@every_function
def test_a_prompt_without_scored_rollouts_is_named(function: object) -> None:
    # All verifications failed: neither solved nor unsolved.
    with pytest.raises(InsufficientRolloutsError, match="prompt 1 with 0"):
        function([1, 0], [4, 0])  # type: ignore[operator]


@pytest.mark.parametrize("k", [0, -1, 1.5, True, float("nan"), None])
def test_a_number_of_attempts_that_is_none_is_refused(k: object) -> None:
    with pytest.raises(ConfigError, match="k="):
        pass_at_k([1], [4], k)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 0, 2.0, False])
@pytest.mark.parametrize("function", [group_signal, frac_all_wrong, starved_probability])
def test_a_group_of_fewer_than_two_is_refused(function: object, size: object) -> None:
    with pytest.raises(ConfigError, match="group_size="):
        function([1], [4], size)  # type: ignore[operator]


@given(
    arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 40)),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_gathering_the_pairs_gives_the_counts_back(
    scored: np.ndarray, extra: int, random: object
) -> None:
    correct = np.array([random.randint(0, int(n)) for n in scored])  # type: ignore[attr-defined]

    pairs = CountPairs.of(correct, scored + extra)

    np.testing.assert_array_equal(pairs.gather(pairs.num_correct), correct)
    np.testing.assert_array_equal(pairs.gather(pairs.num_scored), scored + extra)
    assert pairs.multiplicities().sum() == scored.size
    distinct = set(zip(pairs.num_correct.tolist(), pairs.num_scored.tolist(), strict=True))
    assert len(distinct) == pairs.num_correct.size


def test_sparse_and_dense_lookups_find_the_same_pairs() -> None:
    # One prompt with a huge n makes a table of all possible pairs larger than the prompt set.
    correct, scored = np.array([3, 0, 3, 100_000]), np.array([16, 16, 16, 200_000])

    sparse, dense = CountPairs.of(correct, scored), CountPairs.of(correct[:3], scored[:3])

    np.testing.assert_array_equal(sparse.gather(sparse.num_correct), correct)
    np.testing.assert_array_equal(sparse.gather(sparse.num_scored), scored)
    np.testing.assert_array_equal(dense.gather(dense.num_correct), correct[:3])


def test_small_integer_dtypes_do_not_overflow() -> None:
    value = expected_group_variance(
        np.array([100], dtype=np.uint8), np.array([200], dtype=np.uint8), 8
    )

    assert value[0] == pytest.approx(7 / 8 * 100 * 100 / (200 * 199), rel=1e-15)


@every_function
def test_the_order_of_prompts_changes_nothing_but_the_order(function: object) -> None:
    rng = np.random.default_rng(0)
    correct, order = rng.integers(0, 9, 50), rng.permutation(50)
    scored = np.full(50, 8)

    straight = function(correct, scored)  # type: ignore[operator]
    shuffled = function(correct[order], scored)  # type: ignore[operator]

    if isinstance(straight, np.ndarray):
        np.testing.assert_array_equal(straight[order], shuffled)
    elif isinstance(straight, tuple):
        np.testing.assert_array_equal(np.array(straight)[:, order], np.array(shuffled))
    elif isinstance(straight, float):
        assert straight == pytest.approx(shuffled, rel=1e-12)
    else:
        assert straight == shuffled
