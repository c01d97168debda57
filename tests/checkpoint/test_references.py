"""References into a real MLflow: SQLite store, local and served artifacts."""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.utils.models import get_model_name_and_version

from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.errors import CheckpointError, ModelReferenceError
from mlflow_rlrisk.model_reference import parent_of, resolve_reference, series_of
from tests.tiny_models import write_llama

pytestmark = pytest.mark.mlflow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    tmp_path = tmp_path_factory.mktemp("mlflow")
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = MlflowClient()
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "art").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    yield client
    mlflow.set_tracking_uri(before)
    mlflow.set_registry_uri(None)


def _log(client: MlflowClient, folder: Path, run_id: str | None = None) -> str:
    logged = mlflow.initialize_logged_model(name="checkpoint", source_run_id=run_id)
    client.log_model_artifacts(logged.model_id, str(folder))
    mlflow.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def test_version_alias_and_logged_model_name_one_checkpoint(
    client: MlflowClient, model: Path
) -> None:
    with mlflow.start_run() as run:
        model_id = _log(client, model, run.info.run_id)
    client.create_registered_model("sft")
    client.create_model_version("sft", f"models:/{model_id}", run_id=run.info.run_id)
    client.set_registered_model_alias("sft", "candidate", "1")

    by_version = open_checkpoint("models:/sft/1")
    by_alias = open_checkpoint("models:/sft@candidate")
    by_model = open_checkpoint(f"models:/{model_id}")

    expected = open_checkpoint(model).digest
    assert [c.digest for c in (by_version, by_alias, by_model)] == [expected] * 3
    assert [c.model_id for c in (by_version, by_alias, by_model)] == [model_id] * 3
    assert [c.run_id for c in (by_version, by_alias, by_model)] == [run.info.run_id] * 3
    assert (by_version.registered_name, by_version.version) == ("sft", "1")
    assert (by_alias.registered_name, by_alias.version, by_alias.alias) == ("sft", "1", "candidate")
    assert by_model.registered_name is None
    assert by_alias.display_name == "sft/1"


def test_a_stage_names_the_newest_version_in_it_as_mlflow_means_it(
    client: MlflowClient, model: Path
) -> None:
    source = f"models:/{_log(client, model)}"
    client.create_registered_model("staged")
    for number in ("1", "2", "3"):
        client.create_model_version("staged", source)
        if number != "3":
            client.transition_model_version_stage("staged", number, "Production")

    found = resolve_reference("models:/staged/pRODUCTION")

    assert (found.registered_name, found.version, found.stage) == ("staged", "2", "pRODUCTION")
    assert get_model_name_and_version(client, "models:/staged/pRODUCTION") == ("staged", "2")
    assert series_of("models:/staged/Production") == "staged"
    with pytest.raises(ModelReferenceError, match="no version is in this stage"):
        resolve_reference("models:/staged/archived")


def test_a_copied_version_leads_to_the_logged_model_and_keeps_its_own_name(
    client: MlflowClient, model: Path
) -> None:
    model_id = _log(client, model)
    client.create_registered_model("staging")
    client.create_model_version("staging", f"models:/{model_id}")
    client.copy_model_version("models:/staging/1", "production")

    checkpoint = open_checkpoint("models:/production/1")

    assert checkpoint.model_id == model_id
    assert checkpoint.display_name == "production/1"


def test_run_artifacts_are_found(client: MlflowClient, model: Path) -> None:
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(model), "ckpt/last")

    checkpoint = open_checkpoint(f"runs:/{run.info.run_id}/ckpt/last")

    assert checkpoint.digest == open_checkpoint(model).digest
    assert checkpoint.run_id == run.info.run_id
    assert checkpoint.model_id is None


def test_a_logged_model_is_found_through_its_run_and_name(
    client: MlflowClient, model: Path
) -> None:
    with mlflow.start_run() as run:
        model_id = _log(client, model, run.info.run_id)
        client.log_outputs(
            run.info.run_id, [mlflow.entities.LoggedModelOutput(model_id=model_id, step=0)]
        )

    assert open_checkpoint(f"runs:/{run.info.run_id}/checkpoint").model_id == model_id


def test_local_artifacts_are_used_in_place(client: MlflowClient, model: Path) -> None:
    model_id = _log(client, model)

    checkpoint = open_checkpoint(f"models:/{model_id}")

    assert checkpoint.model_path.as_uri() in client.get_logged_model(model_id).artifact_location


