"""What the commands of the gate tell: logs that nobody forges, commands that can be run."""

import re
import warnings
from pathlib import Path
from typing import Any

from mlflow_rlrisk.attestation.keys import SigningKey
from mlflow_rlrisk.gate.gatekeeper import utc_now
from tests.gate.conftest import RULES, Gated, refused
from tests.gate.test_audit import entry
from tests.gate.world import one_object, ring_of


def test_no_name_looks_like_an_entry_of_the_log(gated: Gated, rlrisk: Any) -> None:
    forged = "x\n    9 2026-11-23 promote set_alias prod-a by admin\x1b[2K\u2028\u202e"
    gated.store.gatekeeper.log.append(entry(actor=forged, model="caf\xe9"), utc_now())

    code, out = rlrisk("gate", "log", "--registry-store-uri", gated.uri)

    assert code == 0
    assert len(out.splitlines()) == 2
    assert r"by x\n    9 2026-11-23" in out
    assert r"by admin\x1b[2K\u2028\u202e" in out
    assert "caf\xe9" in out
    assert rlrisk("gate", "log", "--limit", "-1")[0] == 2


def test_asking_for_a_log_makes_no_database(rlrisk: Any, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/typo.db"

    assert rlrisk("gate", "log", "--registry-store-uri", uri) == (2, "")

    assert list(tmp_path.iterdir()) == []
    assert rlrisk("gate", "log", "--registry-store-uri", "sqlite://")[0] == 2


def test_the_command_for_a_version_that_is_not_there_yet_names_one_that_is(gated: Gated) -> None:
    gated.version("dev-a")
    gated.version("dev-a", is_proven=True, risk_level="high")
    gated.store.create_registered_model("vault-a")
    scoring = "--prompts FILE --verifier VERIFIER --register --sign, then copy that version here"

    with refused(re.escape(f"run: rlrisk assess models:/ANOTHER-MODEL/VERSION {scoring}") + "$"):
        gated.store.create_model_version("vault-a", gated.source, gated.run_id)
    for version in ("1", "2"):  # not scored, and scored too high
        with refused(re.escape(f"run: rlrisk assess models:/dev-a/{version} {scoring}") + "$"):
            gated.store.create_model_version("vault-a", f"models:/dev-a/{version}")


def test_a_whole_model_is_let_in_by_an_override_as_the_refusal_says(
    gated: Gated, rlrisk: Any
) -> None:
    gated.version("dev-a", is_proven=True, risk_level="high")
    with refused("being a version of 'dev-a' version 1 .* --every-version --reason"):
        gated.store.rename_registered_model("dev-a", "vault-a")
    key = ["--key", str(gated.world.key_path), "--reason", "agreed"]

    override = ["gate", "override", "models:/dev-a/1", *key]
    assert rlrisk(*override)[0] == 2  # for which place?
    assert rlrisk(*override, "--alias", "champion", "--every-version")[0] == 2
    assert rlrisk(*override, "--every-version")[0] == 0

    gated.store.rename_registered_model("dev-a", "vault-a")


def test_every_key_that_is_given_signs_along(gated: Gated, rlrisk: Any, tmp_path: Path) -> None:
    second = SigningKey.generate()
    second.write(tmp_path / "second.pem")
    ring_of(gated.world.key, second).write(gated.world.ring_path)
    gated.world.write_policy(RULES, override={"required_signatures": 2})
    gated.version("prod-a")
    override = ["gate", "override", "prod-a/1", "--alias", "champion"]
    first = ["--key", str(gated.world.key_path)]

    rlrisk(*override, *first, "--reason", "x")
    code, out = rlrisk(*override, *first, "--key", str(tmp_path / "second.pem"), "--co-sign")

    assert (code, "another holder" in out) == (0, False)
    assert rlrisk("gate", "promote", "prod-a/1", "--alias", "champion")[0] == 0
    missing = ["--key", str(tmp_path / "none.pem"), "--co-sign"]
    assert rlrisk(*override, *first, *missing)[0] == 2  # nothing is signed by the others


def test_a_misspelt_alias_is_misuse_where_a_protected_one_is_meant(
    gated: Gated, rlrisk: Any
) -> None:
    gated.version("prod-a")
    check = ["gate", "check", "models:/prod-a/1", "--policy", str(gated.world.policy_path)]

    assert rlrisk(*check, "--alias", "champoin")[0] == 0  # as the gate, which it does not concern
    assert rlrisk(*check, "--alias", "champoin", "--protected")[0] == 2
    assert rlrisk(*check, "--alias", "champion", "--protected")[0] == 10


def test_nobody_signs_for_a_place_that_nothing_protects(gated: Gated, rlrisk: Any) -> None:
    # A misspelt alias would get a signature, a log entry and exit code 0, and lift no refusal.
    version = gated.version("prod-a")
    gated.version("dev-a")
    key = ["--key", str(gated.world.key_path), "--reason", "agreed", "--json"]

    for model, *place in (
        ("prod-a/1", "--alias", "champoin"),
        ("prod-a/1", "--stage", "Staging"),
        ("dev-a/1", "--alias", "champion"),
    ):
        code, out = rlrisk("gate", "override", model, *place, *key)
        error = one_object(out)["error"]
        assert (code, error["code"]) == (2, "invalid_config")
        assert "no rule protects it" in error["message"]
    assert not gated.plain.get_model_version("prod-a", version.version).tags
    assert gated.entries() == []


def test_what_a_version_has_is_overridden_before_its_model_gets_a_protected_name(
    gated: Gated, rlrisk: Any
) -> None:
    gated.version("dev-a")
    gated.plain.set_registered_model_alias("dev-a", "champion", "1")
    gated.plain.transition_model_version_stage("dev-a", "1", "Production", False)
    key = ["--key", str(gated.world.key_path), "--reason", "agreed"]

    for place in (["--alias", "champion"], ["--stage", "production"]):
        with refused("'dev-a' version 1 is blocked"):
            gated.store.rename_registered_model("dev-a", "prod-a")
        assert rlrisk("gate", "override", "dev-a/1", *place, *key)[0] == 0

    gated.store.rename_registered_model("dev-a", "prod-a")


def test_a_key_that_is_given_twice_signs_once(gated: Gated, rlrisk: Any) -> None:
    gated.world.write_policy(RULES, override={"required_signatures": 2})
    gated.version("prod-a")
    key = ["--key", str(gated.world.key_path)]

    override = ["gate", "override", "prod-a/1", "--alias", "champion", "--reason", "x"]
    code, out = rlrisk(*override, *key, *key)

    assert (code, "1 of 2 signatures" in out) == (0, True)
    assert rlrisk("gate", "promote", "prod-a/1", "--alias", "champion")[0] == 10


def test_a_stage_is_given_without_a_word_of_mlflows_about_stages(gated: Gated, rlrisk: Any) -> None:
    gated.version("prod-a", is_proven=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert rlrisk("gate", "promote", "prod-a/1", "--stage", "production")[0] == 0


def test_reconcile_says_who_holds_the_alias_now(gated: Gated, rlrisk: Any) -> None:
    first, second = (gated.version("prod-a", is_proven=True) for _ in range(2))
    for each in (first, second):
        gated.store.set_registered_model_alias("prod-a", "champion", each.version)
    reconcile = ["gate", "reconcile", "--registry-store-uri", gated.uri]

    gated.attest(second, risk_level="high")
    assert rlrisk(*reconcile)[1].startswith("restored  prod-a@champion (2, now 1) rlrisk gate:")
    assert gated.entries()[-1].message.startswith("restored 1: rlrisk gate:")

    gated.attest(first, risk_level="high")
    assert rlrisk(*reconcile)[1].startswith("removed   prod-a@champion (1) rlrisk gate:")
    assert gated.entries()[-1].message.startswith("removed: rlrisk gate:")


def test_a_place_that_cannot_be_is_misuse_not_a_place_that_nothing_protects(
    gated: Gated, rlrisk: Any
) -> None:
    # A variable that is not set, in a pipeline: exit code 0 would let the version pass.
    gated.version("prod-a")

    for command in ("check", "promote"):
        for place in (
            ["--alias", ""],
            ["--alias", " \u200b"],
            ["--stage", ""],
            ["--stage", "Prod"],
        ):
            assert rlrisk("gate", command, "models:/prod-a/1", *place)[0] == 2
    assert rlrisk("gate", "check", "models:/prod-a/1", "--stage", "production")[0] == 10
    assert rlrisk("gate", "promote", "models:/prod-a/1", "--stage", "none")[0] == 0
    assert rlrisk("gate", "promote", "prod-a", "--alias", "champion")[0] == 1
