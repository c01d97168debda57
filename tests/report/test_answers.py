"""What a report says of the answers themselves: how many differ, and which agree."""

import numpy as np
import pytest

from mlflow_rlrisk.measure import measure
from mlflow_rlrisk.records import (
    FinishReason,
    Grade,
    GradedGroup,
    GradeStatus,
    Prompt,
    PromptStatistics,
    Rollout,
)
from mlflow_rlrisk.report import RiskReport
from tests.prompt_statistics import prompt, report_of


def value(report: RiskReport, name: str) -> float:
    return report.metrics[f"rlrisk/{name}"].value


def test_an_answer_that_is_missing_counts_as_one_answer() -> None:
    statistics = [
        prompt(0, 2, 4, answer_counts=(2,), num_unparsed=2),
        prompt(1, 0, 4, answer_counts=None, num_unparsed=None),
    ]

    report = report_of(statistics, group_size=2)

    assert value(report, "parse_failure_share") == pytest.approx(6 / 8)
    assert value(report, "answer_collision") == pytest.approx((2 / 6 + 1) / 2)


def test_where_two_rollouts_agree_a_share_is_right_and_without_answers_texts_agree() -> None:
    answered = [
        prompt(0, 3, 6, answer_counts=(2, 2, 1), right_answer_counts=(2, 1), num_unparsed=1),
        prompt(1, 0, 6, answer_counts=(3,), right_answer_counts=(), num_unparsed=3),
    ]
    written = [
        prompt(0, 3, 6, answer_counts=None, correct_counts=(2, 1), text_counts=(2, 2, 1, 1)),
        prompt(1, 0, 6, answer_counts=None, correct_counts=(), text_counts=(3, 1, 1, 1)),
    ]
    alone = [prompt(i, 1, 4, answer_counts=None, text_counts=(1,) * 4) for i in range(3)]

    # One pair agrees on a right answer, one and three pairs on a wrong one.
    assert value(report_of(answered, group_size=2), "agreement_accuracy") == pytest.approx(1 / 5)
    assert value(report_of(written, group_size=2), "agreement_accuracy") == pytest.approx(1 / 5)
    report = report_of(alone, group_size=2)
    assert report.undefined["rlrisk/agreement_accuracy"] == "no two rollouts of a prompt agree"


def test_texts_that_nobody_graded_agree_on_no_wrong_answer() -> None:
    # Empty completions for which a reward function returns None are neither right nor wrong.
    said = ["a", "a", "a", "b", "b", "c", "", "", "", ""]

    report = report_of([graded(f"p{i}", said) for i in range(3)], group_size=2)

    # Three pairs agree on the right answer and one pair on a wrong one.
    assert value(report, "agreement_accuracy") == pytest.approx(3 / 4)
    assert value(report, "duplicate_rate") == pytest.approx((3 + 1 + 6) / 45)


def graded(prompt_id: str, said: list[str]) -> PromptStatistics:
    """Completions of which ``a`` is right, other texts wrong and empty ones not judged."""
    none = Grade(status=GradeStatus.NOT_APPLICABLE, reason="the verifier returned None")
    rollouts = tuple(
        Rollout(
            prompt_id=prompt_id,
            sample_index=index,
            completion=text,
            token_ids=np.array([2]),
            logprobs=None,
            entropies=None,
            finish_reason=FinishReason.STOP,
        )
        for index, text in enumerate(said)
    )
    grades = tuple(Grade.scored(float(text == "a")) if text else none for text in said)
    prompt = Prompt(id=prompt_id, content="?")
    return measure(GradedGroup(prompt=prompt, rollouts=rollouts, grades=grades), None)


def test_answers_of_which_none_is_known_to_be_right_are_no_share_of_0() -> None:
    report = report_of([prompt(i, 2, 4, right_answer_counts=None) for i in range(3)], group_size=2)

    assert "not counted" in report.undefined["rlrisk/agreement_accuracy"]


def test_correct_diversity_rests_on_prompts_with_two_correct_rollouts_and_says_how_many() -> None:
    statistics = [prompt(i, 4, 8, correct_counts=(1, 1, 2)) for i in range(30)]
    statistics += [prompt(100 + i, 1, 8, correct_counts=(1,)) for i in range(30)]

    metric = report_of(statistics).metrics["rlrisk/correct_diversity"]

    assert metric.num_prompts == 30
    assert metric.value == pytest.approx(3.0)  # 4 of 4 correct rollouts hold 3 texts
