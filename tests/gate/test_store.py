"""The plugin in this process: what it lets through, what it refuses, what it writes down."""

from typing import Any

import pytest
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.entities.workspace import Workspace, WorkspaceDeletionMode
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as WorkspaceStore
from mlflow.utils.workspace_context import WorkspaceContext

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.content import text_digest
from mlflow_rlrisk.gate.store import make_store
from tests.gate.conftest import Gated, refused, tag


def test_an_alias_is_set_for_a_proven_version_only_and_both_are_logged(gated: Gated) -> None:
    unproven, proven = gated.version("prod-a"), gated.version("prod-a", is_proven=True)

    with refused("it has no signed attestation"):
        gated.store.set_registered_model_alias("prod-a", "champion", unproven.version)
    gated.store.set_registered_model_alias("prod-a", "champion", f"0{proven.version}")

    assert gated.store.get_model_version_by_alias("prod-a", "champion").version == 2
    blocked, promoted = gated.entries()
    assert (blocked.outcome, blocked.reason, blocked.version) == ("block", "unscored", "1")
    assert (promoted.outcome, promoted.reason, promoted.version) == ("promote", "proven", "2")
    assert (promoted.target, promoted.rule) == ("alias.champion", "guarded")
    assert promoted.key_ids == gated.world.key.key_id
    assert len(promoted.content_digest) == len(promoted.bar_digest) == 64
    assert promoted.actor


