"""``rlrisk monitor`` and ``rlrisk outcome``: JSON as promised, commands run, MLflow written."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click import UsageError
from click.testing import CliRunner, Result

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import ComparabilityError, ConfigError, HistoryError
from mlflow_rlrisk.monitor.outcome import recorded_outcomes
from mlflow_rlrisk.sinks.version_outcome import recorded_finals
from tests.monitor.histories import drop_history, pilot_rows
from tests.sinks.simulated import simulated_report


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def test_the_json_is_one_object_with_the_promised_keys(dying: Path) -> None:
    result = run("monitor", "--file", str(dying), "--json")

    assert result.return_value == 0
    answer = json.loads(result.stdout)
    assert [(alarm["rule"], alarm["step"]) for alarm in answer["alarms"]][:2] == [
        ("R2", 20),
        ("R3", 30),
    ]
    for alarm in answer["alarms"]:
        assert set(alarm) == {"rule", "step", "severity", "value", "threshold", "evidence"}
        assert alarm["severity"] in ("warn", "critical")
        assert all(math.isfinite(alarm[name]) for name in ("value", "threshold"))
    assert {each["rule"] for each in answer["missing"]} == {"R7", "R8"}
    assert answer["stop"]["advised"] is True
    assert answer["outcome"]["peak"] == 0.28
    assert answer["outcome"]["step_of_peak"] == 5
    assert answer["outcome"]["regression_from_peak"] == pytest.approx(0.28)


def test_the_text_says_alarm_table_missing_and_advice(dying: Path) -> None:
    text = run("monitor", "--file", str(dying)).stdout

    for part in ("WARN R2 at step 20", "CRITICAL R5", "missing  R8", "▁", "stop (from step 30"):
        assert part in text


@pytest.mark.parametrize(("fail_on", "code"), [("never", 0), ("stop", 10), ("alarm", 10)], ids=str)
def test_the_exit_code_tells_an_alarm_only_where_asked(
    dying: Path, fail_on: str, code: int
) -> None:
    assert run("monitor", "--file", str(dying), "--fail-on", fail_on).return_value == code


def test_the_users_command_gets_every_alarm(dying: Path, tmp_path: Path) -> None:
    script, told = tmp_path / "tell.py", tmp_path / "told.jsonl"
    script.write_text(
        "import os, sys\n"
        f"open({str(told)!r}, 'a').write(os.environ['RLRISK_RULE'] + sys.stdin.read() + '\\n')\n"
    )

    result = run(
        "monitor", "--file", str(dying), "--json", "--on-alarm", f"{sys.executable} {script}"
    )

    lines = told.read_text().splitlines()
    assert [line[:2] for line in lines] == ["R2", "R3", "R4", "R4", "R5"]
    assert json.loads(lines[0][2:]) == json.loads(result.stdout)["alarms"][0]


def test_a_command_that_fails_does_not_end_the_judgement(dying: Path) -> None:
    result = run("monitor", "--file", str(dying), "--json", "--on-alarm", "no-such-command-here")

    assert len(json.loads(result.stdout)["alarms"]) == 5
    assert "--on-alarm failed" in result.stderr


def test_a_log_that_is_being_written_and_a_broken_one_are_read_as_far_as_they_go(
    dying: Path,
) -> None:
    lines = dying.read_text().splitlines()
    lines.insert(3, "Traceback (most recent call last):")
    lines.insert(4, '{"reward": 0.5}')
    dying.write_text("\n".join(lines) + '\n{"step": 45, "entr')

    answer = json.loads(run("monitor", "--file", str(dying), "--json").stdout)

    notes = "\n".join(answer["notes"])
    assert len(answer["alarms"]) == 5
    assert "1 line is no JSON and left out (line 4)" in notes
    assert "not complete yet" in notes
    assert "1 row has none and is left out" in notes


def test_values_that_no_parser_takes_cost_their_line_only(dying: Path) -> None:
    lines = dying.read_text().splitlines()
    lines[3:3] = ['{"step": 4, "entropy": ' + "9" * 5000 + "}", "[" * 100_000]
    dying.write_text("\n".join(lines) + "\n")

    answer = json.loads(run("monitor", "--file", str(dying), "--json").stdout)

    assert len(answer["alarms"]) == 5
    assert any("2 lines are no JSON and left out (line 4, 5)" in note for note in answer["notes"])


def test_a_csv_may_hold_completions_beside_the_metrics(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('step,text,reward\n1,"' + "long\n" * 50_000 + '",0.25\n2,"",0.5\n')

    answer = json.loads(run("monitor", "--file", str(path), "--json").stdout)

    assert (answer["outcome"]["start"], answer["outcome"]["final"]) == (0.25, 0.5)


@pytest.mark.parametrize("text", ["", "\n", '{"reward": 0.5}\n', "no json\n", "[]"])
def test_a_file_without_a_history_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(text)

    assert isinstance(run("monitor", "--file", str(path)).exception, HistoryError)


def test_a_log_of_unknown_names_is_never_called_fine(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"step": 1, "my/loss": 0.5}\n')

    answer = json.loads(run("monitor", "--file", str(path), "--json").stdout)

    assert answer["trainer"] is None
    assert {each["rule"] for each in answer["missing"]} == {f"R{i}" for i in range(1, 11)}
    assert "my/loss" in "\n".join(answer["notes"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("entropy_drop: 0.5\nentropy_drop: 0.9", "a key stands twice"),
        ("monitor: 5", "monitor=5"),
        ("monitor: {entropy_drop: 0.4}\nfoo: 1", "foo=1"),
        ("name: 2026-13-45", "it is no YAML"),
        ("", "it is empty"),
    ],
)
def test_a_policy_file_that_is_wrong_is_misuse(
    dying: Path, tmp_path: Path, text: str, named: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)

    refused = run("monitor", "--file", str(dying), "--policy", str(policy)).exception

    assert isinstance(refused, ConfigError)
    assert named in str(refused)


def test_a_success_metric_that_is_not_logged_is_not_replaced_by_the_rewards(dying: Path) -> None:
    # Else the version would carry the outcome of another quantity than the one that was named.
    log = ("--file", str(dying), "--success-metric", "solved")

    answer = json.loads(run("monitor", *log, "--json").stdout)
    refused = run("outcome", "models:/sft/1", *log).exception

    assert "values of solved" in next(m["needs"] for m in answer["missing"] if m["rule"] == "R3")
    assert isinstance(refused, HistoryError)
    assert "no row has a solved" in str(refused)


@pytest.mark.parametrize(
    "row",
    [
        '{"logprobs": [0.5], "advantage": 1}',
        '{"logprobs": ["-0.5"], "advantage": 1}',
        '{"logprobs": [-0.5], "advantage": true}',
        '{"logprobs": [-0.5], "advantage": 1, "entropies": [-0.1]}',
        '{"logprobs": [NaN], "advantage": 1}',
        '{"logprobs": [-1e308], "advantage": 1}',
        '{"logprobs": [-0.5], "advantage": 1' + "0" * 400 + "}",
        '{"logprobs": [-0.5], "advantage": 1, "step": Infinity}',
        "[" * 100_000,
    ],
)
def test_a_token_log_of_other_quantities_is_refused(dying: Path, tmp_path: Path, row: str) -> None:
    log = tmp_path / "tokens.jsonl"
    log.write_text('{"logprobs": [-0.5], "advantage": 1}\n' + row)

    refused = run("monitor", "--file", str(dying), "--token-log", str(log)).exception

    assert isinstance(refused, HistoryError)
    assert "line 2" in str(refused)


def test_misuse_is_said() -> None:
    assert "no finite number" in str(
        run("monitor", "--file", __file__, "--poll-s", "nan").exception
    )
    with pytest.raises(ConfigError, match="two different numbers"):
        raise run("monitor", "--file", __file__, "--reward-scale", "1,1").exception  # type: ignore[misc]
    assert "one of --run-id and --file" in str(run("monitor").exception)


def test_a_policy_file_moves_the_lines(tmp_path: Path) -> None:
    history, policy = tmp_path / "h.jsonl", tmp_path / "policy.yaml"
    rows = drop_history(0.454, list(range(1, 151)))
    history.write_text("".join(json.dumps({"step": s, **m}) + "\n" for s, m in rows))
    policy.write_text("monitor:\n  entropy_drop: 0.4\n  stop_on: [R1]\n")

    answer = json.loads(
        run("monitor", "--file", str(history), "--policy", str(policy), "--json").stdout
    )

    assert [alarm["rule"] for alarm in answer["alarms"]] == ["R1"]
    assert answer["stop"]["advised"] is True


def test_where_nothing_could_be_judged_nothing_is_advised(dying: Path) -> None:
    text = run("monitor", "--file", str(dying), "--trainer", "verl").stdout

    assert "nothing could be judged" in text
    assert "go on" not in text


def test_no_scale_is_told_of_rewards_where_success_is_another_metric(dying: Path) -> None:
    options = ("--file", str(dying), "--success-metric", "absent")

    assert "rewards are taken for" in run("monitor", *options[:2]).stdout
    assert "rewards are taken for" not in run("monitor", *options).stdout


@pytest.mark.parametrize(
    "given",
    [
        ("--file", __file__, "--before", "report.json"),
        ("--assessment", "report.json", "--reward-scale", "-1,1"),
        ("--assessment", "report.json", "--not-regularised"),
    ],
)
def test_an_option_that_an_outcome_does_not_read_is_refused(given: tuple[str, ...]) -> None:
    refused = run("outcome", "models:/sft/1", *given).exception

    assert isinstance(refused, UsageError)
    assert given[2] in str(refused) or "--regularised" in str(refused)


def test_token_logs_give_covariance_and_forks(dying: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens.jsonl"
    rows: list[dict[str, Any]] = [
        {"step": 1, "logprobs": [-1.0], "advantage": 1.0, "entropies": [0.1, 0.2, 0.3, 0.4, 0.5]},
        {"step": 1, "logprobs": [-3.0], "advantage": -1.0},
        {"step": 9, "logprobs": [-1.0], "advantage": 1.0, "entropies": [0.1, 0.45, 0.6, 0.7]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    result = run("monitor", "--file", str(dying), "--json", "--token-log", str(path))

    found = json.loads(result.stdout)["dynamics"]
    assert found["num_tokens"] == 3
    assert found["mean_covariance"] == pytest.approx((1.0 + 1.0 + 0.0) / 3)
    assert found["fork_share"] == pytest.approx(0.75)  # above 0.42, the 80th percentile at step 1


@pytest.mark.mlflow
def test_a_finished_run_is_judged_and_gets_tags_and_a_chart(store: str) -> None:
    import mlflow
    from mlflow.artifacts import load_text

    with mlflow.start_run() as active:
        mlflow.log_params({"num_generations": 16, "scale_rewards": "group", "beta": 0.0})
        for step, metrics in pilot_rows():
            mlflow.log_metrics({**metrics, "eval_reward": 1.0}, step=step)
    run_id = active.info.run_id

    answer = json.loads(run("monitor", "--run-id", run_id, "--json").stdout)

    tags = mlflow.get_run(run_id).data.tags
    first = {alarm["rule"]: alarm["step"] for alarm in reversed(answer["alarms"])}
    assert first == {"R2": 20, "R3": 35, "R4": 35, "R5": 35}  # p*(16) is below 0.06
    assert not any("assumed" in note for note in answer["notes"])  # groups of 16 are logged
    assert tags["rlrisk.alarms"].startswith("R2@20 warn")
    assert tags["rlrisk.monitor"].startswith("stop from step")
    chart = load_text(f"{active.info.artifact_uri}/rlrisk/monitor.svg")
    assert chart.startswith("<svg")
    assert "R2 at step 20" in chart
    stored = json.loads(load_text(f"{active.info.artifact_uri}/rlrisk/monitor.json"))
    assert stored["alarms"] == answer["alarms"]


@pytest.mark.mlflow
def test_an_unknown_run_is_an_error(store: str) -> None:
    assert isinstance(run("monitor", "--run-id", "0" * 32).exception, HistoryError)


@pytest.mark.mlflow
def test_outcomes_are_recorded_on_the_version_one_entry_a_run(store: str, dying: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("sft")
    client.create_model_version("sft", dying.parent.as_uri())
    with mlflow.start_run() as active:
        for step, metrics in drop_history(0.2, list(range(1, 60))):
            mlflow.log_metrics(metrics, step=step)

    first = run("outcome", "models:/sft/1", "--file", str(dying), "--json")
    again = run("outcome", "models:/sft/1", "--file", str(dying), "--json")
    second = run("outcome", "models:/sft/1", "--run-id", active.info.run_id, "--json")

    assert json.loads(first.stdout)["status"] == "collapsed"
    assert json.loads(again.stdout)["num_runs"] == 1
    record = json.loads(second.stdout)
    assert (record["status"], record["num_runs"]) == ("completed", 2)
    assert record["mean_peak"] == pytest.approx((0.28 + 0.4) / 2)
    entries = recorded_outcomes(client.get_model_version("sft", "1").tags["rlrisk.outcome"])
    assert [entry["run"] for entry in entries][1:] == [active.info.run_id]
    assert all("peak is the highest" in entry["definition"] for entry in entries)
    finals = recorded_finals(["models:/sft/1", str(dying.parent)])
    assert finals == {"models:/sft/1": pytest.approx((0.0 + 0.4) / 2)}


@pytest.mark.mlflow
def test_an_outcome_from_a_second_assessment_needs_the_same_protocol(
    store: str, tmp_path: Path
) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("sft")
    client.create_model_version("sft", tmp_path.as_uri())
    plain = simulated_report()
    digests = {**plain.provenance.digests, "verifier": "v" * 64}
    report = replace(plain, provenance=replace(plain.provenance, digests=digests))
    other = replace(
        report, provenance=replace(plain.provenance, digests={**digests, "prompts": "p" * 64})
    )
    before, after, elsewhere = (tmp_path / f"{name}.json" for name in ("before", "after", "other"))
    before.write_text(report.to_json())
    after.write_text(report.to_json())
    elsewhere.write_text(other.to_json())

    said = ("outcome", "models:/sft/1", "--before", str(before), "--json")
    refused = run(*said, "--assessment", str(elsewhere))
    record = json.loads(run(*said, "--assessment", str(after)).stdout)

    assert isinstance(refused.exception, ComparabilityError)
    assert (record["status"], record["quantity"]) == ("assessed", "pass_at_1")
    assert record["mean_gain"] == 0.0
