"""What is protected in any workspace is looked at, and logged as being there."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities.workspace import Workspace
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as WorkspaceStore
from mlflow.utils.workspace_context import WorkspaceContext

import mlflow_rlrisk
from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.errors import ModelReferenceError, PromotionRefusedError
from mlflow_rlrisk.gate.promotion_policy import PolicySource
from mlflow_rlrisk.gate.reconcile import Finding, Reconciler
from mlflow_rlrisk.gate.store import make_store
from mlflow_rlrisk.model_reference import ModelSource
from tests.gate.conftest import Gated, tag
from tests.gate.test_edges import remote

WORKSPACES = ("default", "team-a", "team-b")


@pytest.fixture
def store(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A gated registry with workspaces, in each of which ``prod-a`` has a proven champion."""
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    made = make_store(f"rlrisk+{gated.uri}")
    workspaces = WorkspaceStore(gated.uri)
    for workspace in WORKSPACES:
        if workspace != "default":
            workspaces.create_workspace(Workspace(workspace))
        with WorkspaceContext(workspace):
            made.create_registered_model("prod-a")
            version = made.create_model_version("prod-a", gated.source, gated.run_id)
            envelope = gated.world.sign(version, gated.files)
            made.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, envelope))
            made.set_registered_model_alias("prod-a", "champion", "1")
    yield made
    made.engine.dispose()


def reconcile(gated: Gated, client: mlflow.MlflowClient | None = None) -> list[Finding]:
    bar = PolicySource(gated.world.policy_path).current()
    return Reconciler(client or gated.client, gated.store.gatekeeper.log).run(bar)


def aliases(store: Any, workspace: str) -> dict[str, int]:
    with WorkspaceContext(workspace):
        return dict(store.get_registered_model("prod-a").aliases)


def test_a_proof_that_broke_is_found_in_every_workspace(
    gated: Gated, store: Any, rlrisk: Any
) -> None:
    (gated.checkpoint / "config.json").write_text('{"model_type": "LLAMA"}')

    with WorkspaceContext("team-a"):  # the one that was chosen, and no other
        (chosen,) = reconcile(gated)
    code, out = rlrisk("gate", "reconcile", "--registry-store-uri", gated.uri)

    assert (chosen.workspace, chosen.action) == ("team-a", "removed")
    assert code == 10
    assert "removed   prod-a@champion (1) " in out
    assert "removed   prod-a@champion of workspace team-b (1) " in out
    assert [aliases(store, workspace) for workspace in WORKSPACES] == [{}, {}, {}]
    logged = [each.workspace for each in gated.entries() if each.action == "reconcile"]
    assert logged == ["team-a", "default", "team-b"]


def test_nobody_comes_back_who_was_let_in_elsewhere(gated: Gated, store: Any) -> None:
    with WorkspaceContext("team-a"):
        # Proven by now, and never let in here; in team-b a version of this number was.
        second = store.create_model_version("prod-a", gated.source, gated.run_id)
        envelope = gated.world.sign(second, gated.files)
        store.set_model_version_tag("prod-a", "2", tag(ATTESTATION_TAG, envelope))
        store.delete_model_version("prod-a", "1")
        third = store.create_model_version("prod-a", gated.source, gated.run_id)
        gated.world.write_policy([{"name": "none", "aliases": ["x"]}])
        store.set_registered_model_alias("prod-a", "champion", third.version)
    with WorkspaceContext("team-b"):
        store.create_model_version("prod-a", gated.source, gated.run_id)
        gated.world.write_policy([{"name": "all", "aliases": ["champion"], "mode": "audit"}])
        store.set_registered_model_alias("prod-a", "champion", "2")
        store.set_registered_model_alias("prod-a", "champion", "1")
    gated.world.write_policy([{"name": "all", "aliases": ["champion"]}])

    findings = {each.workspace: each for each in reconcile(gated)}

    assert findings["team-a"].action == "removed"
    assert findings["default"].action == findings["team-b"].action == "kept"


def test_a_workspace_that_cannot_be_listed_is_told_and_the_others_are_looked_at(
    gated: Gated, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.utils.workspace_context import get_request_workspace

    client = gated.client
    search = client.search_registered_models

    def searched(*arguments: Any, **named: Any) -> Any:
        if get_request_workspace() == "team-a":
            raise MlflowException("no permission")
        return search(*arguments, **named)

    monkeypatch.setattr(client, "search_registered_models", searched)

    findings = reconcile(gated, client)

    assert [(each.workspace, each.model, each.action) for each in findings] == [
        ("default", "prod-a", "kept"),
        ("team-a", "*", "failed"),
        ("team-b", "prod-a", "kept"),
    ]
    assert "no permission" in findings[1].message


def test_of_two_workspaces_both_are_looked_at(
    gated: Gated, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = gated.client
    monkeypatch.setattr(client, "list_workspaces", lambda: [*map(Workspace, WORKSPACES[:2])])

    found = [(each.workspace, each.action) for each in reconcile(gated, client)]

    assert found == [("default", "kept"), ("team-a", "kept")]


def test_a_registry_without_workspaces_that_lists_no_models_is_an_error_not_a_finding(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = gated.client

    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("it is away")

    monkeypatch.setattr(client, "search_registered_models", away)

    with pytest.raises(ModelReferenceError, match="it is away"):
        reconcile(gated, client)


def test_what_was_refused_is_told_also_where_its_folder_is_gone(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gated.version("prod-a", is_proven=True)
    remote(gated, monkeypatch)

    def download(_: ModelSource, folder: Path) -> Path:
        shutil.rmtree(folder)
        raise ModelReferenceError("the store closed")

    monkeypatch.setattr(ModelSource, "download", download)

    with pytest.raises(ModelReferenceError, match="the store closed"):
        mlflow_rlrisk.verify("models:/prod-a/1", dst_path=tmp_path / "here")


def test_nothing_that_was_refused_is_left_for_a_trainer_to_find(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gated.version("prod-a", is_proven=True)
    remote(gated, monkeypatch)
    (gated.checkpoint / "config.json").write_text('{"model_type": "LLAMA"}')

    with pytest.raises(PromotionRefusedError, match=r"content of config\.json"):
        mlflow_rlrisk.verify("models:/prod-a/1", dst_path=tmp_path / "here")

    assert list((tmp_path / "here").iterdir()) == []
    assert (gated.checkpoint / "config.json").exists()