def test_unprotected_places_are_not_logged_nor_looked_at(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = gated.version("dev-a")
    monkeypatch.setattr("mlflow_rlrisk.gate.gatekeeper.gather", None)

    gated.store.set_registered_model_alias("dev-a", "champion", version.version)
    gated.store.transition_model_version_stage("dev-a", version.version, "Production", False)
    gated.store.set_model_version_tag("dev-a", "1", tag("rlrisk.risk_level", "low"))
    gated.store.delete_model_version_tag("dev-a", "1", "rlrisk.risk_level")
    gated.store.create_registered_model("dev-b", [RegisteredModelTag("rlrisk.x", "1")])
    gated.store.create_model_version("dev-b", gated.source, gated.run_id, [tag("rlrisk.x", "1")])

    assert gated.store.get_model_version_by_alias("dev-a", "champion").version == 1
    assert gated.store.get_latest_versions("dev-a", ["Production"])[0].version == 1
    assert gated.entries() == []


def test_an_alias_can_be_deleted_even_while_the_log_is_gone(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    gated.version("prod-a", is_proven=True)
    gated.store.set_registered_model_alias("prod-a", "champion", "1")
    gated.store.delete_registered_model_alias("prod-a", "champion")
    gated.store.set_registered_model_alias("prod-a", "champion", "1")
    with gated.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rlrisk_gate_log RENAME TO elsewhere")

    gated.store.delete_registered_model_alias("prod-a", "champion")

    assert gated.plain.get_registered_model("prod-a").aliases == {}
    assert "could not be logged" in caplog.text


def test_without_a_log_entry_there_is_no_promotion(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True)
    with gated.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rlrisk_gate_log RENAME TO elsewhere")

    with refused("'set_alias' is refused, it could not be decided"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")

    assert gated.plain.get_registered_model("prod-a").aliases == {}


def test_what_the_registry_itself_refuses_after_the_gate_let_it_is_logged(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True)

    with pytest.raises(MlflowException, match="cannot archive"):
        gated.store.transition_model_version_stage("prod-a", "1", "None", True)

    last = gated.entries()[-1]
    assert (last.action, last.outcome, last.version) == ("transition_stage", "failed", "1")
    assert "cannot archive" in last.message


def test_mistakes_stay_what_mlflow_calls_them(gated: Gated) -> None:
    gated.version("prod-a")

    with pytest.raises(MlflowException) as missing:
        gated.store.set_registered_model_alias("prod-a", "champion", "7")
    with pytest.raises(MlflowException) as malformed:
        gated.store.set_registered_model_alias("prod-a", "champion", "x")
    with pytest.raises(MlflowException) as stage:
        gated.store.transition_model_version_stage("prod-a", "1", "Prod", False)

    assert missing.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert malformed.value.error_code == "INVALID_PARAMETER_VALUE"
    assert stage.value.error_code == "INVALID_PARAMETER_VALUE"


def test_a_protected_alias_is_not_read_once_its_key_is_revoked(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True)
    gated.store.set_registered_model_alias("prod-a", "champion", "1")
    gated.store.transition_model_version_stage("prod-a", "1", "Production", False)
    from mlflow_rlrisk.attestation.keys import KeyRing

    KeyRing({}).write(gated.world.ring_path)

    with refused("is not in the key ring"):
        gated.store.get_model_version_by_alias("prod-a", "champion")
    with refused("stage 'Production'"):
        gated.store.get_latest_versions("prod-a", ["Production"])

    assert len(gated.store.get_latest_versions("prod-a")) == 1  # the user interface lists
    assert gated.entries()[-1].action == "read"


def test_files_that_cannot_be_listed_are_inconclusive(gated: Gated) -> None:
    gated.plain.create_registered_model("prod-a")
    made = gated.plain.create_model_version("prod-a", "nowhere://bucket/x", gated.run_id)
    gated.attest(made)

    with refused("is inconclusive .* its files cannot be listed"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_a_copy_keeps_what_its_original_proves_and_nothing_forged(gated: Gated) -> None:
    shown = {"rlrisk.risk_level": text_digest("low"), "rlrisk.reasons": text_digest("fine")}
    proven = gated.version("dev-a", is_proven=True, tags=shown)
    for key, value in {
        "rlrisk.risk_level": "low",
        "rlrisk.reasons": "forged",
        "team": "rl",
    }.items():
        gated.tag(proven, key, value)
    copied = gated.client.copy_model_version("models:/dev-a/1", "prod-b")
    unproven = gated.version("dev-a")
    gated.tag(unproven, "rlrisk.risk_level", "low")
    bare = gated.client.copy_model_version("models:/dev-a/2", "prod-b")

    assert gated.plain.get_model_version("prod-b", copied.version).tags == {
        "rlrisk.risk_level": "low",
        "team": "rl",
    }
    assert gated.plain.get_model_version("prod-b", bare.version).tags == {}
    gated.store.set_registered_model_alias("prod-b", "champion", copied.version)
    with refused("it has no signed attestation"):
        gated.store.set_registered_model_alias("prod-b", "champion", bare.version)
    with refused("nobody signed what it says"):
        gated.store.create_model_version(
            "prod-b", "models:/dev-a/1", tags=[tag("rlrisk.risk_level", "none")]
        )


def test_a_refused_copy_names_the_report_of_its_original(gated: Gated) -> None:
    gated.tag(gated.version("dev-a"), "rlrisk.report_uri", "runs:/f/rlrisk/report.html")
    gated.client.copy_model_version("models:/dev-a/1", "prod-b")

    with refused("; report: runs:/f/rlrisk/report.html; run: "):
        gated.store.set_registered_model_alias("prod-b", "champion", "1")


def test_a_report_that_nobody_signed_fills_no_more_than_one_line(gated: Gated) -> None:
    # Whoever may edit may write this tag where no rule spoke; it is shown to whoever is refused.
    gated.tag(gated.version("prod-a"), "rlrisk.report_uri", "https://x\n" + "y" * 5000)

    shown = f"https://x {'y' * 190}"
    with refused(f"it has no signed attestation; report: {shown}; run: rlrisk assess"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_a_copy_speaks_for_itself_where_it_was_attested_itself(gated: Gated) -> None:
    gated.version("dev-a", is_proven=True, risk_level="high")
    copied = gated.client.copy_model_version("models:/dev-a/1", "prod-b")
    with refused("its risk level is high"):
        gated.store.set_registered_model_alias("prod-b", "champion", copied.version)

    gated.attest(gated.plain.get_model_version("prod-b", copied.version))

    gated.store.set_registered_model_alias("prod-b", "champion", copied.version)


def test_a_copy_whose_original_was_deleted_has_nobody_to_speak_for_it(gated: Gated) -> None:
    gated.version("dev-a", is_proven=True)
    copied = gated.client.copy_model_version("models:/dev-a/1", "prod-b")
    gated.store.delete_model_version("dev-a", "1")

    with refused("it has no signed attestation"):
        gated.store.set_registered_model_alias("prod-b", "champion", copied.version)


def test_a_version_made_anew_does_not_inherit_what_its_number_proved(gated: Gated) -> None:
    version = gated.version("prod-a", is_proven=True)
    envelope = version.tags[ATTESTATION_TAG]
    gated.store.delete_registered_model("prod-a")
    gated.plain.create_registered_model("prod-a")
    other = gated.checkpoint.with_name("other")
    other.symlink_to(gated.checkpoint)
    made = gated.plain.create_model_version("prod-a", other.as_uri(), gated.run_id)
    gated.tag(made, ATTESTATION_TAG, envelope)

    with refused("it is about another source"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_only_copies_of_proven_versions_enter_a_protected_model(gated: Gated) -> None:
    gated.version("dev-a", is_proven=True)
    gated.version("dev-a")
    gated.store.create_registered_model("vault-a")

    with refused("being a version of 'vault-a' version .* has no signed attestation"):
        gated.store.create_model_version("vault-a", gated.source, gated.run_id)
    with refused("it has no signed attestation"):
        gated.store.create_model_version("vault-a", "models:/dev-a/2")
    with pytest.raises(MlflowException, match="not found"):
        gated.store.create_model_version("vault-a", "models:/dev-a/9")
    made = gated.store.create_model_version("vault-a", "models:/dev-a/1", description="x")

    assert made.version == 1
    assert made.description == "x"
    gated.store.set_registered_model_alias("vault-a", "anything", "1")


def test_a_model_with_protected_places_is_renamed_only_with_proof_and_keeps_it(
    gated: Gated,
) -> None:
    gated.version("dev-a", is_proven=True)
    gated.version("dev-b")
    gated.version("dev-c")
    for name in ("dev-a", "dev-b"):
        gated.plain.set_registered_model_alias(name, "champion", "1")
        gated.plain.transition_model_version_stage(name, "1", "Production", False)

    with refused("alias 'champion' of 'dev-b' version 1 is blocked"):
        gated.store.rename_registered_model("dev-b", "prod-b")
    with refused("being a version of 'dev-c'"):
        gated.store.rename_registered_model("dev-c", "vault-c")
    gated.store.rename_registered_model("dev-c", "prod-c")  # it has nothing that is protected
    gated.store.rename_registered_model("dev-a", "interim")
    gated.store.rename_registered_model("interim", "prod-a")

    assert gated.store.get_model_version_by_alias("prod-a", "champion").name == "prod-a"
    gated.version("prod-z", is_proven=False)
    gated.tag(
        gated.version("prod-z"),
        ATTESTATION_TAG,
        gated.world.sign(gated.version("dev-a"), gated.files),
    )
    with refused("it is about version"):  # prod-z was never named dev-a
        gated.store.set_registered_model_alias("prod-z", "champion", "2")


def test_no_forged_verdict_is_brought_under_a_ruled_name(gated: Gated) -> None:
    for name in ("dev-a", "dev-b"):
        gated.version(name, is_proven=name == "dev-a")
        gated.store.set_model_version_tag(name, "1", tag("rlrisk.risk_level", "low"))
    gated.store.set_model_version_tag("dev-b", "1", tag(ATTESTATION_TAG, "{}"))

    with refused("tag 'rlrisk.risk_level' of version 1 of 'prod-b' is blocked"):
        gated.store.rename_registered_model("dev-b", "prod-b")
    gated.store.delete_model_version_tag("dev-b", "1", "rlrisk.risk_level")
    gated.store.set_registered_model_tag("dev-b", RegisteredModelTag("rlrisk.risk_level", "low"))
    with refused("verdicts stand on versions"):
        gated.store.rename_registered_model("dev-b", "prod-b")
    gated.store.delete_registered_model_tag("dev-b", "rlrisk.risk_level")
    gated.store.rename_registered_model("dev-b", "prod-b")
    gated.store.rename_registered_model("dev-a", "prod-a")  # its attestation says so
    gated.store.rename_registered_model("prod-a", "prod-c")
    gated.tag(gated.plain.get_model_version("prod-b", "1"), "rlrisk.risk_level", "low")
    gated.store.rename_registered_model("prod-b", "prod-d")  # it was shown under a ruled name

    assert {each.outcome for each in gated.entries()} == {"block", "done"}  # nothing was protected


def test_a_rename_that_failed_leaves_no_former_name(gated: Gated) -> None:
    gated.version("dev-a", is_proven=True)
    gated.version("prod-a")

    with pytest.raises(MlflowException, match="already exists"):
        gated.store.rename_registered_model("dev-a", "prod-a")

    assert gated.store.gatekeeper.former_names("prod-a") == []


def test_a_rule_that_audits_lets_everything_pass_and_logs_it(gated: Gated) -> None:
    gated.version("watched-a")

    gated.store.set_registered_model_alias("watched-a", "champion", "1")
    gated.store.set_model_version_tag("watched-a", "1", tag("rlrisk.risk_level", "low"))
    made = gated.store.create_model_version(
        "watched-a", gated.source, gated.run_id, [tag("rlrisk.x", "1")]
    )

    assert made.tags == {"rlrisk.x": "1"}
    assert {each.reason for each in gated.entries()} == {"audit_only"}
    assert [each.action for each in gated.entries()] == ["set_alias", "set_tag", "create_version"]
    assert gated.store.get_model_version_by_alias("watched-a", "champion").version == 1


def test_workspaces_are_part_of_the_place(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [
        {"name": "a", "aliases": ["champion"], "workspaces": ["team-a"]},
        {"name": "b", "models": ["open-*"], "aliases": ["x"]},
    ]
    gated.world.write_policy(rules)
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    store: Any = make_store(f"rlrisk+{gated.uri}")
    with WorkspaceContext("default"):
        store.create_registered_model("prod-a")
        made = store.create_model_version("prod-a", gated.source, gated.run_id)
        envelope = gated.world.sign(made, gated.files)
        store.set_registered_model_alias("prod-a", "champion", "1")
    with WorkspaceContext("team-a"):
        store.create_registered_model("prod-a")
        made = store.create_model_version("prod-a", gated.source, gated.run_id)
        with refused("it has no signed attestation"):
            store.set_registered_model_alias("prod-a", "champion", "1")
        with refused("in registry 'mlflow', workspace 'default'"):
            store.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, envelope))
        own = gated.world.sign(made, gated.files, workspace="team-a")
        store.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, own))
        store.set_registered_model_alias("prod-a", "champion", "1")


def test_a_deleted_workspace_brings_no_unproven_alias_into_another_one(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.world.write_policy([{"name": "a", "aliases": ["champion"], "workspaces": ["default"]}])
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    store: Any = make_store(f"rlrisk+{gated.uri}")
    workspaces = WorkspaceStore(gated.uri)
    workspaces.create_workspace(Workspace("team-a"))
    with WorkspaceContext("team-a"):
        store.create_registered_model("prod-a")
        store.create_model_version("prod-a", gated.source, gated.run_id)
        store.set_registered_model_alias("prod-a", "champion", "1")

    # MLflow moves what it held by other means than the registry; nobody reads it there.
    workspaces.delete_workspace("team-a", WorkspaceDeletionMode.SET_DEFAULT)

    with WorkspaceContext("default"), refused("it has no signed attestation"):
        store.get_model_version_by_alias("prod-a", "champion")


@pytest.mark.parametrize(
    ("policy", "why"), [(None, "must name the policy file"), ("nowhere.yaml", "cannot be read")]
)
def test_no_registry_is_opened_without_a_usable_policy(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, policy: str | None, why: str
) -> None:
    monkeypatch.setenv("RLRISK_POLICY", policy or "")

    with refused(f"'open the registry' is refused, .*{why}"):
        make_store(f"rlrisk+{gated.uri}")


def test_a_policy_that_is_damaged_later_refuses_everything_guarded(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    gated.version("prod-a", is_proven=True)
    gated.store.set_registered_model_alias("prod-a", "champion", "1")
    gated.world.policy_path.write_text("rules: [")

    for move in (
        lambda: gated.store.set_registered_model_alias("dev-a", "x", "1"),
        lambda: gated.store.get_model_version_by_alias("prod-a", "champion"),
        lambda: gated.store.create_model_version("dev-a", gated.source),
        lambda: gated.store.rename_registered_model("prod-a", "b"),
    ):
        caplog.clear()
        with refused("it could not be decided .ConfigError"):
            move()
        assert "could not be decided" in caplog.text
    gated.store.delete_registered_model_alias("prod-a", "champion")
