"""Entropy that rises from the first step of a run on."""

import pytest

from mlflow_rlrisk.monitor import LogRow, judge_rows


@pytest.mark.parametrize(("every", "step"), [(1, 13), (5, 15), (10, 20)])
def test_entropy_that_rises_from_the_first_step_on_is_held_against_that_step(
    every: int, step: int
) -> None:
    # Evenly to 2.6 times its start at step 20; the median of the first ten steps is half way up.
    steps = range(0, 51, every)
    entropy = [0.3 * (1.0 + 1.6 * min(each, 20) / 20) for each in steps]
    rows = [LogRow(s, {"entropy": h, "reward": 0.4}) for s, h in zip(steps, entropy, strict=True)]

    judgement = judge_rows(rows)

    assert [(alarm.rule, alarm.step) for alarm in judgement.alarms] == [("R2", step)]
    assert judgement.alarms[0].value == pytest.approx(1.0 + 1.6 * step / 20)


def test_a_healthy_rise_of_a_noisy_entropy_is_no_surge() -> None:
    # By half over 50 steps, with logs that differ by a tenth: its start is not taken for less.
    noise = [0.9 if step % 2 else 1.1 for step in range(51)]
    rows = [LogRow(step, {"entropy": 0.3 * (1.0 + step / 100) * noise[step]}) for step in range(51)]

    assert [alarm.rule for alarm in judge_rows(rows).alarms] == []
