"""Columns of a run against medians, spreads, shares and scales that are made here."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor.adapters import Input
from mlflow_rlrisk.monitor.tracks import RunFacts, Track, Tracks, scales_by_batch
from mlflow_rlrisk.monitor.trainers import ADAPTERS


def tracks(*logs: dict[Input, float], trainer: str = "trl", **facts: object) -> Tracks:
    found = Tracks(adapter=ADAPTERS[trainer], facts=RunFacts(**facts))  # type: ignore[arg-type]
    for step, values in enumerate(logs, start=1):
        found.extend(step, values)
    return found


def batches(
    wrong: float, right: float, shares: tuple[float, ...] = (0.7, 0.8)
) -> list[dict[Input, float]]:
    """What is logged of batches of 1000 with these shares of right answers."""
    rewards = [np.where(np.arange(1000) < 1000 * share, right, wrong) for share in shares]
    return [{"reward": float(each.mean()), "reward_std": float(each.std())} for each in rewards]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(-9, 9)), min_size=1, max_size=9),
    st.integers(0, 31),
)
def test_the_start_is_the_median_up_to_a_step_or_the_first_value(
    drawn: list[tuple[int, float]], until: int
) -> None:
    logs = sorted(dict(drawn).items())

    start = Track(*map(list, zip(*logs, strict=True))).start(until)

    early = [value for step, value in logs if step <= until]
    assert start == (statistics.median(early) if early else logs[0][1])


def test_noise_is_that_of_the_last_twenty_steps_from_one_log_to_the_next() -> None:
    settled = [0.2, 0.3] * 10 + [0.2]

    noise = [Track([], values).noise() for values in ([9.0, *settled], [0.2, 0.3], [0.3])]

    # d2 = 2 / sqrt(pi): the mean distance of two normal values over their standard deviation.
    assert noise == pytest.approx(
        [0.1 * math.sqrt(math.pi) / 2, 0.1 * math.sqrt(math.pi) / 2, 0.0], rel=1e-3
    )


def test_a_column_of_nothing_but_0_and_1_is_as_noisy_as_a_coin() -> None:
    assert Track([], [1.0, 1.0]).noise() == math.sqrt(0.5 * 0.5)
    assert Track([], [1.0]).noise() == 0.0


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.lists(st.integers(0, n).map(lambda k: Fraction(k, n)), min_size=1, max_size=4)
    )
)
def test_the_number_of_groups_is_the_least_that_every_share_is_one_of(
    shares: list[Fraction],
) -> None:
    found = tracks(*({"zero_variance": round(float(share), 4)} for share in shares))

    fitting = [n for n in range(1, 7) if all((share * n).denominator == 1 for share in shares)]
    assert found.few_groups == min(fitting, default=None)


def test_without_shares_of_groups_their_number_is_not_known() -> None:
    assert tracks({"reward": 0.5}).few_groups is None
    assert tracks({"zero_variance": 0.5}, batch_scaled=True).few_groups is None


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (0.0, 2.0)])
def test_one_log_of_a_batch_tells_the_scale_of_its_rewards(ends: tuple[float, float]) -> None:
    (batch,) = batches(*ends, shares=(0.7 if ends != (0.0, 2.0) else 0.3,))

    found = tracks(batch)

    assert found.scale() == ends
    assert found.success().values == pytest.approx([0.7 if ends != (0.0, 2.0) else 0.3])  # type: ignore[union-attr]


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (0.0, 2.0)])
def test_the_least_and_the_largest_reward_of_batches_tell_their_scale(
    ends: tuple[float, float],
) -> None:
    logs = [{"reward": r, "reward_min": ends[0], "reward_max": ends[1]} for r in (0.3, 0.6)]

    found = tracks(*logs, trainer="verl")  # type: ignore[arg-type]

    assert found.scale() == ends


def test_rewards_beyond_0_and_1_are_of_no_known_scale_without_more() -> None:
    mean = {"reward": 0.5}

    assert tracks({**mean, "reward_min": -0.2, "reward_max": 0.9}, trainer="verl").scale() is None
    assert tracks({**mean, "reward_min": 0.1, "reward_max": 1.4}, trainer="verl").scale() is None
    assert tracks(mean, {"reward": 1.2}).scale() is None
    assert tracks({"reward": 0.5, "reward_std": 0.9}).scale() is None  # no share spreads so
    for least, largest in ((0.1, 0.9), (0.0, 0.7), (0.2, 1.0)):
        log: dict[Input, float] = {**mean, "reward_min": least, "reward_max": largest}
        assert tracks(log, trainer="verl").scale() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("told", "others", "scale"), [(9, 1, (-1.0, 1.0)), (8, 2, None), (1, 1, (0.0, 1.0))]
)
def test_nine_logs_of_ten_tell_a_scale_and_more_than_half_that_it_is_not_0_and_1(
    told: int, others: int, scale: tuple[float, float] | None
) -> None:
    (batch,) = batches(-1.0, 1.0, shares=(0.7,))  # its mean is 0.4, its spread that of no share
    other: dict[Input, float] = {"reward": 0.4, "reward_std": 0.3}

    assert tracks(*[batch] * told, *[other] * others).scale() == scale


def test_a_stated_scale_holds_where_every_mean_reward_lies_on_it_but_for_rounding() -> None:
    assert tracks({"reward": -5.0}, {"reward": 5.00000001}, reward_scale=(5.0, -5.0)).scale() == (
        5.0,
        -5.0,
    )
    assert tracks({"reward": -5.1}, reward_scale=(-5.0, 5.0)).scale() is None
    assert tracks({"reward": 0.2}, reward_scale=(0.0, 0.5)).success() == Track([1], [0.4])


def test_once_the_scale_is_seen_to_be_another_all_rewards_are_read_by_it() -> None:
    found = tracks({"reward": 0.5}, *batches(-1.0, 1.0), {"reward": -0.5})

    success = found.success()

    assert success is not None
    assert success.steps == [1, 2, 3, 4]
    assert success.values == pytest.approx([0.75, 0.7, 0.8, 0.25])


def test_success_is_the_metric_that_was_named_for_it_or_nothing() -> None:
    rewards: dict[Input, float] = {"reward": 0.5}

    assert tracks(rewards, success_metric="accuracy").success() is None
    named = tracks({**rewards, "success": 0.25}, success_metric="accuracy")
    assert named.success() == Track([1], [0.25])
    assert named.reward_input == "success"
    assert tracks(rewards).success() == Track([1], [0.5])
    assert tracks(rewards).reward_input == "reward"


def test_what_cannot_be_what_its_name_says_is_counted_and_left_out() -> None:
    found = tracks(
        {"truncated": 1.0000001, "entropy": -1e-7, "reward": -4.0},
        {"truncated": 1.1, "entropy": -0.1, "reward": math.nan},
        {"truncated": 35.0, "entropy": math.nan, "reward": 4.0},
        {"entropy": math.nan},
    )

    assert found.out_of_range == {"truncated": 2, "entropy": 1}
    assert found.undefined == {"entropy": [3, 4]}  # a reward that came back is defined
    assert found.columns["reward"] == Track([1, 3], [-4.0, 4.0])
    assert found.columns["entropy"] == Track([1], [-1e-7])


@pytest.mark.parametrize(
    ("settings", "is_of_batch"),
    [
        ({"scale_rewards": "batch"}, True),
        ({"scale_rewards": "Batch"}, True),
        ({"multi_objective_aggregation": "normalize_then_sum"}, True),
        ({"scale_rewards": "group", "multi_objective_aggregation": "sum_then_normalize"}, False),
        ({"scale_rewards": True}, False),
        ({}, False),
    ],
)
def test_the_settings_say_whether_shares_are_of_the_batch(
    settings: dict[str, object], is_of_batch: bool
) -> None:
    assert scales_by_batch(settings) is is_of_batch


def test_a_bonus_is_active_where_it_is_said_else_where_the_log_has_one() -> None:
    bonus: dict[Input, float] = {"reference_kl": 0.1}

    assert tracks(bonus).is_regularised
    assert tracks({"entropy_coef": 0.0}, {"entropy_coef": 0.01}).is_regularised
    assert not tracks({"reference_kl": 0.0}).is_regularised
    assert not tracks(bonus, regularised=False).is_regularised
    assert tracks(regularised=True).is_regularised


def test_an_entropy_is_comparable_unless_it_grows_with_the_length() -> None:
    log: dict[Input, float] = {"entropy": 0.3}

    kept = [tracks(log, loss_agg_mode=mode).comparable_entropy() for mode in (None, "token-mean")]

    assert kept == [Track([1], [0.3])] * 2
    assert tracks(log, loss_agg_mode="seq-mean-token-sum").comparable_entropy() is None


@pytest.mark.parametrize(
    "facts",
    [
        {"group_size": 1},
        {"reward_scale": (1.0, 1.0)},
        {"reward_scale": (0.0, math.inf)},
        {"reward_scale": (0.0, 1.0, 2.0)},
    ],
)
def test_facts_that_no_run_can_have_are_refused(facts: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RunFacts(**facts)  # type: ignore[arg-type]


def test_the_smallest_group_is_two_and_the_one_that_is_assumed_eight() -> None:
    assert tracks(group_size=2).group_size == 2
    assert tracks().group_size == 8
