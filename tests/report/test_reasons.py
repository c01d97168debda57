"""Sentences must stay true under lines that a user moved, and name who drew them."""

from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.report import RiskLevel
from tests.prompt_statistics import ladder_rung, prompts, report_of


def test_the_default_signal_line_says_most_groups_and_names_the_definition() -> None:
    report = report_of(prompts([0, 16, 8, 0] * 20, 16))

    reason = next(each for each in report.reasons if each.startswith("group signal"))
    assert "is below 0.5: most groups of 8 carry no reward difference" in reason
    assert reason.endswith("[definition: the majority of groups is degenerate; exact]")


def test_a_users_signal_line_claims_no_majority_and_no_definition() -> None:
    strict = PolicyConfig(name="ours", veto_signal_below=0.95)

    report = report_of(ladder_rung(1.2, 1.8, 0.3), policy=strict)

    reason = next(each for each in report.reasons if each.startswith("group signal"))
    degenerate = 1.0 - report.metrics["rlrisk/group_signal_fraction"].value
    assert degenerate < 0.5
    assert f"is below 0.95: {degenerate:.0%} of the groups of 8 carry no" in reason
    assert reason.endswith("[policy ours; set by the user's policy]")


def test_a_users_starved_line_claims_no_majority() -> None:
    strict = PolicyConfig(name="ours", veto_starved_above=0.02)

    report = report_of(ladder_rung(1.2, 1.8, 0.3), policy=strict)

    starved = report.metrics["rlrisk/starved_share"].value
    reason = next(each for each in report.reasons if each.startswith("starved share"))
    assert starved < 0.5
    assert f"is above 0.02: {starved:.0%} of the prompts are too hard" in reason
    assert reason.endswith("[policy ours; set by the user's policy]")


def test_a_truncated_minority_is_not_called_most_answers() -> None:
    strict = PolicyConfig(max_truncated_share=0.1)

    report = report_of(prompts([8] * 60, 16, num_truncated=4), policy=strict)

    assert report.risk_level is RiskLevel.UNKNOWN
    assert report.reasons[0].endswith("more than 10.0%: these answers were never finished")


def test_signal_that_withholds_low_is_told_once_with_its_line_and_what_to_do() -> None:
    report = report_of(prompts([16] * 20 + [8] * 40, 16))

    assert report.risk_level is RiskLevel.MEDIUM
    told = [reason for reason in report.reasons if reason.startswith("group signal")]
    assert len(told) == 1
    assert "is not above 0.75 with its whole interval, as low needs at groups of 8" in told[0]
    assert any(
        step.startswith("replace prompts that are always solved") for step in report.next_steps
    )
