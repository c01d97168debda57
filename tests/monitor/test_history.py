"""Accidents of a log are mended, and said."""

import math
from typing import Any

import pytest

from mlflow_rlrisk.monitor import LogRow, MonitorSettings, RunFacts, judge_rows
from mlflow_rlrisk.monitor.history import History
from tests.monitor.histories import drop_history


def history_of(*rows: tuple[int, dict[str, float]]) -> History:
    history = History()
    for step, metrics in rows:
        history.add(LogRow(step, metrics))
    return history


def test_rows_of_one_step_are_one_row() -> None:
    history = history_of((1, {"reward": 0.1}), (1, {"eval_reward": 0.2}), (2, {"reward": 0.3}))

    assert history.rows == [
        LogRow(1, {"reward": 0.1, "eval_reward": 0.2}),
        LogRow(2, {"reward": 0.3}),
    ]
    assert history.notes() == []


def test_duplicates_late_rows_and_values_that_are_not_finite_are_counted() -> None:
    history = history_of(
        (1, {"entropy": 0.5}),
        (3, {"entropy": 0.4}),
        (3, {"entropy": 0.4}),
        (2, {"entropy": math.nan, "reward": math.inf}),
        (4, {"entropy": 0.3}),
    )

    assert [row.step for row in history.rows] == [1, 2, 3, 4]
    notes = "\n".join(history.notes())
    assert "1 row repeats a step" in notes
    assert "1 row came after a later step and was sorted in" in notes
    assert "1 value of entropy is NaN" in notes
    assert "1 value of reward is NaN" in notes


def test_a_restart_gives_up_what_came_after_it() -> None:
    history = history_of(
        *((step, {"entropy": 0.5}) for step in (10, 20, 30, 40)), (20, {"entropy": 0.6})
    )

    assert history.rows == [LogRow(10, {"entropy": 0.5}), LogRow(20, {"entropy": 0.6})]
    assert history.restarts == [(20, 40)]


@pytest.mark.parametrize("start", [0, 50])
@pytest.mark.parametrize("width", [1, 5, 7, 20])
def test_a_restart_with_other_logging_steps_is_told_at_its_first_row(
    start: int, width: int
) -> None:
    first = [(step, {"entropy": 0.5, "reward": 0.1}) for step in range(10, 101, 10)]
    again = [(step, {"entropy": 0.4, "reward": 0.2}) for step in range(start + width, 101, width)]

    history = history_of(*first, again[0])
    whole = history_of(*first, *again)

    assert history.restarts == whole.restarts == [(start + width, 100)]
    kept = [step for step, _ in first if step < start + width]
    assert [row.step for row in whole.rows] == kept + [step for step, _ in again]


def test_rows_that_come_late_are_no_restart() -> None:
    """A row that was missing, one of an evaluation, and a log that is written backwards."""
    logged = [(step, {"entropy": 0.5, "reward": 0.1}) for step in range(0, 101, 10)]
    swapped = [*logged[:4], logged[5], logged[4], *logged[6:]]
    evaluated = [*logged, (45, {"eval_reward": 0.3})]

    for rows in (swapped, evaluated, logged[::-1]):
        history = history_of(*rows)
        assert history.restarts == []
        assert len(history.rows) == len(rows)


@pytest.mark.parametrize("lag", [0, 2, 40])
def test_two_processes_that_log_one_run_do_not_restart_each_other(lag: int) -> None:
    """As prime-rl's trainer and orchestrator do, which both log how long their step took."""
    steps = range(1, 41)
    trainer = [(s, {"entropy/mean": 0.4, "time/step": s / 9}) for s in steps]
    other = [(s, {"reward/mean": 0.3, "time/step": s / 7}) for s in steps]

    def merged(first: list[tuple[int, Any]], second: list[tuple[int, Any]]) -> History:
        rows = [*((s, 0, m) for s, m in first), *((s + lag, 1, m) for s, m in second)]
        rows.sort(key=lambda each: each[:2])
        return history_of(*((step - lag * place, metrics) for step, place, metrics in rows))

    for history in (merged(trainer, other), merged(other, trainer)):
        assert history.notes() == []
        assert all(len(row.metrics) == 3 for row in history.rows)


def test_a_metric_that_is_named_for_success_tells_a_restart_too() -> None:
    rows = [LogRow(step, {"solved": 0.3}) for step in (1, 2, 3, 4)] + [LogRow(2, {"solved": 0.4})]
    facts = RunFacts(success_metric="solved")

    judgement = judge_rows(rows, MonitorSettings(trainer="trl", facts=facts))

    assert any("restart: step 2" in note for note in judgement.notes)


def test_a_gap_is_said() -> None:
    history = history_of(*((step, {"entropy": 0.5}) for step in (1, 2, 3, 40, 41)))

    assert history.notes() == ["gap: nothing is logged between steps 3 and 40"]


def test_a_mended_log_gives_the_alarms_of_the_clean_one() -> None:
    clean = drop_history(0.599, list(range(0, 201, 2)))
    messy = []
    for row in clean[:52]:
        messy.append(row)
        if row.step % 10 == 0:
            messy.append(LogRow(row.step, dict(row.metrics)))  # written twice
        if row.step % 14 == 0:
            messy.append(LogRow(row.step, {"eval_entropy": 9.0, "eval_reward": 0.0}))
    dead = {"entropy": 0.0, "reward": 0.0, "grad_norm": 0.0, "frac_reward_zero_std": 1.0}
    messy += [LogRow(104, dead), LogRow(106, dead)]  # then a restart from step 100
    messy += clean[50:]

    judgement = judge_rows(messy)

    assert judgement.alarms == judge_rows(clean).alarms
    assert any("restart: step 104" in note for note in judgement.notes)
    assert any("duplicates" in note for note in judgement.notes)
