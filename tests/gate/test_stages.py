"""Stages: entered with proof, left freely, and taken back where the proof broke."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlflow_rlrisk
from mlflow_rlrisk.errors import ModelReferenceError, PromotionRefusedError
from mlflow_rlrisk.gate.client import find_version
from mlflow_rlrisk.gate.promotion_policy import PolicySource, Target
from mlflow_rlrisk.gate.reconcile import Finding, Reconciler
from tests.gate.conftest import RULES, Gated, refused
from tests.gate.world import one_object

PROMPT = "mlflow.prompt.is_prompt"


@pytest.fixture
def staged(gated: Gated, tmp_path: Path) -> Callable[[str], Path]:
    """Put a new proven version with files of its own into Production; returns its weights."""

    def make(name: str) -> Path:
        folder = tmp_path / "artifacts" / f"{name}-{len(list(tmp_path.glob('artifacts/*')))}"
        shutil.copytree(gated.checkpoint, folder)
        if not any(each.name == name for each in gated.plain.search_registered_models()):
            gated.plain.create_registered_model(name)
        made = gated.plain.create_model_version(name, folder.as_uri(), gated.run_id)
        gated.attest(made)
        gated.store.transition_model_version_stage(name, made.version, "Production", False)
        return folder / "model.safetensors"

    return make


def spoil(weights: Path) -> None:
    weights.write_bytes(b"W" + weights.read_bytes()[1:])  # same size: the gate cannot see it


def reconcile(gated: Gated) -> list[Finding]:
    bar = PolicySource(gated.world.policy_path).current()
    return Reconciler(gated.client, gated.store.gatekeeper.log).run(bar)


def stages(gated: Gated, name: str) -> dict[int, str]:
    found = gated.plain.search_model_versions(f"name = '{name}'")
    return {each.version: each.current_stage for each in found}


def test_a_version_whose_content_changed_leaves_its_stage_and_the_last_good_one_returns(
    gated: Gated, staged: Callable[[str], Path]
) -> None:
    first, second = staged("prod-a"), staged("prod-a")
    gated.plain.transition_model_version_stage("prod-a", "1", "Archived", False)
    assert [each.action for each in reconcile(gated)] == ["kept"]

    spoil(second)
    with warnings.catch_warnings():  # of MLflow's, about stages
        warnings.simplefilter("error", FutureWarning)
        (finding,) = reconcile(gated)

    assert (finding.action, finding.restored_to) == ("restored", "1")
    assert (finding.alias, finding.stage, finding.version) == (None, "Production", "2")
    assert "the content of model.safetensors is not what was attested" in finding.message
    assert stages(gated, "prod-a") == {1: "Production", 2: "Archived"}
    last = gated.entries()[-1]
    assert (last.action, last.target, last.version) == ("reconcile", "stage.production", "2")
    spoil(first)
    (finding,) = reconcile(gated)
    assert (finding.action, finding.restored_to) == ("removed", None)
    assert stages(gated, "prod-a") == {1: "Archived", 2: "Archived"}


def test_nobody_is_brought_back_while_another_version_is_in_the_stage(
    gated: Gated, staged: Callable[[str], Path]
) -> None:
    staged("prod-a")
    spoil(staged("prod-a"))

    findings = reconcile(gated)

    assert [(each.version, each.action) for each in findings] == [("1", "kept"), ("2", "removed")]
    assert stages(gated, "prod-a") == {1: "Production", 2: "Archived"}


def test_where_the_archive_is_protected_as_well_a_version_is_left_without_a_stage(
    gated: Gated, staged: Callable[[str], Path]
) -> None:
    rules = [{"name": "both", "models": ["prod-*"], "stages": ["Production", "Archived"]}]
    gated.world.write_policy(rules)
    spoil(staged("prod-a"))

    (finding,) = reconcile(gated)

    assert finding.action == "removed"
    assert stages(gated, "prod-a") == {1: "None"}


@pytest.mark.parametrize("marked", ["model", "version"])
def test_marking_something_as_a_prompt_hides_no_stage(
    gated: Gated, staged: Callable[[str], Path], marked: str
) -> None:
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag

    spoil(staged("prod-a"))
    if marked == "model":
        gated.plain.set_registered_model_tag("prod-a", RegisteredModelTag(PROMPT, "true"))
    else:
        other = gated.plain.create_model_version("prod-a", gated.source, gated.run_id)
        gated.plain.set_model_version_tag("prod-a", other.version, ModelVersionTag(PROMPT, "true"))

    (finding,) = reconcile(gated)

    assert (finding.version, finding.action) == ("1", "removed")
    assert gated.plain.get_model_version("prod-a", "1").current_stage == "Archived"


def test_every_page_of_versions_is_looked_at(
    gated: Gated, staged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        staged("prod-a")
    gated.version("dev-a")
    gated.plain.transition_model_version_stage("dev-a", "1", "Production", False)
    client = gated.client
    whole = client.search_model_versions

    def one_by_one(filter_string: str, page_token: str | None = None) -> Any:
        return whole(filter_string, max_results=1, page_token=page_token)

    monkeypatch.setattr(client, "search_model_versions", one_by_one)
    bar = PolicySource(gated.world.policy_path).current()

    findings = Reconciler(client, gated.store.gatekeeper.log).run(bar)

    assert [each.version for each in findings] == ["1", "2", "3"]


def test_a_stage_that_cannot_be_left_is_told(
    gated: Gated, staged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    spoil(staged("prod-a"))
    client = gated.client

    def refuse(*_: Any) -> None:
        raise MlflowException("read-only")

    monkeypatch.setattr(client, "transition_model_version_stage", refuse)
    bar = PolicySource(gated.world.policy_path).current()

    (finding,) = Reconciler(client, gated.store.gatekeeper.log).run(bar)

    assert finding.action == "failed"
    assert "cannot be taken back: model='prod-a': read-only" in finding.message


def test_a_version_leaves_every_stage_freely_even_where_all_of_a_model_is_protected(
    gated: Gated,
) -> None:
    gated.version("vault-a")
    gated.plain.transition_model_version_stage("vault-a", "1", "Staging", False)

    with refused("has no signed attestation"):
        gated.store.transition_model_version_stage("vault-a", "1", "Archived", False)
    gated.store.transition_model_version_stage("vault-a", "1", "none", False)

    assert stages(gated, "vault-a") == {1: "None"}


def test_no_version_is_archived_by_another_ones_transition_where_that_needs_proof(
    gated: Gated,
) -> None:
    rules = [{"name": "archive", "models": ["prod-*"], "stages": ["Archived"]}]
    gated.world.write_policy(rules)
    for is_proven in (False, True, True):
        gated.version("prod-a", is_proven=is_proven)
    gated.plain.transition_model_version_stage("prod-a", "1", "Production", False)

    with refused("stage 'Archived' of 'prod-a' version 1 is blocked"):
        gated.store.transition_model_version_stage("prod-a", "2", "Production", True)
    assert stages(gated, "prod-a") == {1: "Production", 2: "None", 3: "None"}
    gated.plain.transition_model_version_stage("prod-a", "1", "None", False)
    gated.plain.transition_model_version_stage("prod-a", "3", "Production", False)
    gated.store.transition_model_version_stage("prod-a", "2", "Production", True)

    assert stages(gated, "prod-a") == {1: "None", 2: "Production", 3: "Archived"}
    assert [each.action for each in gated.entries()] == ["archive", "archive"]


def test_the_holder_of_a_stage_is_found_whatever_the_models_name(gated: Gated) -> None:
    made = new_version(gated, "team's-sft")
    gated.plain.transition_model_version_stage("team's-sft", made, "Production", False)

    found = find_version(gated.client, "team's-sft", Target("stage", "production"))

    assert (found.name, str(found.version)) == ("team's-sft", made)


def test_a_bare_name_is_a_version_only_where_one_alone_has_the_place(gated: Gated) -> None:
    new_version(gated, "coder")

    with pytest.raises(ModelReferenceError, match=r"^model='coder': name a version$"):
        find_version(gated.client, "coder", None)
    with pytest.raises(ModelReferenceError, match=r"name a version; 0 have alias 'champion'$"):
        find_version(gated.client, "coder", Target("alias", "champion"))


def new_version(gated: Gated, name: str) -> str:
    gated.plain.create_registered_model(name)
    return str(gated.plain.create_model_version(name, gated.checkpoint.as_uri()).version)


def test_a_trainer_verifies_what_it_reads_by_a_stage_by_the_rules_of_that_stage(
    gated: Gated, staged: Callable[[str], Path], rlrisk: Any
) -> None:
    bar = {"rlrisk/none": {"threshold": 0.5, "greater_is_better": True}}
    gated.world.write_policy([*RULES, {"name": "g", "aliases": ["gold"], "required_metrics": bar}])
    weights = staged("prod-a")

    for spelling in ("Production", "production"):
        assert mlflow_rlrisk.verify(f"models:/prod-a/{spelling}") == weights.parent
    with pytest.raises(PromotionRefusedError, match="rlrisk/none is required"):
        mlflow_rlrisk.verify("models:/prod-a/Production", alias="gold")
    gated.plain.transition_model_version_stage("prod-a", "1", "Staging", False)
    with pytest.raises(PromotionRefusedError, match="rlrisk/none is required"):
        mlflow_rlrisk.verify("models:/prod-a/Staging")  # no rule protects it: all of the model
    gated.plain.transition_model_version_stage("prod-a", "1", "Production", False)
    spoil(weights)
    told = rlrisk("verify", "models:/prod-a/Production", "--json")
    assert (told[0], one_object(told[1])["reason"]) == (10, "content_changed")


def test_the_registry_hands_out_no_version_by_a_stage_whose_proof_is_gone(
    gated: Gated, rlrisk: Any
) -> None:
    gated.version("prod-a")
    gated.plain.transition_model_version_stage("prod-a", "1", "Production", False)

    code, out = rlrisk("verify", "models:/prod-a/Production", "--json")

    told = one_object(out)
    assert (code, told["outcome"], told["reason"]) == (10, "block", "unscored")
    assert "stage 'Production'" in told["message"]
