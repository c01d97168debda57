"""Log files as editors, exports and writers that are not done leave them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor import LogRow, entropy_rules, judge_rows
from mlflow_rlrisk.monitor.sources import FileSource
from mlflow_rlrisk.monitor.trends import value_at
from tests.monitor.histories import drop_history

STEPS = list(range(1, 21))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def judged(path: Path) -> dict[str, Any]:
    result = run("monitor", "--file", str(path), "--json")
    assert result.return_value == 0, result.exception or result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def metrics(step: int) -> dict[str, float]:
    return {"reward": 0.4 + step / 100, "entropy": 0.5 - step / 100, "grad_norm": 0.53}


def jsonl() -> str:
    return "".join(json.dumps({"step": step, **metrics(step)}) + "\n" for step in STEPS)


def csv() -> str:
    lines = [",".join(str(value) for value in (step, *metrics(step).values())) for step in STEPS]
    return "\n".join(["step,reward,entropy,grad_norm", *lines]) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "make"), [("log.jsonl", jsonl), ("log.csv", csv)])
def test_a_byte_order_mark_costs_no_row(
    name: str, make: Any, encoding: str, tmp_path: Path
) -> None:
    # Spreadsheets begin a CSV with one, and PowerShell redirects into UTF-16.
    path = tmp_path / name
    path.write_text(make(), encoding=encoding)

    rows = FileSource(path).read().rows

    assert [(row.step, row.metrics) for row in rows] == [(step, metrics(step)) for step in STEPS]


@pytest.mark.parametrize("cut", range(1, len("20,0.6000000000000001,0.3") + 1))
def test_a_csv_line_that_is_being_written_gives_no_figure_that_was_not_logged(
    cut: int, tmp_path: Path
) -> None:
    # Of "20,0.6" of a step 20, "2" is no step and "0" no reward.
    whole = csv()
    path = tmp_path / "log.csv"
    path.write_text(whole[: whole.rindex("\n20,") + 1 + cut])

    log = FileSource(path).read()

    for row in log.rows:
        assert row.metrics.items() <= metrics(row.step).items()
    assert any("line 21 is not complete yet" in note for note in log.notes)


def test_an_export_of_several_runs_is_refused_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("Step,a - train/reward,b - train/reward\n1,0.5,0.1\n2,0.5,0.1\n")

    with pytest.raises(HistoryError, match=r"'a - train/reward' and 'b - train/reward'"):
        FileSource(path).read()


@pytest.mark.parametrize("counter", ["_step", "Step"])
def test_the_trainers_step_goes_before_the_count_of_calls_that_wandb_keeps(
    counter: str, tmp_path: Path
) -> None:
    # logging_steps=10: W&B counts 0, 1, 2, ...; a table of completions has that count alone.
    records: list[dict[str, Any]] = []
    for step, row in drop_history(0.6, list(range(10, 210, 10))):
        named = {f"train/{name}": value for name, value in row.items()}
        records.append({counter: len(records), "train/global_step": step, **named})
        records.append({counter: len(records), "completions": {"_type": "table-file"}})
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))

    answer = judged(path)

    assert (answer["first_step"], answer["last_step"]) == (10, 200)
    assert [alarm["rule"] for alarm in answer["alarms"]] == ["R1"]
    assert any(note.startswith("no step: 20 rows") for note in answer["notes"])


def test_a_log_with_nothing_but_the_count_of_wandb_is_read_by_it(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"_step": 3, "train/reward": 0.5}\n{"_step": 4, "train/reward": 0.6}\n')

    assert [row.step for row in FileSource(path).read().rows] == [3, 4]


def test_a_null_of_trl_is_a_value_that_was_no_number(tmp_path: Path) -> None:
    # GRPOTrainer.log averages what is no NaN, and logs None where nothing is left.
    history: list[dict[str, Any]] = [{"step": step, **metrics(step)} for step in STEPS]
    for row in history[-2:]:
        row["entropy"] = None
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history}))

    answer = judged(path)

    lacks = {each["rule"]: each["needs"] for each in answer["missing"]}
    assert "from step 19 on" in lacks["R1"]
    assert {each["rule"]: each["state"] for each in answer["rules"]}["R2"] == "missing"


def test_an_output_folder_of_trl_is_read_by_its_newest_checkpoint(tmp_path: Path) -> None:
    for last in (20, 100):
        folder = tmp_path / f"checkpoint-{last}"
        folder.mkdir()
        history = [{"step": step, **metrics(step)} for step in range(1, last + 1)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))

    assert judged(tmp_path) == judged(tmp_path / "checkpoint-100")
    assert judged(tmp_path) != judged(tmp_path / "checkpoint-20")


def test_the_start_of_a_run_is_found_without_reading_the_log_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # At every log all before it were read: a run of 8,000 steps took 16 times as long as 2,000.
    lengths: list[int] = []

    def counted(steps: list[int], *rest: Any) -> float:
        lengths.append(len(steps))
        return value_at(steps, *rest)

    monkeypatch.setattr(entropy_rules, "value_at", counted)
    rows = [LogRow(step, metrics(step % 20)) for step in range(1, 301)]

    judge_rows(rows)

    assert max(lengths) == 20  # steps 1 to 20 lie within 10 of step 10


def test_the_length_of_completions_is_known_by_its_early_name_too() -> None:
    rows = [LogRow(step, {**metrics(step), "completion_length": 80.0}) for step in STEPS]

    judgement = judge_rows(rows)

    assert judgement.trainer == "trl"
    assert judgement.curves["length"].values == [80.0] * len(STEPS)
