"""The commands of the gate, and what a trainer calls: exit codes, JSON, refusals, repairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

import mlflow_rlrisk
from mlflow_rlrisk.attestation.keys import KeyRing, SigningKey
from mlflow_rlrisk.commands.signing import find_signer
from mlflow_rlrisk.errors import (
    CheckpointError,
    ConfigError,
    ModelReferenceError,
    PromotionRefusedError,
)
from tests.gate.conftest import RULES, Gated
from tests.gate.world import one_object, ring_of


def test_keys_are_made_shown_rotated_and_revoked(
    rlrisk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLRISK_KEY", str(tmp_path / "a" / "key.pem"))
    monkeypatch.setenv("RLRISK_KEY_RING", str(tmp_path / "ring.json"))

    code, out = rlrisk("keys", "init", "--name", "me", "--json")
    made = one_object(out)
    assert code == 0
    assert (tmp_path / "a" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert rlrisk("keys", "init")[0] == 2  # never overwritten
    shown = one_object(rlrisk("keys", "show", "--json")[1])
    assert shown["held"] == made["key_id"]
    assert [key["name"] for key in shown["keys"]] == ["me"]

    rotated = one_object(rlrisk("keys", "rotate", "--json")[1])
    after = KeyRing.load(tmp_path / "ring.json").keys
    assert rotated["key_id"] != made["key_id"]
    assert after[made["key_id"]].not_after is not None
    assert SigningKey.load(tmp_path / "a" / "key.pem").key_id == rotated["key_id"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["key.pem"]

    code, out = rlrisk("keys", "revoke", rotated["key_id"], "--reason", "lost")
    assert (code, "is revoked" in out) == (0, True)
    assert rlrisk("keys", "revoke", "nobody")[0] == 2
    text = rlrisk("keys", "show")[1]
    assert f"* {rotated['key_id']}" in text
    assert "revoked 20" in text
    (tmp_path / "ring.json").unlink()
    assert rlrisk("keys", "show")[0] == 2


def test_a_key_outside_the_ring_is_not_rotated(rlrisk: Any, tmp_path: Path) -> None:
    SigningKey.generate().write(tmp_path / "key.pem")
    ring_of(SigningKey.generate()).write(tmp_path / "ring.json")

    files = ["--key", str(tmp_path / "key.pem"), "--ring", str(tmp_path / "ring.json")]
    assert rlrisk("keys", "rotate", *files)[0] == 2


def test_the_default_policy_is_complete_and_usable(rlrisk: Any, tmp_path: Path) -> None:
    from mlflow_rlrisk.gate.promotion_policy import (
        OverrideSettings,
        PromotionPolicy,
        PromotionRule,
        parse_policy,
    )

    code, text = rlrisk("policy", "init")
    default = parse_policy(text)
    assert code == 0
    assert default.rules[0].aliases == ["rl-ready"]
    assert default.model_fields_set == set(PromotionPolicy.model_fields)
    assert default.rules[0].model_fields_set == set(PromotionRule.model_fields)
    assert default.override.model_fields_set == set(OverrideSettings.model_fields)
    # What is printed is what a setting that is left out means.
    assert default.override == OverrideSettings()
    left_out = PromotionRule(name="protected", aliases=["rl-ready"], stages=["Production"])
    assert default.rules == [left_out]
    assert default == PromotionPolicy(version=1, key_ring=default.key_ring, rules=[left_out])

    ring = ["--ring", str(tmp_path / "my ring.json")]
    several = parse_policy(rlrisk("policy", "init", "--protect", "a", "--protect", "b_c", *ring)[1])
    assert several.rules[0].aliases == ["a", "b_c"]
    assert several.key_ring == str(tmp_path / "my ring.json")
    far = ["--ring", str(tmp_path / "cl\xe9 \U0001f511\x7f.json"), "--protect", "\U0001d4b8hampion"]
    beyond = parse_policy(rlrisk("policy", "init", *far)[1])
    assert (beyond.rules[0].aliases, beyond.key_ring) == ([far[3]], far[1])
    (tmp_path / "grpo.yaml").write_text(
        "num_generations: 4\ntemperature: 0.9\nmax_completion_length: 64\n"
        "generation_kwargs: {stop: ['</a>: #x', '\N{PARTY POPPER}']}\nmin_p: 0.00001\n",
        encoding="utf-8",
    )
    run = parse_policy(rlrisk("policy", "init", "--rl-config", str(tmp_path / "grpo.yaml"))[1])
    assert run.rules[0].required_settings == {
        "group_size": 4,
        "temperature": 0.9,
        "max_new_tokens": 64,
        "stop": ["</a>: #x", "\N{PARTY POPPER}"],
        "min_p": 0.00001,
    }
    for unusable in (" ", "", "rl-*", "b:c"):  # it would protect nothing
        assert rlrisk("policy", "init", "--protect", unusable) == (2, "")
    assert one_object(rlrisk("policy", "schema")[1])["title"] == "PromotionPolicy"


def test_check_answers_with_the_exit_code_and_changes_nothing(gated: Gated, rlrisk: Any) -> None:
    gated.version("prod-a")
    gated.version("prod-a", is_proven=True)
    gated.version("prod-a", is_proven=True, risk_level="unknown")
    gated.plain.set_registered_model_alias("prod-a", "champion", "1")

    def check(model: str, *more: str) -> int:
        return int(rlrisk("gate", "check", model, "--alias", "champion", *more)[0])

    assert check("models:/prod-a/2") == check("prod-a/2") == 0
    assert check("models:/prod-a/1") == check("prod-a@champion") == check("prod-a") == 10
    assert check("models:/prod-a/3") == 11
    assert check("models:/prod-a/9") == check("models:/nobody/1") == check("nobody") == 1
    assert check("a/b/c") == 1
    assert rlrisk("gate", "check", "prod-a/1", "--alias", "scratch")[0] == 0
    assert rlrisk("gate", "check", "prod-a@champion", "--alias", "scratch")[0] == 0
    assert rlrisk("gate", "check", "prod-a/2", "--stage", "production")[0] == 0
    assert rlrisk("gate", "check", "prod-a", "--stage", "production")[0] == 1
    assert rlrisk("gate", "check", "prod-a/1", "--every-version")[0] == 0
    assert rlrisk("gate", "check", "prod-a/1")[0] == 2
    assert rlrisk("gate", "check", "prod-a/1", "--alias", "a", "--stage", "b")[0] == 2
    told = one_object(rlrisk("gate", "check", "prod-a/1", "--alias", "champion", "--json")[1])
    assert (told["outcome"], told["reason"], told["rule"]) == ("block", "unscored", "guarded")
    assert told["message"].startswith("rlrisk gate: ")
    assert gated.entries() == []


def test_check_needs_a_policy(gated: Gated, rlrisk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    mlflow.set_registry_uri(gated.uri)  # a registry without the plugin, which would need one too
    monkeypatch.delenv("RLRISK_POLICY")
    gated.version("prod-a", is_proven=True)
    command = ["gate", "check", "prod-a/1", "--alias", "champion"]

    assert rlrisk(*command)[0] == 2
    assert rlrisk(*command, "--policy", str(gated.world.policy_path))[0] == 0


def test_promote_asks_the_registry_and_tells_its_refusal(gated: Gated, rlrisk: Any) -> None:
    gated.version("prod-a")
    gated.version("prod-a", is_proven=True)
    gated.version("prod-a", is_proven=True, risk_level="unknown")

    code, out = rlrisk("gate", "promote", "prod-a/1", "--alias", "champion")
    assert (code, out.startswith("rlrisk gate: alias 'champion'")) == (10, True)
    refused = rlrisk("gate", "promote", "prod-a/3", "--alias", "champion", "--json")
    assert (refused[0], one_object(refused[1])["outcome"]) == (11, "inconclusive")
    code, out = rlrisk("gate", "promote", "prod-a/2", "--alias", "champion")
    assert (code, out) == (0, "alias 'champion' is version prod-a/2 now\n")
    done = rlrisk("gate", "promote", "models:/prod-a/2", "--stage", "Production", "--json")
    assert (done[0], one_object(done[1])["target"]) == (0, "stage.production")
    assert rlrisk("gate", "check", "prod-a", "--stage", "production")[0] == 0
    assert rlrisk("gate", "promote", "prod-a", "--alias", "champion")[0] == 1


def test_an_override_is_signed_logged_and_lifts_the_refusal(gated: Gated, rlrisk: Any) -> None:
    gated.version("prod-a", is_proven=True, risk_level="high")
    key = ["--key", str(gated.world.key_path)]
    override = ["gate", "override", "prod-a/1", "--alias", "champion"]

    assert rlrisk("gate", "promote", "prod-a/1", "--alias", "champion")[0] == 10
    assert rlrisk(*override, *key)[0] == 2  # no reason
    assert rlrisk(*override, *key, "--reason", " ")[0] == 2
    assert rlrisk(*override, *key, "--reason", "x", "--expires", "soon")[0] == 2
    assert rlrisk(*override, *key, "--reason", "x", "--expires", "8d")[0] == 2
    assert rlrisk(*override, "--key", str(gated.world.folder / "none"), "--reason", "x")[0] == 2
    code, out = rlrisk(*override, *key, "--reason", "agreed", "--expires", "7d", "--json")
    told = one_object(out)
    assert (code, told["reason"], told["key_ids"]) == (0, "agreed", [gated.world.key.key_id])
    assert rlrisk("gate", "promote", "prod-a/1", "--alias", "champion")[0] == 0

    listed = one_object(rlrisk("gate", "log", "--json")[1])
    assert listed["intact"] is True
    assert listed["entries"][-1]["reason"] == "override"
    assert "agreed" in listed["entries"][-1]["message"]
    text = rlrisk("gate", "log", "--limit", "1")[1].splitlines()
    assert len(text) == 2
    assert text[1].startswith(f"{listed['num_entries']} entries, chain intact, head ")
    assert rlrisk("gate", "log", "--limit", "0")[1].count("\n") == 1


def test_two_holders_sign_where_the_policy_asks_for_two(gated: Gated, rlrisk: Any) -> None:
    gated.world.write_policy(RULES, override={"required_signatures": 2})
    second = gated.world.folder / "second.pem"
    stranger = gated.world.folder / "stranger.pem"
    SigningKey.generate().write(stranger)
    SigningKey.generate().write(second)
    ring = KeyRing.load(gated.world.ring_path)
    since = ring.keys[gated.world.key.key_id]
    other = ring_of(SigningKey.load(second)).keys[SigningKey.load(second).key_id]
    ring.with_key(other.model_copy(update={"not_before": since.not_before})).write(
        gated.world.ring_path
    )
    gated.version("prod-a")
    override = ["gate", "override", "prod-a/1", "--alias", "champion"]
    promote = ["gate", "promote", "prod-a/1", "--alias", "champion"]

    assert rlrisk(*override, "--key", str(second), "--co-sign")[0] == 1  # nothing to sign yet
    assert rlrisk(*override, "--key", str(stranger), "--reason", "x")[0] == 1
    out = rlrisk(*override, "--key", str(gated.world.key_path), "--reason", "x")[1]
    assert "1 of 2 signatures" in out
    assert rlrisk(*promote)[0] == 10
    assert rlrisk(*override, "--key", str(second), "--co-sign")[0] == 0
    assert rlrisk(*promote)[0] == 0
    (gated.checkpoint / "config.json").write_text('{"model_type": "other"}')
    assert rlrisk(*override, "--key", str(second), "--co-sign")[0] == 1  # nobody signs for that


def test_a_bad_signature_cannot_be_overridden(gated: Gated, rlrisk: Any) -> None:
    version = gated.version("prod-a")
    gated.tag(version, "rlrisk.attestation", "forged")
    key = ["--key", str(gated.world.key_path)]

    code, _ = rlrisk("gate", "override", "prod-a/1", "--alias", "champion", *key, "--reason", "x")

    assert code == 1
    gated.tag(
        version,
        "rlrisk.override.alias.champion",
        gated.world.sign_override(version, gated.files, "alias.champion"),
    )
    assert rlrisk("gate", "promote", "prod-a/1", "--alias", "champion")[0] == 10


def test_reconcile_restores_the_last_good_holder_or_removes_the_alias(
    gated: Gated, rlrisk: Any, tmp_path: Path
) -> None:
    gated.version("prod-a", is_proven=True)
    gated.store.set_registered_model_alias("prod-a", "champion", "1")
    other = tmp_path / "artifacts" / "second"
    for path in [each for each in gated.checkpoint.rglob("*") if each.is_file()]:
        copy = other / path.relative_to(gated.checkpoint)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    made = gated.plain.create_model_version("prod-a", other.as_uri(), gated.run_id)
    gated.attest(made)
    gated.store.set_registered_model_alias("prod-a", "champion", "2")
    assert rlrisk("gate", "reconcile")[0] == 0

    weights = other / "model.safetensors"
    weights.write_bytes(b"W" + weights.read_bytes()[1:])  # same size: the gate cannot see it
    assert gated.store.get_model_version_by_alias("prod-a", "champion").version == 2
    code, out = rlrisk("gate", "reconcile", "--json")

    (finding,) = one_object(out)["findings"]
    assert (code, finding["action"], finding["restored_to"]) == (10, "restored", "1")
    assert gated.entries()[-1].message.startswith("restored 1: rlrisk gate: alias 'champion'")
    assert "the content of model.safetensors is not what was attested" in finding["message"]
    assert gated.plain.get_registered_model("prod-a").aliases == {"champion": 1}
    assert gated.entries()[-1].action == "reconcile"

    first = gated.checkpoint / "model.safetensors"
    first.write_bytes(b"W" + first.read_bytes()[1:])
    code, out = rlrisk("gate", "reconcile")
    assert code == 10
    assert out.startswith("removed   prod-a@champion (1)")
    assert gated.plain.get_registered_model("prod-a").aliases == {}
    assert rlrisk("gate", "reconcile", "--every", "never")[0] == 2


def test_a_model_that_somebody_marked_as_a_prompt_is_reconciled_as_well(
    gated: Gated, rlrisk: Any
) -> None:
    from mlflow.entities.model_registry import RegisteredModelTag

    gated.version("prod-a")
    gated.plain.set_registered_model_alias("prod-a", "champion", "1")
    gated.plain.set_registered_model_tag(
        "prod-a", RegisteredModelTag("mlflow.prompt.is_prompt", "true")
    )

    assert rlrisk("gate", "reconcile")[0] == 10
    assert gated.plain.get_registered_model("prod-a").aliases == {}


def test_a_trainer_gets_the_folder_and_after_one_byte_changed_nothing(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True)
    gated.store.set_registered_model_alias("prod-a", "champion", "1")

    assert mlflow_rlrisk.verify("models:/prod-a@champion") == gated.checkpoint
    assert mlflow_rlrisk.verify("models:/prod-a/1", alias="champion") == gated.checkpoint
    assert mlflow_rlrisk.verify("models:/prod-a/1") == gated.checkpoint

    weights = gated.checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[7] ^= 1
    weights.write_bytes(content)
    with pytest.raises(PromotionRefusedError, match=r"the content of model\.safetensors is not"):
        mlflow_rlrisk.verify("models:/prod-a@champion")
    (gated.checkpoint / "extra.py").write_text("")
    with pytest.raises(PromotionRefusedError, match=r"extra\.py was added"):
        mlflow_rlrisk.verify("models:/prod-a@champion")  # the registry refuses to hand it out


def test_weights_behind_a_link_are_no_proof_and_nobody_signs_them(
    gated: Gated, rlrisk: Any, tmp_path: Path
) -> None:
    gated.version("prod-a", is_proven=True)
    weights = gated.checkpoint / "model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")

    code, out = rlrisk("verify", "models:/prod-a/1", "--json")

    told = json.loads(out)
    assert (code, told["outcome"], told["reason"]) == (10, "block", "content_unreadable")
    assert "model.safetensors is a link" in told["message"]
    assert "do not load it" in told["message"]
    with pytest.raises(CheckpointError, match="is a link"):  # before anything is sampled
        find_signer("models:/prod-a/1", sign=True, key_file=tmp_path / "key", register=True)


def test_verify_holds_a_version_to_the_rules_of_the_alias_it_is_read_by(gated: Gated) -> None:
    bar = {"rlrisk/none": {"threshold": 0.5, "greater_is_better": True}}
    gated.world.write_policy([*RULES, {"name": "g", "aliases": ["gold"], "required_metrics": bar}])
    gated.version("prod-a", is_proven=True)
    gated.store.set_registered_model_alias("prod-a", "champion", "1")

    assert mlflow_rlrisk.verify("models:/prod-a@champion") == gated.checkpoint
    assert mlflow_rlrisk.verify("models:/prod-a/1", alias="champion") == gated.checkpoint
    for model, alias in (("models:/prod-a/1", None), ("models:/prod-a@champion", "gold")):
        with pytest.raises(PromotionRefusedError, match="rlrisk/none is required"):
            mlflow_rlrisk.verify(model, alias=alias)


def test_verify_by_number_asks_every_rule_of_the_model_also_where_one_is_about_every_version(
    gated: Gated,
) -> None:
    rule = {"models": ["prod-*"]}
    strict = {**rule, "name": "strict", "aliases": ["champion"]}
    lax = {**rule, "name": "lax", "every_version": True, "required_level": "medium"}
    gated.world.write_policy([strict, lax])
    gated.version("prod-a", is_proven=True, risk_level="medium")

    assert mlflow_rlrisk.verify("models:/prod-a/1", alias="scratch") == gated.checkpoint
    with pytest.raises(PromotionRefusedError, match="by rule 'strict': its risk level is medium"):
        mlflow_rlrisk.verify("models:/prod-a/1")


def test_verify_demands_a_proof_whatever_the_policy_says(
    gated: Gated, rlrisk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.version("watched-a")
    gated.version("free-a")
    gated.version("free-a", is_proven=True)
    gated.plain.set_registered_model_alias("watched-a", "champion", "1")

    for model in ("models:/watched-a@champion", "models:/free-a/1"):
        with pytest.raises(PromotionRefusedError, match="has no signed attestation"):
            mlflow_rlrisk.verify(model)
    with pytest.raises(ModelReferenceError, match="only registered versions"):
        mlflow_rlrisk.verify(str(gated.checkpoint))
    with pytest.raises(ModelReferenceError):
        mlflow_rlrisk.verify("models:/nobody/1")
    assert rlrisk("verify", "models:/free-a/2")[0] == 0
    told = rlrisk("verify", "models:/free-a/1", "--json")
    assert (told[0], one_object(told[1])["reason"]) == (10, "unscored")
    assert rlrisk("verify", "models:/free-a/1")[0] == 10

    monkeypatch.delenv("RLRISK_POLICY")
    monkeypatch.setenv("RLRISK_KEY_RING", str(gated.world.ring_path))
    assert one_object(rlrisk("verify", "models:/free-a/2", "--json")[1])["outcome"] == "promote"
    monkeypatch.setenv("RLRISK_REGISTRY", "another")
    assert rlrisk("verify", "models:/free-a/2")[0] == 10
    monkeypatch.setenv("RLRISK_KEY_RING", str(gated.world.folder / "none.json"))
    with pytest.raises(ConfigError, match="key_ring"):
        mlflow_rlrisk.verify("models:/free-a/2")


def test_refusals_reach_a_python_caller_as_mlflow_errors(gated: Gated) -> None:
    gated.version("prod-a")

    with pytest.raises(MlflowException) as caught:
        gated.client.set_registered_model_alias("prod-a", "champion", "1")

    assert caught.value.error_code == "PERMISSION_DENIED"
    assert json.loads(caught.value.serialize_as_json())["message"].startswith("rlrisk gate: ")
