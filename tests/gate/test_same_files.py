"""What is judged, hashed and returned are the files that MLflow loads, wherever a source leads.

Each checkpoint here has the names and sizes of the attested one, as checkpoints of one training
run do, and other weights: only where it lies can tell them apart before the content is read.
"""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import LoggedModelOutput
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

import mlflow_rlrisk
from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.content import FileEntry, hash_folder
from mlflow_rlrisk.errors import ModelReferenceError, PromotionRefusedError
from mlflow_rlrisk.gate.promotion_policy import PolicySource
from mlflow_rlrisk.gate.reconcile import Finding, Reconciler
from mlflow_rlrisk.model_reference import resolve_reference
from tests.gate.conftest import Gated, refused
from tests.gate.world import FILES, checkpoint_folder

OTHERS = {**FILES, "model.safetensors": FILES["model.safetensors"].upper()}


@pytest.fixture
def other(gated: Gated) -> Path:
    """The folder of a checkpoint that nobody assessed."""
    return checkpoint_folder(gated.checkpoint.parent / "other", OTHERS)


def loaded(uri: str) -> tuple[FileEntry, ...]:
    """What MLflow gives somebody who loads a version."""
    return hash_folder(Path(mlflow.artifacts.download_artifacts(uri)))


def versions_of(gated: Gated, model: str, source: str) -> Any:
    """A version by the client, of a model that is there or not."""
    if not any(each.name == model for each in gated.client.search_registered_models()):
        gated.client.create_registered_model(model)
    return gated.client.create_model_version(model, source, gated.run_id)


def attested(gated: Gated, version: Any, files: tuple[FileEntry, ...] = ()) -> None:
    envelope = gated.world.sign(version, files or gated.files)
    gated.client.set_model_version_tag(version.name, version.version, ATTESTATION_TAG, envelope)


def promote(gated: Gated) -> None:
    gated.client.set_registered_model_alias("prod-a", "champion", "1")


def reconciled(gated: Gated) -> list[Finding]:
    bar = PolicySource(gated.world.policy_path).current()
    return Reconciler(gated.client, gated.store.gatekeeper.log).run(bar)


def log_model(gated: Gated, folder: Path, name: str, *, is_output: bool = False) -> str:
    """A LoggedModel of the run, with the files of a folder."""
    client = gated.client
    experiment_id = client.get_run(gated.run_id).info.experiment_id
    made = client.create_logged_model(experiment_id, name=name, source_run_id=gated.run_id)
    client.log_model_artifacts(made.model_id, str(folder))
    client.finalize_logged_model(made.model_id, "READY")
    if is_output:
        client.log_outputs(gated.run_id, [LoggedModelOutput(made.model_id, 0)])
    return str(made.model_id)


def replaced_original(gated: Gated, other: Path) -> None:
    """A copy of what nobody assessed, whose original gave its name to a proven version."""
    versions_of(gated, "dev-a", other.as_uri())
    versions_of(gated, "prod-a", "models:/dev-a/1")
    gated.client.delete_registered_model("dev-a")
    attested(gated, versions_of(gated, "dev-a", gated.source))


def test_a_version_that_took_the_name_of_an_original_does_not_speak_for_the_copy(
    gated: Gated, other: Path
) -> None:
    replaced_original(gated, other)

    with refused("it has no signed attestation"):
        promote(gated)

    gated.plain.set_registered_model_alias("prod-a", "champion", "1")
    assert [each.action for each in reconciled(gated)] == ["removed"]
    with pytest.raises(PromotionRefusedError, match="it has no signed attestation"):
        mlflow_rlrisk.verify("models:/prod-a/1")


def test_a_copy_whose_original_was_replaced_is_assessed_and_proven_by_its_own_files(
    gated: Gated, other: Path
) -> None:
    replaced_original(gated, other)
    assert resolve_reference("models:/prod-a/1").local_path == other

    attested(gated, gated.client.get_model_version("prod-a", "1"), hash_folder(other))
    promote(gated)

    assert hash_folder(mlflow_rlrisk.verify("models:/prod-a@champion")) == hash_folder(other)
    assert loaded("models:/prod-a@champion") == hash_folder(other)


def test_a_copy_with_a_proof_of_its_own_outlives_its_original(gated: Gated) -> None:
    versions_of(gated, "dev-a", gated.source)
    attested(gated, versions_of(gated, "prod-a", "models:/dev-a/1"))
    gated.client.delete_registered_model("dev-a")

    promote(gated)

    assert hash_folder(mlflow_rlrisk.verify("models:/prod-a@champion")) == gated.files
    assert [each.action for each in reconciled(gated)] == ["kept"]


