"""Agreements that were measured once more: of the same weights, and counted right."""

import re

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from examples.study.agreeing import told
from examples.study.agreements import read_agreements
from examples.study.looking_ahead import FILE as AHEAD
from examples.study.looking_ahead import read_lookaheads
from examples.study.planned_settings import PROSPECTIVE_12, PROSPECTIVE_13, PROSPECTIVE_14
from examples.study.predictors import RESULTS
from examples.study.rows import read_pairs
from examples.study.scoring import study_of
from examples.study.settings import StudySettings


def test_every_row_is_of_the_weights_that_were_assessed_and_trained() -> None:
    known = {
        (row["lineage"], row["checkpoint"]): row for row in read_pairs(RESULTS / "pairs.jsonl")
    }
    rows = read_agreements()

    assert len({(row["lineage"], row["checkpoint"]) for row in rows}) == len(rows) == 384
    for row in rows:
        assert row["weights"] == known[row["lineage"], row["checkpoint"]]["digests"]["weights"]
        value, low, high = row["agreement"]
        assert 0.0 <= low <= value <= high <= 1.0


def test_the_auroc_of_agreement_is_that_of_mann_and_whitney() -> None:
    own = {(row["lineage"], row["checkpoint"]): row["agreement"][0] for row in read_agreements()}
    pairs = read_pairs(RESULTS / "pairs.jsonl")
    study = study_of([row for row in pairs if (row["lineage"], row["checkpoint"]) in own])
    values = np.array([own[row["lineage"], row["checkpoint"]] for row in study.rows])
    good, failed = values[~study.failed], values[study.failed]

    stated = re.search(r"`agreement_accuracy` \| ([0-9.]+)", told())

    assert stated is not None
    expected = mannwhitneyu(good, failed).statistic / (good.size * failed.size)
    assert abs(float(stated[1]) - expected) <= 0.0051


@pytest.mark.parametrize(
    ("which", "planned", "line_of_then"),
    [
        ("twelfth", PROSPECTIVE_12, "headroom from 4 on"),
        ("thirteenth", PROSPECTIVE_13, "agreement from 0.5 on"),
        ("fourteenth", PROSPECTIVE_14, "agreement from 0.5 on"),
    ],
)
def test_the_lows_of_a_test_are_those_given_before_its_runs(
    which: str, planned: StudySettings, line_of_then: str
) -> None:
    names = {each.name for each in planned.lineages}
    rows = [row for row in read_pairs(RESULTS / "pairs.jsonl") if row["lineage"] in names]
    ahead = {(a["lineage"], a["checkpoint"]): a for a in read_lookaheads(RESULTS / AHEAD)}
    given, tried, agreed = [], [], []
    for row in rows:
        has_failed = np.mean([run["failed"] for run in row["outcomes"]]) >= 0.5
        does_agree = row["metrics"]["rlrisk/agreement_accuracy_ci_low"] >= 0.5
        if row["risk_level"] == "low":
            given.append(has_failed)
        if ahead[row["lineage"], row["checkpoint"]]["risk_level"] == "low":
            (agreed if does_agree else tried).append(has_failed)

    said = told().split(f"{which} test, stated before any run")[1].split("stated before")[0]

    for name, found in (
        (line_of_then, given),
        ("with the updates", tried + agreed),
        ("with the updates, agreement from 0.5 on", agreed),
        ("with the updates, agreement below", tried),
    ):
        assert f"| {name} | {len(found)} | {sum(found)} |" in said
