"""Levels of the study's checkpoints under other rules than they were given by."""

import re
from collections import Counter

import pytest

from examples.study import verdicts
from examples.study.agreements import agreement_of
from examples.study.first_updates import HEADROOM_LINE, NO_LINE
from examples.study.predictors import RESULTS
from examples.study.rows import read_pairs
from examples.study.scoring import study_of
from examples.study.verdicts import level_now, with_luck
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.report import Metric, RiskLevel
from mlflow_rlrisk.thresholds import threshold
from tests.prompt_statistics import prompts, report_of


@pytest.mark.parametrize("given_by", [PolicyConfig(), HEADROOM_LINE, NO_LINE])
def test_a_level_is_that_of_the_rules_asked_for_not_of_those_of_its_report(
    given_by: PolicyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = read_pairs(RESULTS / "pairs.jsonl")[0]
    no_two_alike = {"answer_counts": (1,) * 16, "right_answer_counts": ()}
    rare = report_of(prompts([4, 5] * 100, 16, **no_two_alike), policy=given_by)
    monkeypatch.setattr(verdicts, "report_of", lambda _: rare)

    assert level_now(row) is RiskLevel.MEDIUM
    assert level_now(row, HEADROOM_LINE) is RiskLevel.MEDIUM
    assert level_now(row, NO_LINE) is RiskLevel.LOW


@pytest.mark.parametrize("agreement", [0.45, 0.55])
def test_an_agreement_that_was_measured_later_takes_the_place_of_the_headroom(
    agreement: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = read_pairs(RESULTS / "pairs.jsonl")[0]
    no_two_alike = {"answer_counts": (1,) * 16, "right_answer_counts": ()}
    rare = report_of(prompts([4, 5] * 100, 16, **no_two_alike), policy=HEADROOM_LINE)
    found = Metric(value=agreement, ci_low=agreement, ci_high=agreement, num_prompts=200)
    monkeypatch.setattr(verdicts, "report_of", lambda _: rare)
    monkeypatch.setattr(verdicts, "agreement_of", lambda _: found)
    expected = RiskLevel.LOW if agreement >= 0.5 else RiskLevel.MEDIUM

    with_updates = with_luck(row, RiskLevel.LOW, PolicyConfig(), are_updates_tried=True)

    assert level_now(row) is with_updates is expected
    assert level_now(row, HEADROOM_LINE) is RiskLevel.MEDIUM
    assert level_now(row, NO_LINE) is RiskLevel.LOW
    assert with_luck(row, RiskLevel.HIGH, PolicyConfig()) is RiskLevel.HIGH


def test_what_the_lines_of_luck_say_of_our_study_is_what_its_rows_say() -> None:
    study = study_of(read_pairs(RESULTS / "pairs.jsonl"))
    headroom, agreement = (Counter[tuple[bool, bool]]() for _ in range(2))
    for row, has_failed in zip(study.rows, study.failed, strict=True):
        if level_now(row, NO_LINE) is RiskLevel.LOW:
            headroom[row["metrics"]["rlrisk/headroom_ci_low"] >= 4.0, bool(has_failed)] += 1
            if (found := agreement_of(row)) is not None:
                agreement[found.ci_low >= 0.5, bool(has_failed)] += 1

    for name, counts in (("headroom", headroom), ("agreement", agreement)):
        said = re.findall(r"(\d+) of (\d+)", threshold(f"policy.low_{name}_from").source)
        assert said == [
            (str(counts[side, True]), str(counts[side, True] + counts[side, False]))
            for side in (False, True)
        ]
