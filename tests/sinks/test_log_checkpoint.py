import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from mlflow_rlrisk.errors import ModelReferenceError
from mlflow_rlrisk.sinks.registry import MODEL_TYPE, log_checkpoint

pytestmark = pytest.mark.mlflow


def files_of(uri: str, target: Path) -> set[str]:
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(target)))
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_folder_becomes_a_ready_logged_model_and_a_version_with_the_same_files(
    store: str, checkpoint: Path, tmp_path: Path
) -> None:
    version = log_checkpoint(
        checkpoint, "coder-sft", tags={"team": "rl"}, params={"epochs": 64}, step=512
    )

    target = tmp_path / "download"
    target.mkdir()
    model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    assert (version.name, str(version.version)) == ("coder-sft", "1")
    assert version.tags == {"team": "rl", "rlrisk.step": "512"}
    assert model.status == "READY"
    assert model.model_type == MODEL_TYPE
    assert model.params == {"epochs": "64"}
    assert files_of("models:/coder-sft/1", target) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "extra/special.json",
    }
    assert (target / "model.safetensors").read_bytes() == b"weights"


def test_a_second_checkpoint_under_the_same_name_is_version_two(
    store: str, checkpoint: Path
) -> None:
    log_checkpoint(checkpoint, "coder-sft")

    assert str(log_checkpoint(checkpoint, "coder-sft").version) == "2"


def test_without_a_name_nothing_is_registered(store: str, checkpoint: Path) -> None:
    model = log_checkpoint(checkpoint, parent="models:/base/1")

    assert model.status == "READY"
    assert model.tags["rlrisk.parent"] == "models:/base/1"
    assert mlflow.MlflowClient().search_registered_models() == []


def test_the_active_run_lists_the_checkpoint_as_its_output_at_the_step(
    store: str, checkpoint: Path
) -> None:
    with mlflow.start_run() as run:
        model = log_checkpoint(checkpoint, step=64)

    outputs = mlflow.get_run(run.info.run_id).outputs.model_outputs
    assert [(output.model_id, output.step) for output in outputs] == [(model.model_id, 64)]


def test_links_of_a_hugging_face_cache_are_stored_as_files(
    store: str, checkpoint: Path, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    (checkpoint / "model.safetensors").rename(blob)
    (checkpoint / "model.safetensors").symlink_to(blob)

    model = log_checkpoint(checkpoint)

    target = tmp_path / "download"
    target.mkdir()
    mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(target))
    assert (target / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights")],
)
def test_a_folder_that_is_no_checkpoint_is_refused_before_anything_is_written(
    store: str, checkpoint: Path, missing: str, message: str
) -> None:
    (checkpoint / missing).unlink()

    with pytest.raises(ModelReferenceError, match=message):
        log_checkpoint(checkpoint, "coder-sft")

    assert mlflow.search_logged_models(output_format="list") == []
    assert mlflow.MlflowClient().search_registered_models() == []


def test_a_failing_upload_leaves_no_pending_model(
    store: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", broken)

    with pytest.raises(OSError, match="disk full"):
        log_checkpoint(checkpoint, "coder-sft")

    models = mlflow.search_logged_models(output_format="list")
    assert [model.status for model in models] == ["FAILED"]


def test_registering_needs_no_torch(store: str, checkpoint: Path) -> None:
    program = (
        "import sys, mlflow\n"
        "from mlflow_rlrisk import log_checkpoint\n"
        f"mlflow.set_tracking_uri({store!r}); mlflow.set_experiment('rlrisk')\n"
        f"log_checkpoint({str(checkpoint)!r}, 'coder-sft')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

    assert len(mlflow.MlflowClient().search_model_versions("name='coder-sft'")) == 1


@pytest.mark.parametrize("name", ["sft/coder", "sft:coder", "sft@best", "100%", " "])
def test_a_name_that_no_reference_can_hold_is_refused_before_anything_is_uploaded(
    store: str, checkpoint: Path, name: str
) -> None:
    with pytest.raises(ModelReferenceError, match="no reference can hold this name"):
        log_checkpoint(checkpoint, name)

    assert mlflow.search_logged_models(output_format="list") == []
    assert mlflow.MlflowClient().search_registered_models() == []


def test_a_checkpoint_stands_in_the_experiment_of_its_training_run(
    store: str, checkpoint: Path
) -> None:
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("training"))

    model = log_checkpoint(checkpoint, source_run_id=run.info.run_id)

    assert model.experiment_id == run.info.experiment_id