def test_a_copy_stays_proven_where_its_original_was_made_anew_of_the_same_files(
    gated: Gated,
) -> None:
    versions_of(gated, "dev-a", gated.source)
    versions_of(gated, "prod-a", "models:/dev-a/1")
    gated.client.delete_registered_model("dev-a")
    attested(gated, versions_of(gated, "dev-a", gated.source))

    promote(gated)

    assert loaded("models:/prod-a@champion") == gated.files


def test_a_path_of_a_run_that_is_a_folder_and_a_logged_model_is_refused(
    gated: Gated, other: Path
) -> None:
    gated.client.log_artifacts(gated.run_id, str(other), "model")
    log_model(gated, gated.checkpoint, "model", is_output=True)
    version = versions_of(gated, "prod-a", f"runs:/{gated.run_id}/model")
    attested(gated, version)
    weights = {each.path: each for each in loaded("models:/prod-a/1")}["model.safetensors"]
    assert weights in hash_folder(other)  # MLflow loads what the LoggedModel does not hold

    with refused("MLflow loads a mixture of both"):
        promote(gated)

    assert hash_folder(mlflow_rlrisk.verify("models:/prod-a/1")) == gated.files


@pytest.mark.parametrize("is_output", [False, True])
def test_a_logged_model_that_comes_to_lie_over_a_proven_folder_is_found(
    gated: Gated, tmp_path: Path, is_output: bool
) -> None:
    folder = checkpoint_folder(tmp_path / "pyfunc", {"MLmodel": "flavors: {}", "model/w": "good"})
    gated.client.log_artifacts(gated.run_id, str(folder), "model")
    version = versions_of(gated, "prod-a", f"runs:/{gated.run_id}/model")
    attested(gated, version, hash_folder(folder))
    promote(gated)

    log_model(gated, checkpoint_folder(tmp_path / "w", {"w": "evil"}), "model", is_output=is_output)

    downloaded = Path(mlflow.artifacts.download_artifacts("models:/prod-a/1"))
    assert (downloaded / "model" / "w").read_text() == "evil"
    with refused("MLflow loads a mixture of both"):
        gated.client.get_model_version_by_alias("prod-a", "champion")
    assert [each.action for each in reconciled(gated)] == ["removed"]


def test_a_logged_model_of_another_run_or_name_is_in_nobodys_way(gated: Gated, other: Path) -> None:
    client = gated.client
    client.log_artifacts(gated.run_id, str(gated.checkpoint), "model")
    experiment_id = client.get_run(gated.run_id).info.experiment_id
    foreign = client.create_run(experiment_id).info.run_id
    made = client.create_logged_model(experiment_id, name="model", source_run_id=foreign)
    client.log_model_artifacts(made.model_id, str(other))
    log_model(gated, other, "models")
    attested(gated, versions_of(gated, "prod-a", f"runs:/{gated.run_id}/model"))

    promote(gated)

    assert hash_folder(mlflow_rlrisk.verify("models:/prod-a@champion")) == gated.files
    assert loaded("models:/prod-a@champion") == gated.files


def test_a_logged_model_alone_is_what_a_path_of_its_run_means(gated: Gated) -> None:
    log_model(gated, gated.checkpoint, "model")
    reference = f"runs:/{gated.run_id}/model"

    found = resolve_reference(reference).local_path

    assert found is not None
    assert hash_folder(found) == loaded(reference) == gated.files
    attested(gated, versions_of(gated, "prod-a", reference))
    assert loaded("models:/prod-a/1") != gated.files  # MLflow puts them into a folder of the name
    with refused("config.json is missing"):
        promote(gated)


def test_a_percent_escape_in_a_local_source_leads_where_it_leads_mlflow(
    gated: Gated, other: Path
) -> None:
    escaped = checkpoint_folder(other.with_name("%6fther"))
    attested(gated, versions_of(gated, "prod-a", str(escaped)))
    promote(gated)  # the sizes are the same

    assert loaded("models:/prod-a/1") == hash_folder(other)
    with pytest.raises(PromotionRefusedError, match="not what was attested"):
        mlflow_rlrisk.verify("models:/prod-a/1")
    assert [each.action for each in reconciled(gated)] == ["removed"]


@pytest.mark.parametrize("more", ["?x", "#x", "\t", "\n"])
def test_what_mlflow_leaves_out_of_a_path_of_a_run_is_refused(gated: Gated, more: str) -> None:
    checkpoint_folder(gated.checkpoint.parent / gated.run_id / "artifacts" / f"model{more}")

    reference = f"runs:/{gated.run_id}/model{more}"
    assert RunsArtifactRepository.parse_runs_uri(reference) == (gated.run_id, "model")
    with pytest.raises(ModelReferenceError, match="has no known form"):
        resolve_reference(reference)
