"""Values that are no numbers, or larger than any metric: said, never fine, never a success."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor import Judgement, LogRow, MonitorSettings, judge_rows
from mlflow_rlrisk.monitor.history import History
from mlflow_rlrisk.monitor.trends import line_through
from mlflow_rlrisk.monitor.wording import judgement_lines, live_line

HEALTHY = {"entropy": 0.4, "reward": 0.5, "grad_norm": 1.0}
DIVERGED = dict.fromkeys(HEALTHY, math.nan)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def then(before: int, after: dict[str, float], count: int) -> list[LogRow]:
    """Healthy logs, and then others: both with all that they do not say as it was."""
    first = [LogRow(step, HEALTHY) for step in range(1, before + 1)]
    return [*first, *(LogRow(before + i, {**HEALTHY, **after}) for i in range(1, count + 1))]


def states(judgement: Judgement) -> dict[str, str]:
    return {state.rule: state.state for state in judgement.rules}


def written(path: Path, rows: list[LogRow]) -> str:
    path.write_text("".join(json.dumps({"step": s, **metrics}) + "\n" for s, metrics in rows))
    return str(path)


def test_a_run_that_diverged_is_critical_and_recorded_as_collapsed() -> None:
    judgement = judge_rows(then(49, DIVERGED, 150))

    assert [(a.rule, a.step, str(a.severity)) for a in judgement.alarms] == [("R5", 50, "critical")]
    assert judgement.alarms[0].confirmed_step == judgement.stop.step == 52
    assert judgement.alarms[0].evidence["not_finite_since"] == dict.fromkeys(
        ("grad_norm", "reward", "entropy"), 50
    )
    assert "ok" not in states(judgement).values()
    assert judgement.outcome is not None
    assert judgement.outcome.collapsed


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7976931348623157e308])
def test_any_one_input_that_is_no_number_three_logs_in_a_row_is_enough(
    name: str, value: float
) -> None:
    assert judge_rows(then(20, {name: value}, 2)).alarms == ()
    assert [a.step for a in judge_rows(then(20, {name: value}, 3)).alarms] == [21]


def test_a_rule_whose_newest_input_is_no_number_is_missing_until_it_is_one_again() -> None:
    overflown = judge_rows(then(20, {"grad_norm": math.inf}, 1))  # fp16 skips such a step

    assert states(overflown)["R5"] == "missing"
    assert states(overflown)["R3"] == "ok"
    assert next(m.needs for m in overflown.missing if m.rule == "R5").startswith("finite values")
    assert overflown.stop.step is None
    assert states(judge_rows([*then(20, {"grad_norm": math.inf}, 1), LogRow(22, HEALTHY)]))[
        "R5"
    ] == ("ok")


def test_a_loss_scale_that_is_being_found_is_no_divergence() -> None:
    skipped = [LogRow(step, {**HEALTHY, "grad_norm": math.inf}) for step in range(1, 34)]

    assert judge_rows(skipped[:32]).alarms == ()
    assert [a.rule for a in judge_rows(skipped).alarms] == ["R5"]
    assert judge_rows([*skipped[:32], LogRow(33, HEALTHY)]).alarms == ()


def test_an_entropy_that_never_was_a_number_is_missing_but_no_divergence() -> None:
    judgement = judge_rows([LogRow(s, {**HEALTHY, "entropy": math.nan}) for s in range(1, 100)])

    assert judgement.alarms == ()
    assert {"R1", "R2", "R9"} <= {each.rule for each in judgement.missing}
    assert states(judgement)["R1"] == "missing"


def test_names_are_known_though_all_their_values_are_no_numbers() -> None:
    judgement = judge_rows([LogRow(step, {"actor/entropy": math.nan}) for step in (1, 2)])

    assert judgement.trainer == "verl"
    assert "actor/entropy" in "\n".join(judgement.notes)
    assert judge_rows([LogRow(1, {})]).notes == ("no metric is in the log",)


def test_a_summary_row_of_no_numbers_takes_nothing_back() -> None:
    # Tables of logs have NaN wherever a row lacks a column, the trainer's last row most of all.
    rows = [*then(20, {}, 0), LogRow(20, {**DIVERGED, "train_runtime": 60.0})]

    assert states(judge_rows(rows)) == states(judge_rows(rows[:-1]))
    assert judge_rows(rows).outcome == judge_rows(rows[:-1]).outcome


def test_a_rerun_that_logs_a_number_where_there_was_none_is_mended() -> None:
    history = History()
    for row in (LogRow(1, {"entropy": math.nan}), LogRow(2, {"entropy": 0.2})):
        history.add(row)
    history.add(LogRow(1, {"entropy": 0.3}))

    assert history.rows == [LogRow(1, {"entropy": 0.3}), LogRow(2, {"entropy": 0.2})]


def test_shares_made_of_several_metrics_are_no_numbers_where_one_is_none() -> None:
    parts = {"batch/solve_none": 3.0, "batch/solve_all": math.nan, "batch/solve_partial": 9.0}

    judgement = judge_rows([LogRow(s, parts) for s in (1, 2)], MonitorSettings(trainer="rllm"))

    assert ("zero_variance", "R4") in {(each.input, each.rule) for each in judgement.missing}
    assert "finite" in next(each.needs for each in judgement.missing if each.rule == "R4")


def test_the_command_fails_where_a_run_diverged(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", then(49, DIVERGED, 150))

    assert run("monitor", "--file", log, "--fail-on", "alarm").return_value == 10
    assert "(collapsed)" in run("monitor", "--file", log).stdout


def test_an_outcome_whose_end_is_not_known_is_refused_with_the_reason(tmp_path: Path) -> None:
    ends = written(tmp_path / "ends.jsonl", then(20, {"reward": math.nan}, 1))
    never = [LogRow(step, {**HEALTHY, "reward": math.nan}) for step in range(1, 9)]

    for log, since in ((ends, 21), (written(tmp_path / "never.jsonl", never), 1)):
        refused = run("outcome", "models:/sft/1", "--file", log).exception

        assert isinstance(refused, HistoryError)
        assert f"reward: finite values: from step {since} on" in str(refused)


@pytest.mark.mlflow
def test_the_outcome_of_a_diverged_run_is_a_failure(store: str, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("sft")
    client.create_model_version("sft", tmp_path.as_uri())
    log = written(tmp_path / "log.jsonl", then(49, DIVERGED, 150))

    result = run("outcome", "models:/sft/1", "--file", log, "--json")

    assert json.loads(result.stdout)["status"] == "collapsed"
    assert "recorded as collapsed" in result.stderr


@pytest.mark.mlflow
def test_an_infinity_that_mlflow_stored_as_the_largest_number_is_an_infinity(store: str) -> None:
    import mlflow

    with mlflow.start_run() as active:
        for step, metrics in then(10, {"entropy": math.inf, "reward": -math.inf}, 2):
            mlflow.log_metrics(metrics, step=step)

    answer = json.loads(run("monitor", "--run-id", active.info.run_id, "--json").stdout)

    assert {"R1", "R3"} <= {each["rule"] for each in answer["missing"]}
    assert answer["outcome"] is None
    assert any("2 values of entropy are NaN, infinite" in note for note in answer["notes"])


EXTREMES = st.sampled_from([0.0, 1e-320, 1e-90, 0.3, 1.0, 9e99, 1e200, 1.5e308, -9e99, math.nan])
STEPS = st.sampled_from([0, 1, 2, 5, 12, 20, 60, 2**53, 2**63 - 3, 2**63 - 2, 2**63 - 1])
NAMES = (
    "entropy",
    "reward",
    "reward_std",
    "grad_norm",
    "frac_reward_zero_std",
    "completions/mean_length",
    "sampling/importance_sampling_ratio/mean",
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(LogRow, STEPS, st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, EXTREMES)))
    )
)
def test_no_value_is_too_large_or_too_small_to_be_judged(rows: list[LogRow]) -> None:
    judgement = judge_rows(rows, MonitorSettings(trainer="trl"))

    assert json.dumps(judgement.to_dict(), allow_nan=False)
    assert judgement_lines(judgement)
    assert live_line(judgement)


@pytest.mark.parametrize(
    "metrics",
    [
        lambda i: {"entropy": 1e200 * (1 + i % 3), "reward": 0.5},
        lambda i: {"entropy": 1e99 / i, "reward": 0.5},
        lambda i: {"entropy": 1.0, "reward": 1.5e308 * (-1) ** i},
    ],
    ids=["entropy", "falling entropy", "reward"],
)
def test_a_log_of_huge_values_is_answered(tmp_path: Path, metrics: Any) -> None:
    log = written(tmp_path / "log.jsonl", [LogRow(i, metrics(i)) for i in range(1, 60)])

    for form in ((), ("--json",)):
        result = run("monitor", "--file", log, *form)

        assert result.exception is None
        assert result.return_value == 0


def test_a_step_that_no_run_reaches_is_no_step(tmp_path: Path) -> None:
    lines = ['{"step": 1e300, "reward": 0.1}', '{"step": 1, "reward": 1' + "0" * 400 + "}"]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"step": 2, "reward": 0.5}']) + "\n")

    notes = json.loads(run("monitor", "--file", str(tmp_path / "log.jsonl"), "--json").stdout)[
        "notes"
    ]

    assert any(note.startswith("no step: 1 row has") for note in notes)
    assert any(note.startswith("not finite: 1 value of reward is") for note in notes)


def test_there_is_no_line_through_steps_that_floats_cannot_tell_apart() -> None:
    assert line_through([2**63 - 3, 2**63 - 2, 2**63 - 1], [1.0, 2.0, 3.0]) is None
