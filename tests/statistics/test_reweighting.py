"""Reweighted rollouts against exact expectations of policies that can be written down."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.reweighting import (
    ReweightedSuccess,
    gap_closed,
    mean_success,
    reweighted_success,
)

numbers = st.floats(-8.0, 8.0, allow_nan=False)
rollouts = st.lists(st.tuples(st.booleans(), numbers), min_size=1, max_size=20)


def _found(*before_after: tuple[float, float]) -> ReweightedSuccess:
    before, after = (np.array(each) for each in zip(*before_after, strict=True))
    return ReweightedSuccess(before=before, after=after, effective_share=np.ones(before.size))


def test_rollouts_in_the_shares_of_one_policy_give_the_exact_success_of_another() -> None:
    old, new = np.array([0.5, 0.25, 0.25]), np.array([0.2, 0.7, 0.1])
    drawn = np.repeat([0, 1, 2], [4, 2, 2])  # each answer as often as the old policy gives it
    correct = drawn == 1

    found = reweighted_success([correct], [np.log(new / old)[drawn]])

    assert found.before == pytest.approx([0.25])
    assert found.after == pytest.approx([0.7])
    ratios = (new / old)[drawn]
    assert found.effective_share == pytest.approx([ratios.sum() ** 2 / (ratios**2).sum() / 8])


def test_many_draws_come_to_the_success_of_the_other_policy() -> None:
    rng = np.random.default_rng(5)
    old, new = rng.dirichlet(np.ones(6), 40), rng.dirichlet(np.ones(6), 40)
    drawn = [rng.choice(6, size=4000, p=row) for row in old]

    found = reweighted_success(
        [each < 2 for each in drawn],
        [np.log(n / o)[each] for o, n, each in zip(old, new, drawn, strict=True)],
    )

    assert found.after.mean() == pytest.approx(new[:, :2].sum(axis=1).mean(), abs=0.02)
    assert abs(found.before.mean() - found.after.mean()) > 0.001


@given(rollouts, st.floats(-500.0, 500.0))
def test_a_factor_common_to_all_rollouts_changes_nothing(
    drawn: list[tuple[bool, float]], shift: float
) -> None:
    correct, logs = zip(*drawn, strict=True)

    plain = reweighted_success([correct], [logs])
    shifted = reweighted_success([correct], [np.array(logs) + shift])

    assert shifted.after == pytest.approx(plain.after, abs=1e-9)
    assert 0.0 <= plain.after[0] <= 1.0
    assert 1.0 / len(drawn) <= plain.effective_share[0] * (1 + 1e-9) <= 1.0 + 1e-9


@given(rollouts)
def test_the_same_policy_has_the_same_success(drawn: list[tuple[bool, float]]) -> None:
    correct = [each for each, _ in drawn]

    found = reweighted_success([correct], [np.zeros(len(correct))])

    assert found.after == pytest.approx(found.before)
    assert found.effective_share == pytest.approx([1.0])


@given(rollouts)
def test_right_rollouts_made_likelier_never_lower_success(drawn: list[tuple[bool, float]]) -> None:
    correct, logs = (np.array(column) for column in zip(*drawn, strict=True))

    more = reweighted_success([correct], [logs + correct])

    assert more.after[0] >= reweighted_success([correct], [logs]).after[0] - 1e-12


def test_the_gap_closed_is_a_quotient_of_means() -> None:
    found = gap_closed([_found((0.5, 0.75), (0.0, 0.25), (0.9, 0.8))] * 2, num_resamples=200)

    assert found.value == pytest.approx((0.25 + 0.25 - 0.1) / (0.5 + 1.0 + 0.1))
    assert found.low <= found.value <= found.high


def test_the_interval_is_that_of_resampled_prompts() -> None:
    rng = np.random.default_rng(1)
    before = rng.uniform(0.1, 0.9, 60)
    after = np.clip(before + rng.normal(0.05, 0.1, 60), 0.0, 1.0)
    rows = rng.integers(60, size=(20_000, 60))
    draws = (after - before)[rows].sum(axis=1) / (1.0 - before)[rows].sum(axis=1)

    found = gap_closed([_found(*zip(before, after, strict=True))] * 2, num_resamples=20_000, seed=3)

    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.003)


def test_what_the_tries_differ_by_widens_the_interval_as_a_variance_does() -> None:
    rng = np.random.default_rng(2)
    before = rng.uniform(0.1, 0.9, 60)
    gap = (1.0 - before).sum()
    after = before + rng.uniform(0.0, 0.1, 60)
    tries = [_found(*zip(before, after + shift, strict=True)) for shift in (-0.05, 0.0, 0.05)]
    shares = [0.05 * 60 / gap * place for place in (-1, 0, 1)]

    alone, found = gap_closed([tries[1]] * 3), gap_closed(tries)

    between = 1.959964 * np.std(shares, ddof=1)
    assert found.value == pytest.approx(alone.value)
    assert (found.value - found.low) ** 2 - (alone.value - alone.low) ** 2 == pytest.approx(
        between**2
    )
    assert (found.high - found.value) ** 2 - (alone.high - alone.value) ** 2 == pytest.approx(
        between**2
    )
    narrower = gap_closed(tries, confidence=0.8)
    assert found.low < narrower.low < narrower.value < narrower.high < found.high


def test_a_mean_over_tries_is_taken_prompt_by_prompt() -> None:
    found = mean_success([_found((0.5, 0.5), (0.2, 0.4)), _found((0.5, 0.7), (0.2, 0.2))])

    assert found.after == pytest.approx([0.6, 0.3])
    assert found.before == pytest.approx([0.5, 0.2])


@pytest.mark.parametrize(
    ("correct", "logs", "said"),
    [
        ([], [], "at least one"),
        ([[1, 0]], [], "as many"),
        ([[1, 0]], [[0.0]], "1 log ratios"),
        ([[2, 0]], [[0.0, 0.0]], "0 or 1"),
        ([[1, 0]], [[0.0, float("nan")]], "finite"),
        ([[1, 0]], [[0.0, -float("inf")]], "finite"),
        ([[]], [[]], "shape"),
    ],
)
def test_what_is_no_pair_of_grades_and_ratios_is_refused(
    correct: list[list[int]], logs: list[list[float]], said: str
) -> None:
    with pytest.raises(StatisticsError, match=said):
        reweighted_success(correct, logs)


def test_no_gap_and_different_prompts_are_refused() -> None:
    with pytest.raises(StatisticsError, match="no gap"):
        gap_closed([_found((1.0, 1.0))] * 2)
    with pytest.raises(StatisticsError, match=r"only 1 of 3 prompts have a wrong rollout"):
        gap_closed([_found((1.0, 1.0), (0.5, 0.6), (1.0, 1.0))] * 2)
    with pytest.raises(StatisticsError, match=r"1 try: two are needed"):
        gap_closed([_found((0.5, 0.6))])
    with pytest.raises(StatisticsError, match="same rollouts"):
        mean_success([_found((0.5, 0.5)), _found((0.4, 0.5))])
    with pytest.raises(StatisticsError, match="at least one"):
        mean_success([])
