from pathlib import Path

import pytest

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.demo import ladder, tracking
from mlflow_rlrisk.demo.make_data import NUM_RL
from tests.mlflow_server import migrated_database, sqlite_store

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


@pytest.mark.slow
def test_training_twice_gives_the_same_bytes(one_rung: ladder.Rung, tmp_path: Path) -> None:
    (again,) = ladder.train_ladder(tmp_path / "again", lambda epoch, loss: None)

    first = (one_rung.folder / "model.safetensors").read_bytes()
    assert (again.folder / "model.safetensors").read_bytes() == first


@pytest.mark.slow
@pytest.mark.mlflow
def test_a_rung_is_registered_and_assessed_once(one_rung: ladder.Rung, tmp_path: Path) -> None:
    import mlflow

    with sqlite_store(migrated_database(tmp_path), tmp_path):
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
