import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics import (
    forget_ratio,
    kl_divergence,
    reward_shift_bound,
    sft_loss_rise,
    tilted_policy,
)

SIZES = st.integers(2, 6)


def random_policy(data: st.DataObject, size: int) -> np.ndarray:
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1.0), min_size=size, max_size=size)))
    return weights / weights.sum()


@given(st.data())
def test_the_rise_of_the_sft_loss_is_the_divergence_from_rls_optimum(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    policy = random_policy(data, size)
    rewards = np.array(data.draw(st.lists(st.floats(-2.0, 2.0), min_size=size, max_size=size)))
    beta = data.draw(st.floats(0.1, 5.0))

    rise = sft_loss_rise(policy, rewards, beta)

    # The cross entropy is written out here: the expert's answers are drawn from the SFT policy.
    optimum = np.exp(rewards / beta) * policy
    optimum /= optimum.sum()
    before, after = -(policy * np.log(policy)).sum(), -(policy * np.log(optimum)).sum()
    assert rise == pytest.approx(after - before, abs=1e-9)
    assert rise == pytest.approx(
        kl_divergence(policy, tilted_policy(policy, rewards, beta)), abs=1e-9
    )
    assert rise >= 0.0


@given(st.data())
def test_no_two_policies_differ_in_reward_by_more_than_the_bound(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    first, second = random_policy(data, size), random_policy(data, size)
    rewards = np.array(data.draw(st.lists(st.floats(-1.0, 3.0), min_size=size, max_size=size)))

    bound = reward_shift_bound(kl_divergence(first, second), rewards.min(), rewards.max())

    assert abs(float((first - second) @ rewards)) <= bound + 1e-12


def test_a_constant_reward_moves_nothing() -> None:
    assert sft_loss_rise([0.2, 0.8], [3.0, 3.0], 0.5) == pytest.approx(0.0, abs=1e-12)


def test_an_answer_that_a_policy_never_gives_adds_nothing_to_its_divergence() -> None:
    assert kl_divergence([1.0, 0.0], [0.5, 0.5]) == pytest.approx(math.log(2))


def test_an_answer_that_the_other_policy_never_gives_is_infinitely_far() -> None:
    assert kl_divergence([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert reward_shift_bound(math.inf, 0.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("call", "need"),
    [
        (lambda: tilted_policy([0.5, 0.4], [0.0, 1.0], 1.0), "not a distribution"),
        (lambda: tilted_policy([0.5, 0.5], [0.0], 1.0), "rewards"),
        (lambda: tilted_policy([0.5, 0.5], [0.0, 1.0], 0.0), "beta=0.0"),
        (lambda: sft_loss_rise([0.5, 0.5], [0.0, 1.0], -1.0), "beta=-1.0"),
        (lambda: kl_divergence([1.0], [0.5, 0.5]), "shape"),
        (lambda: reward_shift_bound(-0.1, 0.0, 1.0), "kl=-0.1"),
        (lambda: reward_shift_bound(0.1, 1.0, 0.0), "not a range"),
        (lambda: forget_ratio(1.0, 1.0, 2.0), "nothing to forget"),
        (lambda: forget_ratio(1.0, math.nan, 2.0), "finite"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(call: object, need: str) -> None:
    with pytest.raises(StatisticsError, match=need):
        call()  # type: ignore[operator]
