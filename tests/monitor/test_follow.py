"""A run watched while its tracking server is not always there, and recorded before its end."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor import Alarm, Judgement, LogRow, MonitorSettings
from mlflow_rlrisk.monitor import follow as following
from mlflow_rlrisk.monitor.sources import StoredLog
from tests.monitor.histories import pilot_rows


class Server:
    """Gives one row more at every reading, and nothing at the readings that are named."""

    title = "run"

    def __init__(self, rows: list[LogRow], *outages: int) -> None:
        self.rows, self.outages = rows, outages
        self.num_readings = self.num_rows = 0

    def read(self) -> StoredLog:
        self.num_readings += 1
        if self.num_readings in self.outages:
            raise HistoryError("run cannot be read: database is locked")
        self.num_rows += 1
        is_finished = self.num_rows == len(self.rows)
        return StoredLog(rows=self.rows[: self.num_rows], is_finished=is_finished)


def watched(server: Server) -> tuple[Judgement, list[tuple[str, str]], list[str]]:
    alarms: list[Alarm] = []
    outages: list[str] = []
    judgement = following.follow(
        server,
        MonitorSettings(),
        on_judgement=lambda _: None,
        on_alarm=alarms.append,
        on_outage=lambda error: outages.append(str(error)),
        poll_s=0.001,
    )
    return judgement, [(alarm.rule, str(alarm.severity)) for alarm in alarms], outages


def test_a_server_that_is_away_for_a_while_does_not_end_the_watch() -> None:
    rows = pilot_rows()

    through = watched(Server(rows))
    broken = watched(Server(rows, 3, 4, 5, 7))

    assert broken[:2] == through[:2]
    assert broken[2] == ["run cannot be read: database is locked"] * 2  # each outage is told once


def test_an_alarm_that_a_restart_took_back_is_told_when_it_comes_again() -> None:
    rows = pilot_rows()  # R2 at step 20
    calm = [LogRow(row.step, {**row.metrics, **rows[0].metrics}) for row in rows[1:3]]

    _, alarms, _ = watched(Server([*rows[:4], *calm, *rows[3:]]))

    assert alarms.count(("R2", "warn")) == 2


def test_a_source_that_cannot_be_read_at_first_or_for_too_long_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "OUTAGE_LIMIT_S", 0.05)

    with pytest.raises(HistoryError, match="locked"):
        watched(Server(pilot_rows(), 1))
    with pytest.raises(HistoryError, match="locked"):
        watched(Server(pilot_rows(), *range(2, 10_000)))


def _line(row: LogRow) -> str:
    return json.dumps({"step": row.step, **row.metrics}) + "\n"


def test_a_file_is_watched_as_rows_are_appended_until_the_user_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lines = tmp_path / "log.jsonl", [_line(row) for row in pilot_rows()]
    path.write_text(lines.pop(0), encoding="utf-8")

    def wait(_: float) -> None:
        if not lines:
            raise KeyboardInterrupt
        with path.open("a", encoding="utf-8") as file:
            file.write(lines.pop(0))

    monkeypatch.setattr(following.time, "sleep", wait)
    arguments = ["monitor", "--file", str(path), "--json"]

    watched = CliRunner().invoke(cli, [*arguments, "--follow"], standalone_mode=False)

    whole = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert lines == []
    assert "R5@35" in watched.stderr
    assert json.loads(watched.stdout) == json.loads(whole.stdout)
    assert json.loads(watched.stdout)["stop"]["advised"] is True


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("log.jsonl", ["", "", '{"step": 1, "reward": 0.5}\n']),
        ("log.jsonl", ["", '{"step": 1, "rew', 'ard": 0.5}\n']),
        ("log.csv", ["", "", "step,reward\n1,0.5\n"]),
    ],
)
def test_a_watched_file_is_waited_for_until_it_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parts: list[str]
) -> None:
    # A trainer opens its log when it starts, and may write the first row an hour later.
    path = tmp_path / name
    path.write_text(parts.pop(0), encoding="utf-8")

    def wait(_: float) -> None:
        if not parts:
            raise KeyboardInterrupt
        with path.open("a", encoding="utf-8") as file:
            file.write(parts.pop(0))

    monkeypatch.setattr(following, "OUTAGE_LIMIT_S", 0.0)
    monkeypatch.setattr(following.time, "sleep", wait)
    arguments = ["monitor", "--file", str(path), "--json"]

    watched = CliRunner().invoke(cli, [*arguments, "--follow"], standalone_mode=False)

    whole = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert watched.stderr.count(f"{path} holds no rows") == 1
    assert json.loads(watched.stdout) == json.loads(whole.stdout)


@pytest.mark.parametrize(
    "end",
    [
        {"global_step": 60, "max_steps": 60},
        {"global_step": 60, "max_steps": 400, "words": {"step": 60, "train_runtime": 8.0}},
    ],
    ids=["last step", "stopped early"],
)
def test_a_watch_of_trainer_state_ends_with_its_training(
    end: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trainer_state.json"
    rows = [{"step": row.step, **row.metrics} for row in pilot_rows()]
    words = end.pop("words", None)
    states: list[dict[str, object]] = [
        {"global_step": 5, "max_steps": 400, "log_history": rows[:1]},
        {**end, "log_history": [*rows, words] if words else rows},
    ]

    def write(_: float = 0.0) -> None:
        path.write_text(json.dumps(states.pop(0)), encoding="utf-8")

    write()
    monkeypatch.setattr(following.time, "sleep", write)
    arguments = ["monitor", "--file", str(path), "--json", "--follow"]

    watched = CliRunner().invoke(cli, arguments, standalone_mode=False)

    assert states == []
    assert json.loads(watched.stdout)["stop"]["advised"] is True


@pytest.mark.mlflow
def test_the_outcome_of_a_run_that_goes_on_is_said_to_be_one_so_far(
    store: str, tmp_path: Path
) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("sft")
    client.create_model_version("sft", tmp_path.as_uri())
    run_id = client.create_run("0").info.run_id
    command = ["outcome", "models:/sft/1", "--run-id", run_id, "--json"]
    client.log_metric(run_id, "reward", 0.3, step=1)
    running = CliRunner().invoke(cli, command, standalone_mode=False)
    client.log_metric(run_id, "reward", 0.7, step=2)
    client.set_terminated(run_id)
    ended = CliRunner().invoke(cli, command, standalone_mode=False)

    assert f"run {run_id} has not ended" in running.stderr
    assert "has not ended" not in ended.stderr
    assert json.loads(ended.stdout)["mean_final"] == 0.7
    assert json.loads(ended.stdout)["num_runs"] == 1
