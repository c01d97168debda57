import numpy as np
import pytest

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import (
    CountPairs,
    IntervalMethod,
    PromptBootstrap,
    category_means,
    clopper_pearson,
    group_signal,
    interval,
    jackknife_means,
    jackknife_ratios,
    mean_interval,
    paired_draws,
    pass_at_k,
    ratio_draws,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_equal_seeds_give_equal_bytes_and_others_do_not(rng: np.random.Generator) -> None:
    values = rng.normal(size=(40, 3))

    first = PromptBootstrap(40, 100, seed=5).means(values)

    assert first.tobytes() == PromptBootstrap(40, 100, seed=5).means(values).tobytes()
    assert not np.array_equal(first, PromptBootstrap(40, 100, seed=6).means(values))


def test_the_draws_of_a_seed_are_those_on_record() -> None:
    # A changed generator, block size or dtype would silently change every published interval.
    draws = PromptBootstrap(5, 4, seed=7).means(np.arange(5.0)[:, None])[:, 0]

    indices = np.random.Generator(np.random.PCG64(7)).integers(0, 5, size=(4, 5))
    np.testing.assert_allclose(draws, indices.mean(axis=1))


def test_all_metrics_of_one_bootstrap_see_the_same_resamples(rng: np.random.Generator) -> None:
    values = rng.normal(size=(30, 2))
    bootstrap = PromptBootstrap(30, 200, seed=1)

    joint = bootstrap.means(np.column_stack([values, values[:, 0] - values[:, 1]]))

    np.testing.assert_allclose(joint[:, 2], joint[:, 0] - joint[:, 1], atol=1e-14)
    np.testing.assert_allclose(bootstrap.means(values), joint[:, :2], atol=1e-14)
    np.testing.assert_allclose(bootstrap.means(np.ones((30, 1))), 1.0, atol=1e-15)


def test_resamples_drawn_again_equal_resamples_kept(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = rng.normal(size=(3001, 2))
    kept = PromptBootstrap(3001, 500, seed=2)
    expected = kept.means(values)

    monkeypatch.setattr("mlflow_rlrisk.statistics.bootstrap._KEPT_WEIGHTS", 0)
    for block_draws in (1, 7_001, 1 << 22):  # odd sizes must not lose half a random word
        monkeypatch.setattr("mlflow_rlrisk.statistics.bootstrap._BLOCK_DRAWS", block_draws)
        again = PromptBootstrap(3001, 500, seed=2)

        np.testing.assert_allclose(again.means(values), expected, rtol=1e-12)
        np.testing.assert_allclose(again.means(values), expected, rtol=1e-12)


def test_more_prompts_than_16_bits_are_all_reached() -> None:
    num_prompts = 70_000
    late = (np.arange(num_prompts) >= 65_536).astype(float)

    draws = PromptBootstrap(num_prompts, 20, seed=3).means(late[:, None])

    assert draws.mean() == pytest.approx(late.mean(), rel=0.05)


def test_spread_of_the_draws_is_the_standard_error_of_the_mean(rng: np.random.Generator) -> None:
    values = rng.exponential(size=200)

    draws = PromptBootstrap(200, 20_000, seed=4).means(values[:, None])[:, 0]

    assert draws.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.03)
    assert draws.mean() == pytest.approx(values.mean(), abs=4 * draws.std() / np.sqrt(20_000))


def test_ratios_are_ratios_of_sums(rng: np.random.Generator) -> None:
    tokens = rng.integers(1, 50, size=(60, 1)).astype(float)
    entropy = tokens * rng.uniform(0.1, 0.5, size=(60, 1))
    bootstrap = PromptBootstrap(60, 300, seed=5)

    draws = bootstrap.ratios(entropy, tokens)

    np.testing.assert_allclose(draws, bootstrap.sums(entropy) / bootstrap.sums(tokens))
    constant = bootstrap.ratios(tokens * 0.25, tokens)
    np.testing.assert_allclose(constant, 0.25)


def test_limits_of_a_mean_are_those_of_a_ratio_to_the_number_of_prompts(
    rng: np.random.Generator,
) -> None:
    values = rng.exponential(size=60)
    bootstrap = PromptBootstrap(60, 4000, seed=3)
    plain = bootstrap.ratios(values[:, None], np.ones((60, 1)))[:, 0]

    found = interval(ratio_draws(plain, values, np.ones(60)))

    mean = mean_interval(values, bootstrap, bounds=(0.0, 1e9))
    assert found == pytest.approx((mean.low, mean.high))
    assert ratio_draws(plain[:1].repeat(9), values, np.ones(60)).tolist() == [plain[0]] * 9
    assert ratio_draws([0.5, 0.5], [1.0], [2.0]).tolist() == [0.5, 0.5]


def test_limits_of_a_skew_loss_hold_where_percentiles_do_not() -> None:
    held = {"plain": 0, "limits": 0}
    bootstrap, reps = PromptBootstrap(50, 1000, seed=1), 400
    for seed in range(reps):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(4, 25, 50).astype(float)
        loss = tokens * rng.gamma(0.3, 1.0 / 0.3, 50)
        plain = bootstrap.ratios(loss[:, None], tokens[:, None])[:, 0]
        for name, draws in (("plain", plain), ("limits", ratio_draws(plain, loss, tokens))):
            low, high = interval(draws)
            held[name] += low <= 1.0 <= high  # a gamma of mean 1, whatever the lengths

    assert held["plain"] < 0.91 * reps
    assert 0.93 * reps < held["limits"] < 0.97 * reps


def test_a_ratio_without_denominator_is_refused() -> None:
    bootstrap = PromptBootstrap(3, 50)
    missing = int((bootstrap.sums([[1], [0], [0]]) == 0).sum())

    with pytest.raises(StatisticsError, match=f"column 1: {missing} of 50 resamples sum to 0"):
        bootstrap.ratios(np.ones((3, 2)), [[1, 1], [1, 0], [1, 0]])


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0]], np.ones((2, 0)), [[1.0], [np.nan]]])
def test_columns_that_do_not_fit_are_refused(values: object) -> None:
    with pytest.raises(StatisticsError, match="values"):
        PromptBootstrap(2, 10).means(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 10, 0), "num_prompts=0"), ((5, 0, 0), "num_resamples=0"), ((5, 5, -1), "seed=-1")],
)
def test_a_bootstrap_of_nothing_is_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptBootstrap(*arguments)


