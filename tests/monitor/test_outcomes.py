"""Outcomes of a version: every run is one entry, whoever writes, wherever its log lies."""

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import SinkError
from mlflow_rlrisk.monitor.outcome import RunOutcome, recorded_outcomes, run_outcome
from mlflow_rlrisk.sinks import version_outcome
from mlflow_rlrisk.sinks.version_outcome import record_outcome
from tests.monitor.test_callback import play

pytestmark = pytest.mark.mlflow


@pytest.fixture
def client(store: str, tmp_path: Path) -> Any:
    import mlflow

    found = mlflow.MlflowClient()
    found.create_registered_model("sft")
    found.create_model_version("sft", tmp_path.as_uri())
    return found


def runs_of(client: Any) -> list[dict[str, Any]]:
    return recorded_outcomes(client.get_model_version("sft", "1").tags.get("rlrisk.outcome"))


def logs(slope: float, count: int = 12) -> list[dict[str, float]]:
    return [{"reward": 0.2 + slope * i, "reward_std": 0.4} for i in range(1, count + 1)]


def state(folder: Path, rows: list[dict[str, float]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "trainer_state.json"
    history = [{**row, "step": i} for i, row in enumerate(rows, start=1)]
    path.write_text(json.dumps({"log_history": history}))
    return path


def record(path: Path | str) -> dict[str, Any]:
    command = ["outcome", "models:/sft/1", "--file", str(path), "--json"]
    result = CliRunner().invoke(cli, command, standalone_mode=False)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def outcome_of(final: float) -> RunOutcome:
    found = run_outcome([1, 2], [0.1, final], quantity="success", collapsed=False)
    assert found
    return found


def test_two_runs_whose_logs_are_called_alike_are_two(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, slope in (("one", 0.01), ("two", 0.02)):
        monkeypatch.chdir(state(tmp_path / name, logs(slope)).parent)
        answer = record("trainer_state.json")

    assert answer["num_runs"] == 2
    assert [round(run["final"], 2) for run in runs_of(client)] == [0.32, 0.44]


def test_a_log_that_was_moved_or_has_grown_is_still_one_run(client: Any, tmp_path: Path) -> None:
    first = state(tmp_path / "one", logs(0.01))
    record(first)
    shutil.move(first, tmp_path / "moved.json")
    record(tmp_path / "moved.json")
    longer = record(state(tmp_path / "longer", logs(0.01, count=20)))

    assert longer["num_runs"] == 1
    assert runs_of(client)[0]["last_step"] == 20


def test_runs_that_began_alike_are_two_once_their_logs_differ(
    client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = [{"reward": 0.0, "reward_std": 0.0}] * 12
    record(state(tmp_path / "dead", dead * 2))
    assert "first rows" not in caplog.text
    record(state(tmp_path / "awake", dead + logs(0.02)))

    assert [round(run["final"], 2) for run in runs_of(client)] == [0.0, 0.44]
    assert "--replaces" in caplog.text
    record(state(tmp_path / "longer", dead + logs(0.02, count=80)))
    assert [run["last_step"] for run in runs_of(client)] == [24, 92]


def test_a_run_that_was_resumed_from_an_earlier_step_can_replace_what_was_recorded(
    client: Any, tmp_path: Path
) -> None:
    record(state(tmp_path / "crashed", logs(0.01, count=24)))
    (crashed,) = runs_of(client)
    resumed = state(tmp_path / "resumed", logs(0.01) + logs(0.02, count=30))
    record_with = ["outcome", "models:/sft/1", "--file", str(resumed), "--replaces"]
    with pytest.raises(SinkError, match=f"replaces='log 0'.*{crashed['run']}"):
        CliRunner().invoke(
            cli, [*record_with, "log 0"], standalone_mode=False, catch_exceptions=False
        )
    CliRunner().invoke(cli, [*record_with, crashed["run"]], standalone_mode=False)

    assert [run["last_step"] for run in runs_of(client)] == [42]


def test_trl_runs_without_mlflow_are_told_apart_and_known_by_their_logs(
    client: Any, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from mlflow_rlrisk import RLRiskCallback

    for slope in (0.01, 0.02):
        play(RLRiskCallback(model="models:/sft/1"), list(enumerate(logs(slope), start=1)))
    assert len(runs_of(client)) == 2

    # The same run once more, from what it left behind.
    assert record(state(tmp_path / "out", logs(0.02)))["num_runs"] == 2


def test_writers_at_the_same_time_lose_nothing(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    # All read before any writes, as two arms of a sweep that end together would.
    all_have_read = threading.Barrier(3)
    waited = threading.local()
    write = MlflowClient.set_model_version_tag

    def write_late(self: Any, *arguments: Any, **more: Any) -> Any:
        if not getattr(waited, "once", False):
            waited.once = True
            all_have_read.wait(60)
        return write(self, *arguments, **more)

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", write_late)
    writers = [
        threading.Thread(
            target=record_outcome,
            args=("models:/sft/1", outcome_of(0.1 * i)),
            kwargs={"run": f"run-{i}"},
        )
        for i in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert sorted(run["run"] for run in runs_of(client)) == ["run-0", "run-1", "run-2"]


def test_an_outcome_that_is_overwritten_every_time_is_an_error(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    write = MlflowClient.set_model_version_tag
    other = {"run": "other", "recorded_at": "", **outcome_of(0.3).to_dict()}

    def overwritten(self: Any, name: str, version: str, key: str, _: str) -> Any:
        return write(self, name, version, key, json.dumps({"runs": [other]}))

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", overwritten)
    monkeypatch.setattr(version_outcome, "SETTLE_S", 0.0)

    with pytest.raises(SinkError, match="outcome of run mine"):
        record_outcome("models:/sft/1", outcome_of(0.2), run="mine")


def test_a_trl_run_whose_end_is_not_known_says_that_nothing_is_recorded(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("transformers")
    from mlflow_rlrisk import RLRiskCallback

    rows = [*enumerate(logs(0.01), start=1), (13, {"reward": float("nan")})]
    play(RLRiskCallback(model="models:/sft/1"), rows, SimpleNamespace(num_generations=8))

    assert runs_of(client) == []
    assert "reward: finite values: from step 13 on" in caplog.text
