"""Next steps must be possible: no pass@1 above 1, no group size that a bad fit made up."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.report import RiskLevel
from tests.prompt_statistics import prompt, prompts, report_of

NO_TWO_ALIKE: dict[str, Any] = {"answer_counts": (1,) * 16, "right_answer_counts": ()}
"""Answers of 16 rollouts that never agree."""


def test_headroom_that_no_success_rate_could_reach_asks_for_larger_groups() -> None:
    report = report_of(prompts([4, 8, 8, 12] * 20, 16), group_size=2)

    # p*(2) = 1/2: the largest headroom is 2, the policy's harmless one 4.
    assert not any("pass@1 of" in step for step in report.next_steps)
    assert any(
        step.startswith("train with larger groups: at groups of 2 even pass@1 = 1")
        and "headroom of 2," in step
        for step in report.next_steps
    )


@pytest.mark.parametrize(("group_size", "wanted"), [(8, "0.33"), (4, "0.64")])
def test_headroom_that_can_be_reached_names_the_success_rate(group_size: int, wanted: str) -> None:
    report = report_of(prompts([0, 1, 2, 3] * 20, 16), group_size=group_size)

    # Four times p*(8) = .0830 and p*(4) = .1594.
    assert any(f"pass@1 of {wanted} is where headroom" in step for step in report.next_steps)


def test_no_group_size_is_promised_where_prompts_are_of_two_kinds() -> None:
    rng = np.random.default_rng(0)
    success = np.where(np.arange(200) % 2 == 0, 0.0, 0.5)

    report = report_of(prompts(rng.binomial(16, success), 16))

    # Half of the prompts are never solved, so no group size brings the signal above 1/2.
    assert not any(step.startswith("groups of") for step in report.next_steps)
    assert any("these prompts are of several kinds" in step for step in report.next_steps)


def test_no_group_size_is_promised_where_rewards_tell_more_apart_than_success() -> None:
    rng = np.random.default_rng(3)
    solved = rng.binomial(16, rng.beta(1.0, 4.0, size=400))
    statistics = [
        prompt(i, int(c), 16, rewards=(1.0,) * int(c) + (0.0,) * (15 - int(c)) + (0.5,))
        for i, c in enumerate(np.minimum(solved, 15))
    ]
    shifted = [
        prompt(i, int(c), 16, rewards=(1.0,) * int(c) + (-1.0,) * (16 - int(c)))
        for i, c in enumerate(solved)
    ]

    graded = report_of(statistics, group_size=4, success_threshold=1.0)
    signed = report_of(shifted, group_size=4, success_threshold=1.0)

    assert graded.metrics["rlrisk/group_signal_fraction"].value < 0.75
    assert not any(step.startswith("groups of") for step in graded.next_steps)
    assert any(step.startswith("groups of") for step in signed.next_steps)


def test_group_size_advice_comes_from_the_fit_and_names_its_cost() -> None:
    rng = np.random.default_rng(3)
    solved = rng.binomial(16, rng.beta(1.0, 4.0, size=400))

    report = report_of(prompts(solved, 16), group_size=4)

    step = next(step for step in report.next_steps if step.startswith("groups of"))
    size = int(step.split()[2])
    # Beta(1, 4) reaches a signal of .75 at g = 13: 1 - 4/(4 + g) - B(1 + g, 4)/B(1, 4).
    assert 10 <= size <= 17
    assert f"{size / 4:.1f} times" in step


def test_what_the_level_rests_on_is_advised_on_first() -> None:
    report = report_of(prompts([16] * 30 + [15] * 30 + [0] * 10, 16))

    # One prompt in seven is out of reach, but it is the signal that makes the level.
    assert report.risk_level == "high"
    assert report.next_steps[0].startswith("replace prompts that are always solved")
    assert any(step.startswith("mix in easier prompts") for step in report.next_steps[1:])


def test_rare_right_answers_that_keep_a_level_from_low_are_told_with_what_would_help() -> None:
    # Every prompt is solved 4 or 5 times of 16: pass@1 .28, a headroom of 3.4.
    rare = prompts([4, 5] * 100, 16, **NO_TWO_ALIKE)
    report = report_of(rare)
    tried = Evidence.exact(0.6, "tried")
    with_updates = report_of(rare, context=AssessmentContext(lookahead_reach=tried))

    assert (report.risk_level, with_updates.risk_level) == (RiskLevel.MEDIUM, RiskLevel.LOW)
    (said,) = (each for each in report.reasons if "over critical success" in each)
    assert "is not above 4 with its whole interval" in said
    assert "no first updates were tried" in said
    assert "arXiv:2606.18487" in said
    assert any("rlrisk lookahead FOLDER" in step for step in report.next_steps)
    assert any("pass@1 of 0.33 is where headroom" in step for step in report.next_steps)


def test_rollouts_that_agree_on_wrong_answers_are_told_with_what_would_help() -> None:
    # 8 of 16 are right and spread over eight answers, the wrong ones all say the same.
    one_wrong = {"answer_counts": (8, *[1] * 8), "right_answer_counts": (1,) * 8}
    tried = AssessmentContext(lookahead_reach=Evidence.exact(0.6, "tried"))

    for context in (None, tried):
        report = report_of(prompts([8] * 100, 16, **one_wrong), context=context)

        assert report.metrics["rlrisk/agreement_accuracy"].value == 0.0
        assert report.risk_level is RiskLevel.MEDIUM
        (said,) = (each for each in report.reasons if "where two rollouts agree" in each)
        assert "is not above 0.5 with its whole interval" in said
        assert report.next_steps[0].startswith("teach more of the task before RL")
        assert not any("headroom" in step for step in report.next_steps)


def test_agreement_astride_its_line_is_told_how_many_prompts_would_settle_it() -> None:
    # Two of 16 agree, on a right answer at 32 prompts of 60, on a wrong one at 28.
    agree_right = {"answer_counts": (2, *[1] * 14), "right_answer_counts": (2, *[1] * 6)}
    agree_wrong = {"answer_counts": (2, *[1] * 14), "right_answer_counts": (1,) * 8}
    right = prompts([8] * 32, 16, **agree_right)
    wrong = prompts([8] * 28, 16, **agree_wrong)

    report = report_of([*right, *(replace(each, prompt_id=f"w{each.prompt_id}") for each in wrong)])

    found = report.metrics["rlrisk/agreement_accuracy"]
    assert found.value == pytest.approx(32 / 60)
    assert found.ci_low < 0.5 < found.ci_high
    assert report.risk_level is RiskLevel.MEDIUM
    assert any(
        "to tell share of right ones where two rollouts agree" in step and "the line 0.5" in step
        for step in report.next_steps
    )


def test_a_headroom_astride_its_line_is_told_how_many_prompts_would_settle_it() -> None:
    report = report_of(prompts([3, 8] * 30, 16, **NO_TWO_ALIKE))

    assert report.metrics["rlrisk/headroom"].ci_low < 4.0 < report.metrics["rlrisk/headroom"].value
    assert report.risk_level is RiskLevel.MEDIUM
    assert any(
        "to tell pass@1 over critical success" in step and "from the line 4" in step
        for step in report.next_steps
    )
