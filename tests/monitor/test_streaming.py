"""Judging row by row and judging the stored log give the same, at every prefix of any log."""

import math
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.monitor import LogRow, Monitor, MonitorSettings, judge_rows
from tests.monitor.histories import collapsing_rows, pilot_rows, random_healthy_run

NAMES = {
    "entropy": st.sampled_from([0.02, 0.1, 0.2, 0.21, 0.5, 0.0, math.nan]),
    "reward": st.sampled_from([0.0, 0.03, 0.3, 0.5, 1.5, -1.0]),
    "reward_std": st.sampled_from([0.17, 0.45, 0.9]),
    "frac_reward_zero_std": st.sampled_from([0.2, 0.4, 0.7, 1.0]),
    "grad_norm": st.sampled_from([0.4, 0.0, math.inf]),
    "completions/clipped_ratio": st.sampled_from([0.0, 0.2]),
    "completions/mean_length": st.sampled_from([100.0, 300.0]),
    "actor/entropy": st.sampled_from([0.3, 0.1]),  # a name of another trainer
    "eval_reward": st.sampled_from([0.0, 1.0]),
}
# Small steps and a wide choice of them: duplicates, late rows and restarts are common.
ROWS = st.lists(
    st.builds(
        LogRow,
        st.integers(0, 14).map(lambda i: i * 5),
        st.fixed_dictionaries({}, optional=NAMES),
    ),
    max_size=40,
)


def check_every_prefix(rows: list[LogRow], chosen: MonitorSettings) -> None:
    monitor = Monitor(chosen)
    raised = []
    for count, row in enumerate(rows, start=1):
        raised += monitor.update(row)
        streamed, batch = monitor.result(), judge_rows(rows[:count], chosen)
        assert streamed.alarms == batch.alarms
        assert streamed.to_dict() == batch.to_dict()
        assert {(a.rule, a.severity) for a in batch.alarms} <= {
            (a.rule, a.severity) for a in raised
        }


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_streaming_equals_batch_for_every_prefix(rows: list[LogRow]) -> None:
    check_every_prefix(rows, MonitorSettings())


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_streaming_equals_batch_for_a_stated_trainer(rows: list[LogRow]) -> None:
    check_every_prefix(rows, MonitorSettings(trainer="trl"))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_a_longer_log_in_order_never_takes_an_alarm_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = collapsing_rows(random_healthy_run(rng), onset=20, length=10)[:60]
    monitor = Monitor()
    before: tuple[object, ...] = ()
    for row in rows:
        monitor.update(row)
        alarms = monitor.result().alarms
        assert all(alarm in alarms for alarm in before)
        before = alarms
    assert before == judge_rows(rows).alarms


def test_a_restart_takes_the_alarms_of_the_given_up_stretch_back_and_says_so() -> None:
    healthy = [LogRow(s, {"entropy": 0.22, "reward": 0.3, "grad_norm": 0.4}) for s in (15, 20, 25)]
    log = [*pilot_rows(), *healthy]

    monitor = Monitor()
    for row in log:
        monitor.update(row)
    judgement = monitor.result()

    assert judgement.alarms == ()
    assert judgement.alarms == judge_rows(log).alarms
    assert any(note.startswith("restart: step 15") for note in judgement.notes)


def calls(num_rows: int) -> int:
    """Python calls that judging a run takes which is beyond every line to its end."""
    dead = {
        "entropy": 0.1,
        "reward": 0.01,
        "frac_reward_zero_std": 0.97,
        "grad_norm": 0.0,
        "completions/clipped_ratio": 0.5,
        "completions/mean_length": 300.0,
        "sampling/importance_sampling_ratio/mean": 3.0,
    }
    start = dead | {"entropy": 0.3, "reward": 0.4, "completions/mean_length": 100.0}
    rows = [LogRow(step, start if step < 20 else dead) for step in range(1, num_rows + 1)]
    seen = []
    sys.setprofile(lambda _frame, event, _argument: seen.append(1) if event == "call" else None)
    try:
        judge_rows(rows)
    finally:
        sys.setprofile(None)
    return len(seen)


def test_a_run_twice_as_long_takes_twice_the_work_also_where_every_alarm_stands() -> None:
    # Each rule walked back over the whole stretch beyond its line at every log of it.
    assert calls(800) < 2.2 * calls(400)
