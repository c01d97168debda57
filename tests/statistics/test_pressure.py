import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics import entropy_pressure


@given(st.data())
def test_the_pressure_is_the_covariance_with_the_standardised_reward(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 12))
    floats = st.floats(-5.0, 0.0)
    likely = np.array(data.draw(st.lists(floats, min_size=size, max_size=size)))
    rewards = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size))
    )
    if np.ptp(rewards) == 0.0:
        rewards[0] = 2.0

    found = entropy_pressure(likely, rewards)

    advantage = (rewards - rewards.mean()) / rewards.std(ddof=1)
    assert found == pytest.approx(np.cov(likely, advantage, ddof=0)[0, 1], abs=1e-12)
    assert entropy_pressure(likely, 2 * rewards - 1) == pytest.approx(found, abs=1e-12)


def test_its_sign_is_that_of_the_entropy_loss_of_a_policy_gradient_step() -> None:
    # One token, three answers: a small natural step on the logits, entropies written out.
    policy, rewards = np.array([0.6, 0.3, 0.1]), np.array([1.0, 0.0, 0.0])
    advantage = rewards - policy @ rewards
    moved = policy * np.exp(1e-4 * advantage)
    moved /= moved.sum()
    change = -(moved * np.log(moved)).sum() + (policy * np.log(policy)).sum()
    drawn = np.repeat([0, 1, 2], [6, 3, 1])

    pressure = entropy_pressure(np.log(policy)[drawn], rewards[drawn])

    assert pressure > 0.0 > change


def test_equal_rewards_have_no_pressure() -> None:
    with pytest.raises(StatisticsError, match="all are equal"):
        entropy_pressure([-1.0, -2.0], [1.0, 1.0])
    with pytest.raises(StatisticsError, match="shape"):
        entropy_pressure([-1.0], [1.0, 0.0])