def test_served_artifacts_are_downloaded_and_removed_with_the_checkpoint(
    client: MlflowClient, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What an http store does is stood in for by a copy; the private folder is the real one.
    import mlflow.artifacts

    def fetch(artifact_uri: str, dst_path: str) -> str:
        assert artifact_uri == "s3://bucket/ckpt"
        target = Path(dst_path) / "ckpt"
        shutil.copytree(model, target)
        return str(target)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fetch)
    client.create_registered_model("remote")
    client.create_model_version("remote", "s3://bucket/ckpt")

    checkpoint = open_checkpoint("models:/remote/1")

    private = checkpoint.model_path
    assert private.parent.stat().st_mode & 0o077 == 0  # nobody else may read or swap it
    assert checkpoint.digest == open_checkpoint(model).digest
    del checkpoint
    gc.collect()
    assert not private.exists()


def test_a_logged_folder_that_is_no_checkpoint_is_refused(
    client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    model_id = _log(client, tmp_path / "notes")

    with pytest.raises(CheckpointError, match=r"no config\.json; it contains a\.txt"):
        open_checkpoint(f"models:/{model_id}")


@pytest.mark.parametrize(
    "reference",
    [
        "models:/nosuch/1",
        "models:/nosuch@alias",
        "models:/nosuch/Production",
        "models:/m-00000000000000000000000000000000",
        "runs:/00000000000000000000000000000000/model",
    ],
)
def test_a_name_that_nobody_has_is_a_wrong_reference(client: MlflowClient, reference: str) -> None:
    with pytest.raises(ModelReferenceError, match=reference.split("/")[1].split("@")[0]):
        open_checkpoint(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "models:/",
        "models:/name",
        "models:/name/latest",
        "models:/name/Prod",
        "models:/name/1/extra",
        "models:/a%2fb/1",
        "models:/name@",
        "models:/na:me/1",
        "runs:/abc",
        "runs:/abc/../../etc",
        "runs:/abc/%2e%2e/etc",
        "http://host/model",
        "https://user:pw@host/model",
        "file:///etc",
        "s3://bucket/model",
        "hf://org/model",
        "mlflow-artifacts:/x",
    ],
)
def test_a_malformed_reference_is_refused(client: MlflowClient, reference: str) -> None:
    with pytest.raises(ModelReferenceError, match=r"known form|not allowed"):
        open_checkpoint(reference)


def _logged_in(client: MlflowClient, folder: Path, run_id: str) -> str:
    model_id = _log(client, folder, run_id)
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model_id=model_id, step=0)])
    return model_id


def test_of_checkpoints_that_a_run_logged_under_one_name_the_newest_is_meant_as_mlflow_means_it(
    client: MlflowClient, model: Path
) -> None:
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    for _ in range(4):  # MLflow lists a run's outputs in the order of random ids
        with mlflow.start_run() as run:
            logged = [_logged_in(client, model, run.info.run_id) for _ in range(3)]
        reference = f"runs:/{run.info.run_id}/checkpoint"
        theirs = RunsArtifactRepository(reference)._get_logged_model_artifact_repo(
            run.info.run_id, "checkpoint"
        )

        found = resolve_reference(reference)

        assert found.model_id == logged[-1]
        assert theirs is not None
        assert theirs.artifact_uri.endswith(logged[-1])


def test_a_deleted_checkpoint_of_a_run_hides_no_other(client: MlflowClient, model: Path) -> None:
    with mlflow.start_run() as run:
        logged = [_logged_in(client, model, run.info.run_id) for _ in range(4)]
        mlflow.log_artifacts(str(model), "last")
    for deleted in logged[1:]:
        client.delete_logged_model(deleted)

    assert resolve_reference(f"runs:/{run.info.run_id}/checkpoint").model_id == logged[0]
    assert resolve_reference(f"runs:/{run.info.run_id}/last").model_id is None


@pytest.mark.parametrize(
    "source", ["ftp://127.0.0.1:1/sft", "http://127.0.0.1:1/sft", "hf://org/sft"]
)
def test_a_store_that_does_not_give_the_files_is_named_whatever_its_client_raises(
    client: MlflowClient, source: str
) -> None:
    name = "away-" + source.partition(":")[0]
    client.create_registered_model(name)
    client.create_model_version(name, source)

    with pytest.raises(ModelReferenceError, match=rf"models:/{name}/1.*{source}"):
        open_checkpoint(f"models:/{name}/1")


def test_the_parent_of_a_version_is_known_when_its_weights_are_long_removed(
    client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("swept")
    client.create_model_version("swept", (tmp_path / "gone").as_uri(), tags={"rlrisk.parent": "b"})

    assert parent_of("models:/swept/1") == "b"
    assert series_of("models:/swept/1") == "swept"


def test_a_reference_that_is_too_long_for_a_path_is_refused_in_a_sentence() -> None:
    with pytest.raises(ModelReferenceError, match="File name too long"):
        resolve_reference("some text instead of a model " * 100)
