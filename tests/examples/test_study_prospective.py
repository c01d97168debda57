"""A planned test is of the index that was written down, on rows that came after the plan."""

import hashlib
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from examples.study.planned_settings import PROSPECTIVE_14
from examples.study.predictors import OURS, RESULTS, report_of
from examples.study.prospective import PLANNED, PlannedTest, prospective_figures
from examples.study.prospective_tables import SUMMARY, prospective_section, prospective_summary
from examples.study.rows import PairRow, read_pairs
from examples.study.settings import FULL
from mlflow_rlrisk.calibration import formula_digest

STUDY = RESULTS.parent
GROUPS = ("group_size", "prompts_per_step")
"""What the fourteenth test alone has otherwise."""
RULE_OF_THEN = "1 - prod(1 - weight * clip((x - ok) / (bad - ok), 0, 1))"
"""Of the first thirteen: starvation was read off the group signal alone."""


@pytest.fixture(scope="module", params=PLANNED, ids=lambda planned: planned.file)
def planned(request: pytest.FixtureRequest) -> PlannedTest:
    test: PlannedTest = request.param
    return test


@pytest.fixture(scope="module")
def rows(planned: PlannedTest) -> list[PairRow]:
    rows = read_pairs(RESULTS / "pairs.jsonl")
    return [row for row in rows if row["lineage"] in planned.lineages]


@pytest.fixture(scope="module")
def found(rows: list[PairRow], planned: PlannedTest) -> dict[str, Any]:
    figures = prospective_figures(rows, planned)
    assert figures is not None
    return figures


def test_settings_and_candidates_are_those_of_the_plan(planned: PlannedTest) -> None:
    candidates = (STUDY / "candidates.py").read_bytes()

    assert planned.plan()["settings"] == planned.settings.digest()
    assert planned.plan()["candidates"] == hashlib.sha256(candidates).hexdigest()
    changed = {"lineages"} if planned.settings is not PROSPECTIVE_14 else {"lineages", *GROUPS}
    same = planned.settings.model_dump(exclude=changed)
    assert same == FULL.model_dump(exclude=changed)
    assert planned.settings.group_size * planned.settings.prompts_per_step == 128
    others = [FULL, *(test.settings for test in PLANNED if test is not planned)]
    known = {each.name for settings in others for each in settings.lineages}
    assert not set(planned.lineages) & known


def test_every_report_was_made_by_the_formula_of_the_plan(
    rows: list[PairRow], planned: PlannedTest
) -> None:
    for row in rows:
        report = report_of(row["report"])
        of_then = () if planned.settings is PROSPECTIVE_14 else (RULE_OF_THEN,)
        assert formula_digest(report.policy.components, *of_then) == planned.plan()["formula"]
        assert report.risk_level == row["risk_level"]
        assert report.metrics["rlrisk/risk_index"].value == row["metrics"]["rlrisk/risk_index"]


def test_figures_are_those_of_scipy(
    rows: list[PairRow], found: dict[str, Any], planned: PlannedTest
) -> None:
    correlations, failed = [], []
    for name in sorted(planned.lineages):
        own = [row for row in rows if row["lineage"] == name]
        index = [row["metrics"]["rlrisk/risk_index"] for row in own]
        after = [np.mean([run["final"]["pass_at_1"] for run in row["outcomes"]]) for row in own]
        correlations.append(spearmanr(index, after).statistic)
    for row in rows:
        share = np.mean([run["failed"] for run in row["outcomes"]])
        failed.append((row["metrics"]["rlrisk/risk_index"], bool(share >= 0.5)))
    bad, good = ([index for index, each in failed if each is side] for side in (True, False))
    pairs = mannwhitneyu(bad, good).statistic / (len(bad) * len(good))

    assert found["predictors"][OURS]["within"] == pytest.approx(-np.mean(correlations))
    assert found["predictors"][OURS]["auroc_failed"] == pytest.approx(pairs)


def test_a_failed_run_that_was_called_low_would_be_said(found: dict[str, Any]) -> None:
    levels = {"low": {"failed": 2, "good": 1}, "high": {"failed": 3, "good": 0}}

    said = prospective_section({**found, "levels": levels})

    assert "**2 of 5 checkpoints whose run failed were called `low`**" in said


def test_a_worse_rank_and_a_changed_index_would_be_said(found: dict[str, Any]) -> None:
    predictors = {**found["predictors"]}
    predictors[OURS] = {**predictors[OURS], "within": predictors["pass@64"]["within"] - 0.001}

    said = prospective_section({**found, "predictors": predictors, "is_shipped": False})

    assert "the index **ranks worse than** pass@64" in said
    assert "**but changed since**" in said


def test_what_the_index_of_now_makes_of_a_test_is_said(
    rows: list[PairRow], found: dict[str, Any]
) -> None:
    other, failed, correlations = 0, 0, []
    for name in {row["lineage"] for row in rows}:
        now, after = [], []
        for row in (each for each in rows if each["lineage"] == name):
            mixed, wrong, reached = (
                row["metrics"][f"rlrisk/{each}"]
                for each in ("group_signal_fraction", "frac_all_wrong", "pass_at_64")
            )
            left = mixed / (mixed + wrong) if mixed + wrong else 1.0
            now.append(1.0 - min(20.0 * left, 1.0) * reached)
            after.append(np.mean([run["final"]["pass_at_1"] for run in row["outcomes"]]))
            if abs(now[-1] - row["metrics"]["rlrisk/risk_index"]) > 0.01:
                other += 1
                failed += np.mean([run["failed"] for run in row["outcomes"]]) >= 0.5
        is_ordered = np.ptp(now) > 0.0  # no order counts 0
        correlations.append(-spearmanr(now, after).statistic if is_ordered else 0.0)

    said = prospective_section(found)

    assert found["now"]["within"] == pytest.approx(np.mean(correlations))
    sentence = f"differs on {other} of the {len(rows)} checkpoints, of which {failed} failed"
    assert (sentence in said) is not found["is_shipped"]
    assert other == 0 or not found["is_shipped"]


def test_the_line_of_a_test_says_what_was_lost_changed_and_missed(found: dict[str, Any]) -> None:
    predictors = {**found["predictors"]}
    predictors[OURS] = {**predictors[OURS], "within": predictors["pass@64"]["within"] - 0.001}
    levels = {"low": {"failed": 2, "good": 1}, "high": {"failed": 3, "good": 4}}
    asked = {**found, "is_of_rank": True}
    worse = {**asked, "predictors": predictors, "is_shipped": False, "levels": levels}

    *_, last = prospective_summary([None, worse]).rstrip("\n").splitlines()

    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells[0].startswith(found["title"].removesuffix(" out of sample"))
    assert cells[2].endswith("changed since")
    assert cells[5].startswith("**lost** [")
    assert cells[-2:] == ["3 (2)", "4 of 5"]
    assert len(cells) == len(SUMMARY)
    even = {**predictors, OURS: predictors["pass@64"]}
    assert "| won [" in prospective_summary([{**asked, "predictors": even}])


def test_before_the_runs_nothing_is_said() -> None:
    assert prospective_figures([], PLANNED[0]) is None
    assert prospective_section(None) == ""
    assert prospective_summary([None]) == ""
