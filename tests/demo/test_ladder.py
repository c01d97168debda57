from pathlib import Path

import pytest

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.demo import ladder, rl, tracking
from mlflow_rlrisk.demo.make_data import NUM_RL
from mlflow_rlrisk.errors import ConfigError

pytest.importorskip("transformers")

QUICK = AssessmentConfig(
    sampling=SamplingConfig(num_samples=8, max_new_tokens=20), device="cpu", num_resamples=400
)


@pytest.fixture
def one_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ladder.Rung:
    monkeypatch.setattr(ladder, "DEPTHS", (1,))
    (rung,) = ladder.train_ladder(tmp_path / "ladder", lambda epoch, loss: None)
    return rung


@pytest.mark.slow
def test_a_finished_ladder_is_used_again_until_something_changes(
    one_rung: ladder.Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = one_rung.folder.parent

    assert ladder.stored_ladder(folder) == [one_rung]

    with monkeypatch.context() as patch:
        patch.setattr(ladder, "LEARNING_RATE", 1e-4)
        assert ladder.stored_ladder(folder) == []
    weights = one_rung.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert ladder.stored_ladder(folder) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_damaged_record_is_none_of_a_ladder_or_a_run(tmp_path: Path, text: str) -> None:
    for record in (ladder.RECORD, rl.RECORD):
        (tmp_path / record).write_text(text)

    assert ladder.stored_ladder(tmp_path) == []
    assert rl._stored_run(tmp_path, "key") is None


@pytest.mark.parametrize("name", ["thesis.tex", "epochs-001.bak"])
def test_a_folder_that_holds_what_no_ladder_wrote_is_not_emptied(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "ladder"
    (folder / "epochs-001").mkdir(parents=True)
    (folder / name).write_text("years of work")

    with pytest.raises(ConfigError, match=rf"^out=.*without '{name}'"):
        ladder.train_ladder(folder, lambda epoch, loss: None)

    assert sorted(path.name for path in folder.iterdir()) == sorted(["epochs-001", name])


def test_other_code_of_ours_reads_no_report_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tracking.report_file(tmp_path, 1)

    monkeypatch.setattr(tracking, "own_code", lambda: "0" * 64)

    assert tracking.report_file(tmp_path, 1) != before


@pytest.mark.slow
def test_training_twice_gives_the_same_bytes(one_rung: ladder.Rung, tmp_path: Path) -> None:
    (again,) = ladder.train_ladder(tmp_path / "again", lambda epoch, loss: None)

    first = (one_rung.folder / "model.safetensors").read_bytes()
    assert (again.folder / "model.safetensors").read_bytes() == first


@pytest.mark.slow
@pytest.mark.mlflow
@pytest.mark.usefixtures("store")
def test_a_rung_is_registered_and_assessed_once(one_rung: ladder.Rung, tmp_path: Path) -> None:
    import mlflow

    (version,) = tracking.register_rungs([one_rung])
    report = tracking.assess_version(version, tmp_path / "reports", QUICK)
    runs_before = len(mlflow.search_runs(output_format="list"))
    again = tracking.register_rungs([one_rung])
    same = tracking.assess_version(version, tmp_path / "reports", QUICK)
    tags = mlflow.MlflowClient().get_model_version(tracking.MODEL_NAME, "1").tags

    assert again == [version]
    assert same == report
    assert len(mlflow.search_runs(output_format="list")) == runs_before
    assert report.num_prompts == NUM_RL
    assert 0.0 < report.metrics["rlrisk/pass_at_1"].value < 1.0
    assert report.metrics["rlrisk/verifier_failure_share"].value == 0.0
    assert tags["rlrisk.risk_level"] == str(report.risk_level)
