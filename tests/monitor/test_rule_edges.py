"""The rules where a log is sparse, where one column vouches for another, and within the noise."""

import pytest

from mlflow_rlrisk.monitor import LogRow, MonitorPolicy, MonitorSettings
from mlflow_rlrisk.monitor import judge_rows as judge
from tests.monitor.test_rules import fired, rows


def entropies(*logs: tuple[int, float]) -> list[LogRow]:
    return [LogRow(step, {"entropy": value, "reward": 0.4}) for step, value in logs]


@pytest.mark.parametrize(
    ("later", "alarms"),
    [
        ([(110, 0.7), (160, 0.4)], [("R1", 160)]),  # 160 is nearer to 150 than 110 is
        ([(140, 0.4), (200, 0.8)], [("R1", 140)]),
        ([(140, 0.7), (200, 0.3)], []),
        ([(145, 0.7), (152, 0.3)], []),  # 145 is near enough to have been judged by itself
        ([(160, 0.7), (170, 0.3)], []),
    ],
)
def test_of_sparse_logs_the_one_nearest_to_step_150_decides_the_drop(
    later: list[tuple[int, float]], alarms: list[tuple[str, int]]
) -> None:
    judgement = judge(entropies((10, 1.0), (60, 0.8), *later))

    assert [(alarm.rule, alarm.step) for alarm in judgement.alarms] == alarms
    for alarm in judgement.alarms:
        assert alarm.value == pytest.approx(0.6)


def test_a_drop_has_no_start_without_logs_after_step_10_that_are_judged() -> None:
    assert fired(judge(entropies((5, 1.0), (10, 1.0), (300, 0.3)))) == []


def test_a_single_log_after_the_last_judged_step_is_no_drop() -> None:
    soon = MonitorSettings(policy=MonitorPolicy(drop_to_step=15))

    assert fired(judge(entropies((18, 0.3)), soon)) == []


def test_what_entropy_loses_after_step_150_is_no_drop() -> None:
    level = [(step, 1.0 if step < 140 else 0.55) for step in range(1, 151)]

    assert fired(judge(entropies(*level, *((step, 0.1) for step in range(151, 200))))) == []


def test_a_drop_is_told_once_its_start_at_step_10_is_logged_to_both_sides() -> None:
    judgement = judge(entropies(*((step, 1.0 if step <= 10 else 0.2) for step in range(1, 30))))

    assert [(alarm.step, alarm.confirmed_step) for alarm in judgement.alarms] == [(11, 15)]


def test_one_log_of_low_success_is_believed_where_the_gradient_is_gone_with_it() -> None:
    reward = [0.4] * 20 + [0.05]  # p*(8) = 0.083

    alone = judge(rows(reward=reward, grad_norm=[0.4] * 21))
    witnessed = judge(rows(reward=reward, grad_norm=[0.4] * 20 + [0.0]))

    assert fired(alone) == []
    assert ("R3", 21, "warn") in fired(witnessed)


@pytest.mark.parametrize(("fall", "is_alarm"), [(0.1, False), (0.25, True)])
def test_success_falls_under_longer_completions_where_three_standard_errors_say_so(
    fall: float, is_alarm: bool
) -> None:
    # Neighbours .1 apart: a log's deviation is .1 / 1.128, three errors of three logs are .15.
    reward = [0.5 - fall * (log >= 15) + 0.05 * (-1) ** log for log in range(25)]

    judgement = judge(rows(length=[100.0] * 15 + [250.0] * 10, reward=reward))

    assert [alarm.rule for alarm in judgement.alarms] == (["R8"] if is_alarm else [])
    assert [alarm.value for alarm in judgement.alarms] == pytest.approx([2.5] if is_alarm else [])
