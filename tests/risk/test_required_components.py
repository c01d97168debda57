"""A policy may ask for evidence before it says ``low``; nothing else changes by that."""

import pytest

from mlflow_rlrisk.assessment.budget import is_decided
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.policy import Outcome, decide
from mlflow_rlrisk.report_record import RiskLevel
from tests.prompt_statistics import prompts, report_of


def test_a_policy_may_withhold_low_until_the_updates_were_tried() -> None:
    solved = prompts([12 + place % 40 for place in range(200)], 64)
    policy = PolicyConfig(name="strict", low_requires=("lookahead",))
    learns = Evidence(value=0.9, ci_low=0.8, ci_high=1.0, source="said")

    without = report_of(solved, policy=policy)
    tried = report_of(solved, policy=policy, context=AssessmentContext(lookahead_reach=learns))
    default = report_of(solved)

    assert (default.risk_level, tried.risk_level) == (RiskLevel.LOW, RiskLevel.LOW)
    assert without.risk_level is RiskLevel.MEDIUM
    assert without.level_probabilities["low"] == 0.0
    assert tried.level_probabilities == default.level_probabilities
    assert any("low by the samples alone" in reason for reason in default.reasons)
    assert not any("low by the samples alone" in reason for reason in tried.reasons)
    assert "low needs lookahead assessed [policy strict]" in without.reasons[0]
    assert "rlrisk lookahead FOLDER" in without.next_steps[0]
    assert decide(without, policy).outcome is Outcome.BLOCK
    assert decide(tried, policy).outcome is Outcome.PROMOTE
    assert decide(default, policy).outcome is Outcome.INCONCLUSIVE
    assert without.metrics == default.metrics


def test_what_a_policy_asks_for_changes_no_other_level() -> None:
    collapsed = prompts([64] * 150 + [0] * 50, 64)
    few = prompts([12 + place % 40 for place in range(20)], 64)
    policy = PolicyConfig(low_requires=("lookahead", "verifier"))

    for solved, level in ((collapsed, RiskLevel.HIGH), (few, RiskLevel.UNKNOWN)):
        plain, asked = report_of(solved), report_of(solved, policy=policy)
        assert (plain.risk_level, asked.risk_level) == (level, level)
        assert plain.reasons == asked.reasons
        assert plain.next_steps == asked.next_steps


def test_a_policy_cannot_ask_for_what_it_does_not_assess() -> None:
    with pytest.raises(ConfigError, match=r"^low_requires='luck'"):
        PolicyConfig(low_requires=("luck",))


def test_a_budget_is_not_cut_short_where_only_missing_evidence_keeps_it_from_low() -> None:
    policy = PolicyConfig(low_requires=("lookahead",))
    clear = prompts([20 + place % 25 for place in range(400)], 64)
    wrong = prompts([64] * 300 + [0] * 100, 64)

    assert is_decided(report_of(clear))
    assert not is_decided(report_of(clear, policy=policy))
    assert is_decided(report_of(wrong, policy=policy))
