from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.policy import Outcome, decide, load_policy
from mlflow_rlrisk.report import RiskLevel, RiskReport
from tests.prompt_statistics import ladder_rung, prompts, report_of

ALLOWED = {"low": {"low"}, "medium": {"low", "medium"}}


@pytest.fixture(scope="module")
def report() -> RiskReport:
    return report_of(ladder_rung(1.2, 1.8, 0.3))


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("level", ["low", "medium", "high", "unknown"])
@pytest.mark.parametrize("required", ["low", "medium"])
def test_the_outcome_follows_from_level_and_required_level(
    report: RiskReport, level: str, required: Any
) -> None:
    judged = replace(report, risk_level=RiskLevel(level), next_steps=("do this",))

    decision = decide(judged, PolicyConfig(required_level=required))

    expected = (
        "inconclusive"
        if level == "unknown"
        else "promote"
        if level in ALLOWED[required]
        else "block"
    )
    assert decision.outcome == expected
    assert decision.reasons
    assert bool(decision.next_steps) == (expected != "promote")
    assert decision.report_digest == judged.digest


def test_a_report_judged_under_other_lines_is_inconclusive_and_says_how_to_judge_it_anew(
    report: RiskReport,
) -> None:
    decision = decide(report, PolicyConfig(name="strict", low_below=0.1))

    assert decision.outcome is Outcome.INCONCLUSIVE
    assert "'strict'" in decision.reasons[0]
    assert "rlrisk rescore" in decision.next_steps[0]


def test_another_name_and_another_required_level_are_no_other_lines(report: RiskReport) -> None:
    policy = PolicyConfig(name="ours", required_level="medium")

    assert decide(report, policy).outcome is Outcome.PROMOTE


@pytest.mark.parametrize("line", ["low_signal_from", "low_agreement_from", "low_headroom_from"])
def test_a_report_from_before_a_line_does_not_read_as_judged_by_it(
    report: RiskReport, line: str
) -> None:
    raw = report.to_dict()
    del raw["policy"][line]

    decision = decide(RiskReport.from_dict(raw), PolicyConfig())

    assert decide(report, PolicyConfig()).outcome is Outcome.PROMOTE
    assert decision.outcome is Outcome.INCONCLUSIVE


policies = st.builds(
    PolicyConfig,
    low_below=st.floats(0, 0.5),
    high_from=st.floats(0.5, 1),
    min_prompts=st.integers(1, 300),
    veto_signal_below=st.floats(0, 1),
    low_signal_from=st.floats(0, 1),
    low_agreement_from=st.floats(0.01, 1),  # 0 asks for headroom instead
    low_headroom_from=st.floats(0, 8),
    max_component=st.floats(0, 1),
    required_level=st.sampled_from(["low", "medium"]),
)


@settings(max_examples=30, deadline=None)
@given(policies, st.integers(0, 100), st.floats(0, 0.3), st.floats(0, 0.4))
def test_tightening_a_policy_never_turns_block_into_promote(
    policy: PolicyConfig, more_prompts: int, less: float, more: float
) -> None:
    tight = policy.model_copy(
        update={
            "low_below": max(policy.low_below - less, 0.0),
            "high_from": max(policy.high_from - less, 0.5),
            "min_prompts": policy.min_prompts + more_prompts,
            "veto_signal_below": min(policy.veto_signal_below + more, 1.0),
            "low_signal_from": min(policy.low_signal_from + more, 1.0),
            "low_agreement_from": min(policy.low_agreement_from + more, 1.0),
            "low_headroom_from": policy.low_headroom_from + 10.0 * more,
            "max_component": max(policy.max_component - more, 0.0),
            "required_level": "low",
        }
    )
    statistics = ladder_rung(0.8, 0.8, 0.2)

    before = decide(report_of(statistics, policy=policy, num_resamples=200), policy)
    after = decide(report_of(statistics, policy=tight, num_resamples=200), tight)

    if before.outcome is not Outcome.PROMOTE:
        assert after.outcome is not Outcome.PROMOTE


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), policies)
def test_decide_answers_every_report_under_every_policy(
    solved: list[int], policy: PolicyConfig
) -> None:
    decision = decide(report_of(prompts(solved, 8), num_resamples=200), policy)

    assert decision.outcome in Outcome
    assert decision.reasons


def test_a_policy_file_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    text = "name: strict\nmin_prompts: 100\ncomponents:\n  starvation: {ok: 1, bad: 0, weight: 1}\n"

    policy = load_policy(written(tmp_path, text))

    assert (policy.name, policy.min_prompts) == ("strict", 100)
    assert list(policy.components) == ["starvation"]
    assert policy.high_from == PolicyConfig().high_from


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("min_prompt: 3", "min_prompt"),
        ("min_prompts: 0", "min_prompts"),
        ("low_below: .nan", "low_below"),
        ("low_below: 0.9", "low_below"),
        ("components: {luck: {ok: 0, bad: 1, weight: 0.5}}", "luck"),
        ("components: {starvation: {ok: 1, bad: 1, weight: 0.5}}", r"^components.starvation.ok=1"),
        (
            "components: {starvation: {ok: 1, bad: 0, weight: 1, okk: 1}}",
            r"^components.starvation.okk=1: unknown setting; known: bad, ok, weight",
        ),
        ("components: {starvation: {ok: yes}}", r"^components.starvation.ok=True"),
        ("- a list", "mapping"),
        ("", "empty"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.getcwd []", "cannot be read"),
        ("1: 2", "mapping"),
        ("name: 2026-13-45", "it is no YAML"),
        ("low_below: 0.1\nlow_below: 0.2", "a key stands twice, line 1"),
        ("a: " + "[" * 5000, "cannot be read"),
    ],
)
def test_a_policy_file_that_is_wrong_is_refused_with_the_field(
    tmp_path: Path, text: str, word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        load_policy(written(tmp_path, text))


def test_a_policy_file_that_is_missing_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")


def test_the_decision_as_json_values_holds_plain_types(report: RiskReport) -> None:
    raw = decide(report, PolicyConfig()).to_dict()

    assert type(raw["outcome"]) is str
    assert isinstance(raw["reasons"], list)
    assert raw["policy_digest"] == PolicyConfig().digest()