def test_the_jackknife_in_closed_form_leaves_out_one_prompt(rng: np.random.Generator) -> None:
    above, below = rng.normal(size=9), rng.uniform(1, 2, size=9)

    expected = [np.delete(above, i).sum() / np.delete(below, i).sum() for i in range(9)]

    np.testing.assert_allclose(jackknife_ratios(above, below), expected)
    np.testing.assert_allclose(
        jackknife_means(above), [np.delete(above, i).mean() for i in range(9)]
    )


def test_the_shortcut_over_categories_has_the_distribution_of_the_joint_bootstrap(
    rng: np.random.Generator,
) -> None:
    scored = np.full(300, 16)
    correct = rng.binomial(16, rng.beta(0.5, 0.5, 300))
    pairs = CountPairs.of(correct, scored)
    per_pair = np.stack(
        [
            group_signal(pairs.num_correct, pairs.num_scored, 8),
            pass_at_k(pairs.num_correct, pairs.num_scored, 4),
        ],
        axis=1,
    )

    short = category_means(pairs.multiplicities(), per_pair, 20_000, seed=1)
    joint = PromptBootstrap(300, 20_000, seed=2).means(per_pair[pairs.index])

    for quantile in (0.025, 0.5, 0.975):
        np.testing.assert_allclose(
            np.quantile(short, quantile, axis=0), np.quantile(joint, quantile, axis=0), atol=2e-3
        )
    np.testing.assert_allclose(np.cov(short.T), np.cov(joint.T), rtol=0.05)


