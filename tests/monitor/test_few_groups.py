"""Steps of few groups: all of them are alike now and then, by chance, in a run that learns.

TRL's defaults on one GPU are a single group a step, ten steps a log, with the gradient norm of the
last of them.
"""

import numpy as np
import pytest

from mlflow_rlrisk.monitor import Judgement, LogRow, MonitorSettings, RunFacts, judge_rows

GROUP_SIZE = 8
CASES = [(1, 1), (1, 10), (2, 1), (4, 5)]


def judge_run(num_groups: int, steps_a_log: int, seed: int, *, is_dead: bool = False) -> Judgement:
    """A run whose prompts are solved at all rates, or hardly any of them ever, judged."""
    rng = np.random.default_rng(seed)
    rows: list[LogRow] = []
    shares: list[float] = []
    rewards: list[float] = []
    for step in range(1, 201):
        rates = rng.beta(0.02, 0.4, num_groups) if is_dead else rng.beta(1.2, 1.2, num_groups)
        right = rng.binomial(GROUP_SIZE, rates)
        alike = (right == 0) | (right == GROUP_SIZE)
        shares.append(float(alike.mean()))
        rewards.append(float(right.mean()) / GROUP_SIZE)
        if step % steps_a_log == 0:
            metrics = {
                "reward": float(np.mean(rewards)),
                "frac_reward_zero_std": round(float(np.mean(shares)), 4),
                "grad_norm": 0.0 if alike.all() else float(rng.uniform(0.2, 0.6)),
            }
            rows.append(LogRow(step, metrics))
            shares, rewards = [], []
    return judge_rows(rows, MonitorSettings(facts=RunFacts(group_size=GROUP_SIZE)))


@pytest.mark.parametrize(("num_groups", "steps_a_log"), CASES)
def test_healthy_runs_of_few_groups_are_not_stopped(num_groups: int, steps_a_log: int) -> None:
    # A norm of 0 at one log stopped all of them, and their outcome was a collapse.
    judgements = [judge_run(num_groups, steps_a_log, seed) for seed in range(10)]

    assert [each.stop.step for each in judgements] == [None] * 10
    assert not any(each.outcome is None or each.outcome.collapsed for each in judgements)


@pytest.mark.parametrize(("num_groups", "steps_a_log"), CASES)
def test_dead_runs_of_few_groups_are_stopped_all_the_same(
    num_groups: int, steps_a_log: int
) -> None:
    judgements = [judge_run(num_groups, steps_a_log, seed, is_dead=True) for seed in range(10)]

    assert all(each.stop.step is not None and each.stop.step <= 100 for each in judgements)


def test_a_gradient_of_zero_for_ten_logs_is_no_chance_whatever_the_groups_are() -> None:
    # Frozen weights, say: the groups differ and nothing is learnt.
    metrics = {"reward": 0.4, "frac_reward_zero_std": 0.3, "grad_norm": 0.0}

    short, long = (judge_rows([LogRow(s, metrics) for s in range(n)]) for n in (9, 10))

    assert [alarm.rule for alarm in short.alarms] == []
    assert [(alarm.rule, alarm.confirmed_step) for alarm in long.alarms] == [("R5", 9)]


def test_the_more_groups_are_dead_at_once_the_fewer_logs_say_that_nothing_is_learnt() -> None:
    # By chance each is dead in half of all cases at most: .5^10 is none.
    def confirmed(num_groups: int) -> int:
        shares = [1 / num_groups] * 5 + [1.0] * 20
        rows = [
            LogRow(s, {"frac_reward_zero_std": round(share, 4), "grad_norm": float(share < 1.0)})
            for s, share in enumerate(shares, start=1)
        ]
        (alarm,) = (each for each in judge_rows(rows).alarms if each.rule == "R5")
        assert alarm.step == 6
        return alarm.confirmed_step - 5

    assert [confirmed(n) for n in (2, 3, 4, 5, 6, 7, 64)] == [5, 4, 3, 2, 2, 1, 1]


def test_a_run_that_was_dead_from_its_first_log_is_stopped_at_the_third() -> None:
    rows = [LogRow(s, {"frac_reward_zero_std": 1.0, "grad_norm": 0.0}) for s in range(1, 4)]

    assert judge_rows(rows[:2]).alarms == ()
    assert ("R5", 1, 3) in [(a.rule, a.step, a.confirmed_step) for a in judge_rows(rows).alarms]


def test_the_entropy_of_single_prompts_is_no_surge_until_it_stays_high() -> None:
    # Prompts differ in it by a factor of 1.5 and more.
    def judged(seed: int, factor: float) -> list[tuple[str, int]]:
        rng = np.random.default_rng(seed)
        rows = []
        for step in range(1, 51):
            level = 0.3 * (factor if step > 20 else 1.0)
            alike = float(rng.random() < 0.4)
            entropy = float(level * np.exp(0.4 * rng.normal()))
            metrics = {"reward": 0.5, "frac_reward_zero_std": alike, "entropy": entropy}
            rows.append(LogRow(step, metrics))
        return [(alarm.rule, alarm.step) for alarm in judge_rows(rows).alarms]

    assert [judged(seed, 1.0) for seed in range(10)] == [[]] * 10
    for seed in range(10):
        ((rule, step),) = judged(seed, 4.0)
        assert rule == "R2"
        assert step > 20


def test_a_share_of_batches_does_not_tell_how_many_groups_there_are() -> None:
    entropy = [0.3] * 20 + [0.7]
    rows = [
        LogRow(s, {"frac_reward_zero_std": 0.0, "entropy": value})
        for s, value in enumerate(entropy)
    ]

    groups, batches = (
        judge_rows(rows, MonitorSettings(facts=RunFacts(batch_scaled=is_scaled)))
        for is_scaled in (False, True)
    )

    assert [alarm.rule for alarm in groups.alarms] == []
    assert [alarm.rule for alarm in batches.alarms] == ["R2"]
