"""The judgement: each reason alone keeps a version out; none of them lets one in."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_rlrisk.attestation import Place, sign_attestation, sign_override
from mlflow_rlrisk.attestation.keys import SigningKey, to_text
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.content import FileEntry
from mlflow_rlrisk.gate.guard import Evidence, Verdict, judge
from mlflow_rlrisk.gate.promotion_policy import Bar, PromotionPolicy, Target
from mlflow_rlrisk.run_settings import settings_of
from tests.gate.world import ENTRIES, NOW, PLACE, SIZES, attestation, override_of, ring_of

KEY, OTHER, STRANGER = (SigningKey.generate() for _ in range(3))
RING = ring_of(KEY, OTHER)
READY = Target("alias", "rl-ready")


def bar(override: dict[str, Any] | None = None, **rule: Any) -> Bar:
    given = {"name": "r", "aliases": ["rl-ready"], "stages": ["Production"], **rule}
    policy = PromotionPolicy.model_validate(
        {"version": 1, "key_ring": "ring", "rules": [given], "override": override or {}}
    )
    return Bar(policy, RING, PolicyConfig().digest(), "")


def evidence(envelope: str | None = None, **changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "place": PLACE,
        "envelope": envelope,
        "attested_places": (PLACE,),
        "source": "models:/m-1",
        "files": SIZES,
    }
    return Evidence(**(values | changes))


def attested(**changes: Any) -> Evidence:
    return evidence(sign_attestation(attestation(**changes), KEY))


def verdict(found: Evidence, under: Bar | None = None, target: Target = READY) -> Verdict:
    return judge(under or bar(), found, target, NOW)


def told(found: Verdict) -> tuple[str, str]:
    return str(found.outcome), found.reason


def test_a_proven_version_is_promoted_and_what_was_attested_is_told() -> None:
    found = verdict(attested())

    assert told(found) == ("promote", "proven")
    assert found.allows
    assert found.rule == "r"
    assert found.files == ENTRIES
    assert found.key_ids == (KEY.key_id,)
    assert found.content_digest == attestation().content_digest
    assert found.message == (
        "rlrisk gate: alias 'rl-ready' of 'coder' version 3 is proven under rule 'r'"
    )


def test_where_no_rule_protects_everything_is_let_pass() -> None:
    found = verdict(evidence(), target=Target("alias", "scratch"))

    assert told(found) == ("promote", "unprotected")
    assert found.content_digest == ""


LATER = attestation().issued_at
CASES: list[tuple[str, Evidence, dict[str, Any], str, str]] = [
    ("block", evidence(), {}, "unscored", "it has no signed attestation"),
    ("block", evidence("{}"), {}, "malformed", "its attestation is refused"),
    (
        "block",
        evidence(sign_attestation(attestation(), STRANGER)),
        {},
        "unknown_key",
        "is not in the key ring",
    ),
    ("block", attested(version="4"), {}, "wrong_subject", "it is about version 4 of 'coder'"),
    ("block", attested(source="models:/m-2"), {}, "wrong_subject", "about another source"),
    (
        "block",
        replace(attested(), attested_places=()),
        {},
        "wrong_subject",
        "nothing is known that it could be about",
    ),
    (
        "block",
        attested(),
        {"allowed_keys": [OTHER.key_id]},
        "key_not_allowed",
        f"it was signed by key {KEY.key_id} (a), which the rule does not allow",
    ),
    (
        "inconclusive",
        replace(attested(), files=None, files_fault="no answer"),
        {},
        "files_unknown",
        "its files cannot be listed (no answer)",
    ),
    (
        "block",
        replace(attested(), files={**SIZES, "adapter_config.json": 9}),
        {},
        "content_changed",
        "its files are not those that were assessed: adapter_config.json was added; report: ",
    ),
    (
        "block",
        replace(attested(), files={}),
        {},
        "content_changed",
        "config.json is missing and 1 more",
    ),
    (
        "block",
        attested(issued_at="2026-11-20T12:00:00Z", expires_at=to_text(NOW)),
        {},
        "expired",
        f"its attestation expired at {to_text(NOW)}",
    ),
    ("block", attested(), {"max_age": "59s"}, "too_old", "its attestation is older than 59s"),
    (
        "block",
        attested(policy_digest="0" * 64),
        {},
        "policy_changed",
        "under risk policy 'default', not under the current one, risk_policy of the gate (--policy",
    ),
    ("inconclusive", attested(risk_level="unknown"), {}, "unknown", "does not suffice"),
    (
        "block",
        attested(risk_level="medium"),
        {},
        "level",
        "its risk level is medium (risk index 0.100), low is needed",
    ),
    (
        "block",
        attested(risk_level="high", metrics={}),
        {"required_level": "medium"},
        "level",
        "its risk level is high, medium is needed",
    ),
    (
        "inconclusive",
        attested(),
        {"required_metrics": {"rlrisk/x": {"threshold": 0.5, "greater_is_better": True}}},
        "metric_missing",
        "rlrisk/x is required and was not measured",
    ),
    (
        "block",
        attested(),
        {"required_metrics": {"rlrisk/pass_at_8": {"threshold": 0.81, "greater_is_better": True}}},
        "metric",
        "rlrisk/pass_at_8 is 0.8, at least 0.81 is needed",
    ),
    (
        "block",
        attested(),
        {"required_metrics": {"rlrisk/pass_at_8": {"threshold": 0.79, "greater_is_better": False}}},
        "metric",
        "rlrisk/pass_at_8 is 0.8, at most 0.79 is needed",
    ),
    (
        "block",
        attested(),
        {"allowed_prompts": ["0" * 64]},
        "prompts_not_allowed",
        f"its prompts is {'a' * 64}",
    ),
    (
        "block",
        attested(),
        {"allowed_verifiers": []},
        "verifier_not_allowed",
        f"its verifier is {'b' * 64}",
    ),
    ("inconclusive", attested(), {"required_settings": {"top_k": 0}}, "settings_unknown", "top_k"),
    (
        "block",
        attested(settings={"group_size": 64, "temperature": 1.0}),
        {"required_settings": {"temperature": 1, "group_size": 8}},
        "settings",
        "it was assessed with group_size 64, 8 is needed",
    ),
    (
        "block",
        attested(settings={"chat_template_kwargs": {"enable_thinking": 0}}),
        {"required_settings": {"chat_template_kwargs": {"enable_thinking": False}}},
        "settings",
        '{"enable_thinking":0}, {"enable_thinking":false} is needed',
    ),
    (
        "block",
        attested(),
        {"allowed_judge_tiers": ["A"]},
        "judge_tier_not_allowed",
        "its judge tier is none",
    ),
]
IDS = [f"{place}-{case[3]}" for place, case in enumerate(CASES)]  # a key id differs in each process
NOT_OVERRIDABLE = {
    "malformed",
    "unknown_key",
    "wrong_subject",
    "key_not_allowed",
    "files_unknown",
    "content_changed",
}


@pytest.mark.parametrize(("outcome", "found", "rule", "reason", "figure"), CASES, ids=IDS)
def test_each_reason_alone_refuses_with_its_figure(
    outcome: str, found: Evidence, rule: dict[str, Any], reason: str, figure: str
) -> None:
    refused = verdict(found, bar(**rule))

    assert told(refused) == (outcome, reason)
    assert figure in refused.message
    assert refused.rule == "r"
    word = "blocked" if outcome == "block" else "inconclusive"
    start = f"rlrisk gate: alias 'rl-ready' of 'coder' version 3 is {word} by rule 'r': "
    assert refused.message.startswith(start)
    assert "; run: rlrisk " in refused.message


@pytest.mark.parametrize(("outcome", "found", "rule", "reason", "figure"), CASES, ids=IDS)
def test_an_override_lifts_refusals_of_the_policy_and_no_broken_proof(
    outcome: str, found: Evidence, rule: dict[str, Any], reason: str, figure: str
) -> None:
    tags = {"rlrisk.override.alias.rl-ready": sign_override(override_of(), [OTHER])}

    lifted = verdict(replace(found, overrides=tags), bar(**rule))

    if reason in NOT_OVERRIDABLE:
        assert told(lifted) == (outcome, reason)
    else:
        assert told(lifted) == ("promote", "override")
        assert lifted.key_ids == (OTHER.key_id,)
        assert lifted.files == ENTRIES
        assert lifted.message == (
            "rlrisk gate: alias 'rl-ready' of 'coder' version 3 is let pass until "
            f"{override_of().expires_at} by an override of b ({OTHER.key_id}): "
            "agreed with the owners"
        )


@pytest.mark.parametrize(("outcome", "found", "rule", "reason", "figure"), CASES, ids=IDS)
def test_a_rule_that_audits_lets_pass_and_says_what_it_would_refuse(
    outcome: str, found: Evidence, rule: dict[str, Any], reason: str, figure: str
) -> None:
    passed = verdict(found, bar(**rule, mode="audit"))

    assert told(passed) == ("promote", "audit_only")
    assert figure in passed.message
    assert passed.message.endswith("(mode audit: let pass)")


@pytest.mark.parametrize(
    ("changes", "settings", "why"),
    [
        ({"target": "alias.champion"}, {}, "it is for alias.champion"),
        ({"version": "4"}, {}, "it is about version 4"),
        (
            {"issued_at": "2026-11-20T12:00:00Z", "expires_at": to_text(NOW)},
            {},
            f"it expired at {to_text(NOW)}",
        ),
        ({}, {"max_duration": "23h"}, "it lasts longer than 23h"),
        ({"reason": " hm "}, {"min_reason_length": 3}, "its reason has fewer than 3 characters"),
        ({}, {"keys": []}, "it has 0 of 1 signatures"),
        ({}, {"keys": [KEY.key_id]}, "it has 0 of 1 signatures"),
        ({}, {"required_signatures": 2}, "it has 1 of 2 signatures"),
        ({"files": (FileEntry("config.json", 24, "1" * 64),)}, {}, "its files are not those"),
    ],
)
def test_an_override_counts_only_as_it_was_given(
    changes: dict[str, Any], settings: dict[str, Any], why: str
) -> None:
    tags = {"rlrisk.override.alias.rl-ready": sign_override(override_of(**changes), [OTHER])}

    refused = verdict(evidence(overrides=tags), bar(override=settings))

    assert told(refused) == ("block", "unscored")
    assert f"(its override does not count: {why}" in refused.message


def test_an_override_tells_for_whom_a_service_signed() -> None:
    asked = override_of(requested_by=("alice", "bob"))
    tags = {"rlrisk.override.alias.rl-ready": sign_override(asked, [OTHER])}

    found = verdict(evidence(overrides=tags))

    assert f"by an override of b ({OTHER.key_id}), asked for by alice, bob: agreed" in found.message


def test_an_override_at_its_limits_counts() -> None:
    lasting = override_of(expires_at=to_text(NOW - timedelta(minutes=1) + timedelta(hours=24)))
    tags = {"rlrisk.override.alias.rl-ready": sign_override(lasting, [KEY, OTHER])}
    settings = {"max_duration": "24h", "required_signatures": 2, "min_reason_length": 22}

    found = verdict(evidence(overrides=tags), bar(override=settings))

    assert told(found) == ("promote", "override")
    assert set(found.key_ids) == {KEY.key_id, OTHER.key_id}


def test_no_override_counts_where_the_files_are_unknown() -> None:
    tags = {"rlrisk.override.alias.rl-ready": sign_override(override_of(), [OTHER])}

    found = verdict(evidence(overrides=tags, files=None))

    assert told(found) == ("block", "unscored")


def test_values_at_the_bar_are_within_it() -> None:
    at_bar = {
        "rlrisk/pass_at_8": {"threshold": 0.8, "greater_is_better": True},
        "rlrisk/risk_index": {"threshold": 0.1, "greater_is_better": False},
    }
    rule = bar(
        required_metrics=at_bar,
        required_level="medium",
        max_age="60s",
        allowed_keys=[KEY.key_id],
        allowed_prompts=["a" * 64],
        allowed_verifiers=["b" * 64],
        allowed_judge_tiers=["none"],
        required_settings={"group_size": 8, "temperature": 1, "stop": ["b", "a"]},
    )
    config = AssessmentConfig(sampling=SamplingConfig(stop=("a", "b"), num_samples=99))
    found = attested(risk_level="medium", settings=settings_of(config))

    assert told(verdict(found, rule)) == ("promote", "proven")


def test_every_rule_that_protects_a_place_must_be_satisfied() -> None:
    rules = [
        {"name": "lenient", "aliases": ["rl-ready"], "required_level": "medium"},
        {"name": "strict", "aliases": ["RL-READY"]},
        {"name": "watching", "aliases": ["rl-ready"], "mode": "audit"},
    ]
    policy = PromotionPolicy.model_validate({"version": 1, "key_ring": "ring", "rules": rules})
    both = Bar(policy, RING, PolicyConfig().digest(), "")

    assert verdict(attested(risk_level="medium"), both).rule == "strict"
    assert not verdict(attested(risk_level="medium"), both).allows
    assert told(verdict(attested(), both)) == ("promote", "proven")


def test_what_is_only_audited_is_told_before_a_proof() -> None:
    rules = [
        {"name": "lenient", "aliases": ["rl-ready"], "required_level": "medium"},
        {"name": "watching", "aliases": ["rl-ready"], "mode": "audit"},
    ]
    policy = PromotionPolicy.model_validate({"version": 1, "key_ring": "ring", "rules": rules})
    found = verdict(attested(risk_level="medium"), Bar(policy, RING, PolicyConfig().digest(), ""))

    assert (found.rule, found.reason) == ("watching", "audit_only")


def test_an_attestation_under_a_former_name_counts_and_one_that_is_bad_there_does_not() -> None:
    was = replace(PLACE, model="dev")
    renamed = evidence(sign_attestation(attestation(was), KEY), attested_places=(PLACE, was))
    forged = evidence(sign_attestation(attestation(was), STRANGER), attested_places=(PLACE, was))

    assert told(verdict(renamed)) == ("promote", "proven")
    assert told(verdict(forged)) == ("block", "unknown_key")


def test_the_command_that_is_told_can_be_run_as_it_stands() -> None:
    place = Place(registry="mlflow", workspace="default", model="my model", version="3")
    level = replace(attested(risk_level="high"), report_uri="forged")
    odd = evidence(place=place)

    assert verdict(level).message.endswith(
        "; report: runs:/ffff/rlrisk/report.html; run: rlrisk gate override models:/coder/3 "
        '--alias rl-ready --reason "..." --expires 24h'
    )
    assert "run: rlrisk assess 'models:/my model/3' --prompts FILE" in verdict(odd).message
    stage = verdict(attested(risk_level="high"), target=Target("stage", "Production"))
    assert "--stage Production" in stage.message
    version = verdict(
        attested(risk_level="high"), bar(every_version=True), target=Target("version")
    )
    assert "being a version of 'coder' version 3" in version.message
    assert "--every-version" in version.message