def test_categories_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StatisticsError, match="no prompt"):
        category_means([0, 0], [[1.0], [2.0]], 10, 0)
    with pytest.raises(StatisticsError, match="values has shape"):
        category_means([1, 2], [[1.0]], 10, 0)
    with pytest.raises(StatisticsError, match=r"multiplicities\[0\]=-1"):
        category_means([-1, 2], [[1.0], [2.0]], 10, 0)


@pytest.mark.parametrize(
    ("num_prompts", "method"),
    [(10, IntervalMethod.PERCENTILE), (29, IntervalMethod.PERCENTILE), (30, IntervalMethod.BCA)],
)
def test_the_interval_fits_the_number_of_prompts_and_says_how_it_was_made(
    rng: np.random.Generator, num_prompts: int, method: IntervalMethod
) -> None:
    values = rng.uniform(size=num_prompts)

    found = mean_interval(values, PromptBootstrap(num_prompts, 1000), bounds=(0.0, 1.0))

    assert found.method is method
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(values.mean())
    assert found.num_prompts == num_prompts


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25])
def test_prompts_that_all_agree_are_not_called_certain(value: float) -> None:
    # A bootstrap of 40 zeros has no spread: its interval [0, 0] would be falsely exact.
    found = mean_interval([value] * 40, PromptBootstrap(40, 200), bounds=(0.0, 1.0))

    reach = clopper_pearson(0, 40)[1]
    assert found.method is IntervalMethod.CONSTANT
    assert found.low == pytest.approx(value - reach * value)
    assert found.high == pytest.approx(value + reach * (1 - value))


def test_values_that_differ_by_rounding_only_are_one_value() -> None:
    found = mean_interval([0.1 + 0.2, 0.3] * 20, PromptBootstrap(40, 200), bounds=(0.0, 1.0))

    assert found.method is IntervalMethod.CONSTANT


def test_a_value_outside_its_bounds_is_refused() -> None:
    with pytest.raises(StatisticsError, match="not"):
        mean_interval([0.5, 1.5], PromptBootstrap(2, 200), bounds=(0.0, 1.0))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, np.nan, 95])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match="confidence="):
        interval([0.0, 1.0], confidence)


def test_paired_differences_are_narrower_than_marginal_ones(rng: np.random.Generator) -> None:
    shared = rng.uniform(size=200)
    first = shared + 0.02
    second = shared + rng.normal(scale=0.01, size=200)
    bootstrap = PromptBootstrap(200, 2000)

    draws = paired_draws(first, second, bootstrap)

    low, high = interval(draws)
    marginal_low, marginal_high = interval(bootstrap.means(first[:, None])[:, 0])
    assert low > 0.015
    assert high - low < (marginal_high - marginal_low) / 10
    with pytest.raises(StatisticsError, match="not paired"):
        paired_draws(first, second[:-1], bootstrap)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PromptBootstrap(2, 5).ratios(np.ones((2, 1)), np.ones((2, 2))), "differ"),
        (lambda: jackknife_ratios([1.0], [1.0]), "2 prompts"),
        (lambda: jackknife_ratios([1.0, 2.0], [1.0, 2.0, 3.0]), "one shape"),
        (lambda: jackknife_ratios([1.0, 2.0], [0.0, 1.0]), "0 without one prompt"),
        (lambda: jackknife_means([[1.0], [2.0]]), "one value for each prompt"),
        (lambda: interval([]), "one value for each prompt"),
        (lambda: PromptBootstrap(2, 5).means([[1.0], [1.0, 2.0]]), "not an array of numbers"),
    ],
)
def test_what_cannot_be_resampled_is_refused(call: object, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        call()  # type: ignore[operator]
