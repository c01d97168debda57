"""The policy file: complete, strict, read anew for every decision."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mlflow_rlrisk.attestation.keys import KeyRing
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.gate.promotion_policy import (
    PolicySource,
    PromotionRule,
    Target,
    bar_without_file,
    parse_policy,
    seconds_of,
)
from tests.gate.world import World

RULES = [{"name": "r", "aliases": ["rl-ready"]}]


def test_a_rule_covers_by_model_and_workspace_and_protects_by_kind() -> None:
    rule = PromotionRule(
        name="r", models=["a-*", "b"], workspaces=["team-*"], aliases=["x"], stages=["Production"]
    )

    assert rule.covers("a-1", "team-1")
    assert rule.covers("B", "TEAM-1")
    assert not rule.covers("a-1", "default")
    assert not rule.covers("c", "team-1")
    assert rule.protects(Target("stage", "production"))
    assert not rule.protects(Target("stage", "x"))
    assert not rule.protects(Target("alias", "production"))
    assert not rule.protects(Target("version"))
    everything = PromotionRule(name="r", every_version=True)
    assert everything.protects(Target("version"))
    assert everything.protects(Target("alias", "any"))


def test_a_target_has_one_key_however_it_is_spelled() -> None:
    assert Target("alias", "RL-Ready\n").key == "alias.rl-ready"
    assert Target("version").key == "version"
    assert str(Target("stage", "Production")) == "stage 'Production'"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("2m", 120), ("24h", 86400), ("30d", 2592000), ("2w", 1209600)],
)
def test_durations_are_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "0s", "-1h", "1.5h", "1 h", "1y", "١h", "²h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["3153600001s", "36501d", "99999999999d", "9" * 5000 + "s"])
def test_a_duration_that_no_date_can_be_reckoned_with_is_refused_when_it_is_read(text: str) -> None:
    assert seconds_of("36500d") == 100 * 365 * 86400

    with pytest.raises(ConfigError, match=r"rules\.0\.max_age="):
        parse_policy(policy_with({**RULES[0], "max_age": text}))


def policy_with(rule: dict[str, Any]) -> str:
    return yaml.safe_dump({"version": 1, "key_ring": "ring.json", "rules": [rule]})


@pytest.mark.parametrize(
    "alias", ["rl-*", "*", "", " ", "rl ready", "rl ready!", "models:/a@b", "b:c", "\u200b"]
)
def test_an_alias_that_no_version_can_have_is_refused_for_it_protects_nothing(alias: str) -> None:
    # Left in, the registry would hand out the alias that was meant, to anybody.
    with pytest.raises(ConfigError, match="no version can have such an alias") as caught:
        parse_policy(policy_with({"name": "r", "aliases": ["rl-ready", alias]}))

    assert (caught.value.field, caught.value.value) == ("rules.0.aliases.1", alias)


@pytest.mark.parametrize("key", ["models", "workspaces"])
@pytest.mark.parametrize(
    "pattern", ["models:/coder-sft", "coder/sft", "coder-sft:3", "models:/*", "", " ", "\u200b"]
)
def test_a_pattern_that_no_name_can_match_is_refused_for_it_protects_nothing(
    key: str, pattern: str
) -> None:
    with pytest.raises(ConfigError, match="a shell pattern of bare names is needed") as caught:
        parse_policy(policy_with({**RULES[0], key: [pattern]}))

    assert (caught.value.field, caught.value.value) == (f"rules.0.{key}.0", pattern)


@pytest.mark.parametrize("setting", ["aliases", "models", "workspaces"])
def test_a_name_of_half_characters_is_refused_for_it_protects_nothing(setting: str) -> None:
    # JSON escapes what lies beyond U+FFFF in two halves, which YAML does not join.
    rule = {"name": "r", "aliases": ["rl-ready"], setting: ["\U0001d4b8hampion"]}
    text = json.dumps({"version": 1, "key_ring": "ring.json", "rules": [rule]})
    assert "\\ud835" in text

    with pytest.raises(ConfigError, match="write the character, not its escapes") as caught:
        parse_policy(text)

    assert caught.value.field == f"rules.0.{setting}.0"
    assert parse_policy(json.dumps(json.loads(text), ensure_ascii=False)).rules[0].name == "r"


@pytest.mark.parametrize(
    ("alias", "held"),
    [
        ("RL-Ready", "rl-ready"),
        ("rl–ready", "rl-ready"),
        ("ＲＬ-ｒｅａｄｙ", "rl-ready"),
        ("cha\u0301mpion", "champion"),
        ("候选", "候选"),
        (" v_1 ", "V_1"),
    ],
)
def test_an_alias_in_another_case_or_form_is_protected_as_it_reads(alias: str, held: str) -> None:
    rule = parse_policy(policy_with({"name": "r", "aliases": [alias]})).rules[0]

    assert rule.protects(Target("alias", held))


@pytest.mark.parametrize(
    ("pattern", "model"),
    [
        ("prod.llm.*", "prod.llm.coder"),
        ("Coder-[ab]?", "coder-b7"),
        ("my coder", "My coder"),
        ("ｃｏｄｅｒ：ｓｆｔ", "coder：sft"),
    ],
)
def test_a_pattern_of_names_that_a_registry_takes_is_usable(pattern: str, model: str) -> None:
    rule = parse_policy(policy_with({**RULES[0], "models": [pattern]})).rules[0]

    assert rule.covers(model, "default")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 2}, "version"),
        ({"unknown": 1}, "unknown"),
        ({"key_ring": None}, "key_ring"),
        ({"registry": ""}, "registry"),
        ({"rules": []}, "rules"),
        ({"rules": [{"name": "r"}]}, "rules.0"),
        ({"rules": [{"name": "r", "aliases": ["LATEST"]}]}, "rules.0"),
        ({"rules": RULES * 2}, "RLRISK_POLICY"),
        ({"rules": [{**RULES[0], "models": []}]}, "rules.0.models"),
        ({"rules": [{**RULES[0], "models": "*"}]}, "rules.0.models"),
        ({"rules": [{**RULES[0], "workspaces": []}]}, "rules.0.workspaces"),
        ({"rules": [{**RULES[0], "mode": "warn"}]}, "rules.0.mode"),
        ({"rules": [{**RULES[0], "max_age": "soon"}]}, "rules.0.max_age"),
        ({"rules": [{**RULES[0], "required_level": "unknown"}]}, "rules.0.required_level"),
        ({"rules": [{**RULES[0], "required_level": "high"}]}, "rules.0.required_level"),
        ({"rules": [{**RULES[0], "stages": ["Prod"]}]}, "rules.0.stages.0"),
        ({"rules": [{**RULES[0], "every_version": "yes"}]}, "rules.0.every_version"),
        (
            {"rules": [{**RULES[0], "required_metrics": {"a": {"threshold": 1.0}}}]},
            "rules.0.required_metrics.a.greater_is_better",
        ),
        (
            {
                "rules": [
                    {
                        **RULES[0],
                        "required_metrics": {
                            "a": {"threshold": float("nan"), "greater_is_better": True}
                        },
                    }
                ]
            },
            "rules.0.required_metrics.a.threshold",
        ),
        ({"override": {"required_signatures": 0}}, "override.required_signatures"),
        ({"override": {"required_signatures": 3}}, "override.required_signatures"),
        ({"override": {"min_reason_length": 0}}, "override.min_reason_length"),
    ],
)
def test_an_unusable_setting_is_named(change: dict[str, Any], field: str) -> None:
    text = yaml.safe_dump({"version": 1, "key_ring": "ring.json", "rules": RULES, **change})

    with pytest.raises(ConfigError) as caught:
        parse_policy(text)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: []\nkey_ring: ring.json", "version=None: a value is needed"),
        ("version: 1\nrulez: []", "rulez=[]: unknown setting; rlrisk policy schema prints"),
        (
            "version: 1\nkey_ring: ring.json\nrules: [{name: r, aliases: ['a*']}]",
            "rules.0.aliases.0='a*': no version can have such an alias",
        ),
    ],
)
def test_a_fault_of_the_policy_file_is_told_with_its_setting_its_value_and_what_is_needed(
    text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_policy(text)

    assert str(refused.value).startswith(told)


def test_settings_at_their_limits_are_usable() -> None:
    least = {"required_signatures": 1, "min_reason_length": 1, "max_duration": "1s", "keys": []}
    rule = {"name": "", "models": ["a"], "workspaces": ["w"], "aliases": ["x"], "max_age": "1s"}
    given = {"version": 1, "registry": "r", "key_ring": "k", "rules": [rule], "override": least}

    found = parse_policy(yaml.safe_dump(given))

    assert found.model_dump(exclude_unset=True) == given
    two = parse_policy(yaml.safe_dump({**given, "override": {"required_signatures": 2}}))
    assert two.override.required_signatures == 2


def test_nobody_changes_a_policy_that_was_read(tmp_path: Path) -> None:
    # One bar is kept for equal bytes, and every thread of a server decides under it.
    policy = PolicySource(World.make(tmp_path, RULES).policy_path).current().policy

    for section, name in (
        (policy, "registry"),
        (policy.rules[0], "mode"),
        (policy.override, "keys"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, "audit")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\xff\xfe\x00", "is no YAML"),
        ("{", "is no YAML"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("1: 2", "must be a mapping"),
        ("version: 1\nversion: 1", "a key stands twice, line 1"),
        ("[" * 5000, "is no YAML"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
        ('version: "\\UFFFFFFFF"', "is no YAML"),
        ("version: 1" + ":59" * 200 + ".0", "is no YAML"),
        ("version: !!timestamp x", "is no YAML"),
        ("version: !!bool x", "is no YAML"),
        ("version: !!int ''", "is no YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_policy(text)


def test_the_file_is_read_anew_when_it_or_what_it_names_has_changed(tmp_path: Path) -> None:
    world = World.make(tmp_path, RULES, risk_policy="risk.yaml")
    (tmp_path / "risk.yaml").write_text("low_below: 0.3\n")
    source = PolicySource(world.policy_path)

    first = source.current()
    assert source.current() is first
    assert first.risk_policy_digest == PolicyConfig(low_below=0.3).digest()
    (tmp_path / "risk.yaml").write_text("low_below: 0.2\n")
    second = source.current()
    KeyRing({}).write(world.ring_path)
    third = source.current()
    world.write_policy([{"name": "other", "aliases": ["x"]}])
    fourth = source.current()

    assert second.risk_policy_digest == PolicyConfig(low_below=0.2).digest()
    assert list(second.ring.keys) == [world.key.key_id]
    assert third.ring.keys == {}
    assert fourth.policy.rules[0].name == "other"
    assert fourth.risk_policy_digest == PolicyConfig().digest()
    assert len({first.digest, second.digest, third.digest, fourth.digest}) == 4


@pytest.mark.parametrize("missing", ["policy.yaml", "ring.json", "risk.yaml"])
def test_a_missing_file_is_an_error_also_after_it_was_there(tmp_path: Path, missing: str) -> None:
    world = World.make(tmp_path, RULES, risk_policy="risk.yaml")
    (tmp_path / "risk.yaml").write_text("name: ours\n")
    source = PolicySource(world.policy_path)
    source.current()

    (tmp_path / missing).unlink()

    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        source.current()


@pytest.mark.parametrize("name", ["key_ring", "risk_policy"])
def test_a_file_name_that_no_file_can_have_is_refused_by_its_setting(
    tmp_path: Path, name: str
) -> None:
    world = World.make(tmp_path, RULES, **{name: "a\0b"})

    with pytest.raises(ConfigError, match=f"{name}=.*cannot be read: embedded null byte"):
        PolicySource(world.policy_path).current()


def test_a_key_ring_of_bytes_that_are_no_text_is_refused_by_its_setting(tmp_path: Path) -> None:
    world = World.make(tmp_path, RULES)
    in_utf8 = PolicySource(world.policy_path).current()
    text = world.ring_path.read_text("utf-8")

    world.ring_path.write_bytes(b"\xff" + text.encode())
    with pytest.raises(ConfigError, match=r"key_ring=.*is no key ring"):
        PolicySource(world.policy_path).current()
    world.ring_path.write_text(text, "utf-16")
    in_utf16 = PolicySource(world.policy_path).current()

    assert in_utf16.ring.keys == in_utf8.ring.keys  # JSON says in which form it is
    assert in_utf16.digest != in_utf8.digest


def test_without_a_file_a_good_signature_over_a_low_level_is_demanded(tmp_path: Path) -> None:
    world = World.make(tmp_path, RULES)

    bar = bar_without_file(world.ring_path, "ours")

    rule = bar.policy.rules[0]
    assert (rule.every_version, rule.required_level, rule.mode) == (True, "low", "enforce")
    assert bar.policy.registry == "ours"
    assert list(bar.ring.keys) == [world.key.key_id]


def test_the_schema_names_every_setting() -> None:
    from mlflow_rlrisk.gate.promotion_policy import PromotionPolicy

    schema = json.dumps(PromotionPolicy.model_json_schema())

    for name in [*PromotionPolicy.model_fields, *PromotionRule.model_fields]:
        assert f'"{name}"' in schema
