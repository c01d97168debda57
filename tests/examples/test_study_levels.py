"""Levels of the study's checkpoints under other rules than they were given by."""

import re

import pytest

from examples.study import verdicts
from examples.study.first_updates import NO_LINE
from examples.study.predictors import RESULTS
from examples.study.rows import read_pairs
from examples.study.scoring import study_of
from examples.study.verdicts import level_now
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.report import RiskLevel
from mlflow_rlrisk.thresholds import threshold
from tests.prompt_statistics import prompts, report_of


@pytest.mark.parametrize("given_by", [PolicyConfig(), NO_LINE], ids=["with", "without"])
def test_a_level_is_that_of_the_rules_asked_for_not_of_those_of_its_report(
    given_by: PolicyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = read_pairs(RESULTS / "pairs.jsonl")[0]
    rare = report_of(prompts([4, 5] * 100, 16), policy=given_by)
    monkeypatch.setattr(verdicts, "report_of", lambda _: rare)

    assert level_now(row) is RiskLevel.MEDIUM
    assert level_now(row, NO_LINE) is RiskLevel.LOW


def test_what_the_line_of_headroom_says_of_our_study_is_what_its_rows_say() -> None:
    study = study_of(read_pairs(RESULTS / "pairs.jsonl"))
    counts = {True: [0, 0], False: [0, 0]}
    for row, has_failed in zip(study.rows, study.failed, strict=True):
        if level_now(row, NO_LINE) is RiskLevel.LOW:
            is_above = row["metrics"]["rlrisk/headroom_ci_low"] >= 4.0
            counts[is_above][0] += int(has_failed)
            counts[is_above][1] += 1

    said = re.findall(r"(\d+) of (\d+)", threshold("policy.low_headroom_from").source)

    assert [[int(n) for n in each] for each in said] == [counts[False], counts[True]]
