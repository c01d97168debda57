"""The chance of failure that the README states, made again by another library."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import interp1d
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from examples.study.looking_ahead import FILE as LOOKAHEADS
from examples.study.looking_ahead import read_lookaheads
from examples.study.outcomes import (
    CHANCE_TESTS,
    FILE,
    chance_figures,
    chance_section,
    outcome_lines,
    planned_chance,
    planned_chance_section,
)
from examples.study.predictors import RESULTS
from examples.study.prospective import PlannedTest
from examples.study.rows import read_pairs

AHEAD = RESULTS / LOOKAHEADS


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    text = (RESULTS / FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_checkpoint_is_there_and_none_is_predicted_by_its_twin(
    lines: list[dict[str, Any]],
) -> None:
    rows = read_pairs(RESULTS / "pairs.jsonl")

    assert len(lines) == len(rows)
    assert sum(len(line["outcomes"]) for line in lines) == sum(len(r["outcomes"]) for r in rows)
    of_weights: dict[str, set[str]] = {}
    for row, line in zip(rows, lines, strict=True):
        assert line["checkpoint"] == f"{row['lineage']}/{row['checkpoint']}"
        of_weights.setdefault(row["digests"]["weights"], set()).add(line["lineage"])
    assert all(len(lineages) == 1 for lineages in of_weights.values())
    sizes = Counter(line["lineage"] for line in lines)
    assert (len(sizes), sizes["booking-qwen3"]) == (32, 48)


def test_a_checkpoint_whose_updates_were_not_tried_leaves_the_file_unwritten() -> None:
    rows = read_pairs(RESULTS / "pairs.jsonl")

    assert outcome_lines([{**rows[0], "checkpoint": "another"}]) == ""


def test_the_brier_score_is_that_of_scikit_learn(lines: list[dict[str, Any]]) -> None:
    lines = [line for line in lines if "rlrisk/lookahead_reach" in line["metrics"]]
    left = np.array([1.0 - line["metrics"]["rlrisk/lookahead_reach"] for line in lines])
    lineages = np.array([line["lineage"] for line in lines])
    runs = [line["outcomes"] for line in lines]
    failed = np.array(
        [np.mean([r["failed"] or r["gain"]["pass_at_1"] <= 0 for r in own]) >= 0.5 for own in runs]
    )
    chances = np.empty(len(lines))
    for name in set(lineages):
        own = lineages == name
        edge = 0.5 / (~own).sum()
        curve = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip")
        chances[own] = curve.fit(left[~own], failed[~own].astype(float)).predict(left[own])

    found = chance_figures()

    assert found["predictors"]["lookahead_reach"]["brier"] == pytest.approx(
        brier_score_loss(failed, chances)
    )
    assert found["num_failed"] == failed.sum()
    assert found["failed_above"] == (failed & (chances > 0.5)).sum()
    assert found["good_above"] == (~failed & (chances > 0.5)).sum()


def test_the_sentence_says_so_where_a_policy_would_not_use_it() -> None:
    found = chance_figures()

    assert "would use it, and none of the index" in chance_section(found)
    other = chance_section({**found, "used": False, "index_used": True})
    assert "would **not** use it. Above" in other


@pytest.mark.parametrize("test", CHANCE_TESTS, ids=lambda test: str(test.file))
def test_a_planned_curve_is_held_against_outcomes_of_its_own_test_alone(test: PlannedTest) -> None:
    known = {(each["lineage"], each["checkpoint"]): each for each in read_lookaheads(AHEAD)}
    rows = [
        row
        for row in read_pairs(RESULTS / "pairs.jsonl")
        if row["lineage"] in test.lineages and known[row["lineage"], row["checkpoint"]]["reach"]
    ]
    curves = test.plan()["curves"]
    failed = [np.mean([run["failed"] for run in row["outcomes"]]) >= 0.5 for row in rows]
    left = [1.0 - known[row["lineage"], row["checkpoint"]]["reach"][0] for row in rows]
    index = [row["metrics"]["rlrisk/risk_index"] for row in rows]

    found = planned_chance(read_pairs(RESULTS / "pairs.jsonl"), test)

    assert found is not None
    for name, scores in (("lookahead_reach", left), ("risk_index", index)):
        at, chances = np.array(curves[name]["curve"]).T
        curve = interp1d(at, chances, bounds_error=False, fill_value=(chances[0], chances[-1]))
        assert found["brier"][name] == pytest.approx(brier_score_loss(failed, curve(scores)))
        if name == "lookahead_reach":
            above = curve(scores) > 0.5
            assert found["above"] == [int((above & failed).sum()), int(above.sum())]
    share = test.plan()["failed_share"]
    assert found["brier"]["constant"] == pytest.approx(
        brier_score_loss(failed, [share] * len(rows))
    )
    low, high = found["less"]["risk_index"]
    assert low < found["brier"]["lookahead_reach"] - found["brier"]["risk_index"] < high


def test_a_planned_curve_that_fails_is_said_to() -> None:
    found = planned_chance(read_pairs(RESULTS / "pairs.jsonl"), CHANCE_TESTS[0])
    assert found is not None

    worse = {**found, "brier": {**found["brier"], "lookahead_reach": 0.9}}

    assert "runs **does not hold**" in planned_chance_section(worse)
    assert planned_chance([], CHANCE_TESTS[0]) is None
    assert planned_chance_section(None) == ""
