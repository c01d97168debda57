"""The table of the updates that were tried follows from committed rows, and says what is bad."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from examples.study import first_updates
from examples.study.agreements import agreement_of
from examples.study.first_updates import (
    REACH,
    first_update_figures,
    first_update_section,
    lookaheads_of,
)
from examples.study.looking_ahead import FILE, of_the_run, read_lookaheads
from examples.study.predictors import RESULTS
from examples.study.prospective import PLANNED, PlannedTest
from examples.study.rows import PairRow, read_pairs
from mlflow_rlrisk.config import DEFAULT_COMPONENTS

LAST = next(test for test in PLANNED if not test.is_of_rank)


@pytest.fixture(scope="module")
def rows() -> list[PairRow]:
    rows = read_pairs(RESULTS / "pairs.jsonl")
    return [row for row in rows if row["lineage"] in LAST.lineages]


@pytest.fixture(scope="module")
def found(rows: list[PairRow]) -> dict[str, Any]:
    figures = first_update_figures(rows, LAST.lineages, "title")
    assert figures is not None
    return figures


def _failed(row: PairRow) -> bool:
    return bool(np.mean([run["failed"] for run in row["outcomes"]]) >= 0.5)


def test_figures_are_those_of_scipy(rows: list[PairRow], found: dict[str, Any]) -> None:
    ahead = {
        (each["lineage"], each["checkpoint"]): each for each in read_lookaheads(RESULTS / FILE)
    }
    reach = [ahead[row["lineage"], row["checkpoint"]]["reach"][0] for row in rows]
    closed = [
        np.mean(
            [
                (run["final"]["pass_at_1"] - run["before"]["pass_at_1"])
                / (1 - run["before"]["pass_at_1"])
                for run in row["outcomes"]
            ]
        )
        for row in rows
    ]
    good, bad = (
        [value for value, row in zip(reach, rows, strict=True) if _failed(row) is side]
        for side in (False, True)
    )

    own = found["predictors"][REACH]
    pairs = mannwhitneyu(good, bad).statistic / (len(good) * len(bad))
    assert own["auroc"] == pytest.approx(pairs)
    assert own["closed_pooled"] == pytest.approx(spearmanr(reach, closed).statistic)


def test_levels_are_counted_and_a_failed_low_is_named(
    rows: list[PairRow], found: dict[str, Any]
) -> None:
    ahead = {
        (each["lineage"], each["checkpoint"]): each for each in read_lookaheads(RESULTS / FILE)
    }
    counted = Counter(
        (ahead[row["lineage"], row["checkpoint"]]["risk_level"], _failed(row)) for row in rows
    )
    for level in ("low", "medium", "high"):
        assert found["levels_with"][level] == {
            "failed": counted[level, True],
            "good": counted[level, False],
        }

    said = first_update_section({**found, "lows": ["weaving x"]})

    assert "**failed and `low`: weaving x**" in said
    assert "no checkpoint whose run failed is `low`" in first_update_section({**found, "lows": []})


def test_the_updates_withhold_low_and_do_nothing_else(rows: list[PairRow]) -> None:
    line = DEFAULT_COMPONENTS["lookahead"]
    ahead = lookaheads_of(rows)
    assert ahead is not None
    for row, own in zip(rows, ahead, strict=True):
        if row["risk_level"] == "low":
            is_learning = own["reach"][1] >= (line.ok + line.bad) / 2
            assert own["risk_level"] == ("low" if is_learning else "medium")
        else:
            assert own["risk_level"] == row["risk_level"]


def test_each_was_tried_on_the_rollouts_of_its_report_at_the_rate_of_its_run(
    rows: list[PairRow],
) -> None:
    ahead = lookaheads_of(rows)
    assert ahead is not None
    for row, own in zip(rows, ahead, strict=True):
        counts = [(correct, scored) for correct, scored, _ in own["solve_counts"]]
        assert all(scored == LAST.settings.assessed_samples for _, scored in counts)
        solved = sum(correct * count for correct, _, count in own["solve_counts"])
        assert solved / 6400 == pytest.approx(row["metrics"]["rlrisk/pass_at_1"])
        assert own["settings"] == of_the_run(row["lineage"], LAST.settings).model_dump()


def test_a_checkpoint_whose_updates_say_nothing_has_a_level_and_no_part_in_their_figures(
    rows: list[PairRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = read_lookaheads(RESULTS / FILE)
    silent = next(each for each in known if each["lineage"] == LAST.lineages[0])
    changed = {**silent, "reach": [], "closed": [], "undefined": "no gap", "risk_level": "medium"}
    lines = [json.dumps(changed if each is silent else each) + "\n" for each in known]
    others = [row for row in rows if row["checkpoint"] != silent["checkpoint"]]
    expected = first_update_figures(others, [silent["lineage"]], "title")
    assert expected is not None
    (tmp_path / FILE).write_text("".join(lines))
    monkeypatch.setattr(first_updates, "RESULTS", tmp_path)

    found = first_update_figures(rows, [silent["lineage"]], "title")

    assert found is not None
    assert found["num_checkpoints"] == expected["num_checkpoints"] + 1
    assert found["predictors"] == expected["predictors"]
    assert found["levels_with"]["medium"] != expected["levels_with"]["medium"]
    assert "of 1 the updates say nothing" in first_update_section(found)
    assert "say nothing" not in first_update_section(expected)


def test_what_is_missing_or_of_other_weights_is_no_figure(
    rows: list[PairRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_updates, "RESULTS", tmp_path)
    assert first_update_figures(rows, LAST.lineages, "title") is None
    assert first_update_section(None) == ""

    known = read_lookaheads(RESULTS / FILE)
    changed = [{**each, "weights": "0" * 64} for each in known]
    (tmp_path / FILE).write_text("".join(json.dumps(each) + "\n" for each in changed))
    with pytest.raises(ValueError, match="other weights"):
        lookaheads_of(rows)


@pytest.mark.parametrize("test", [LAST, PLANNED[-1]], ids=lambda test: str(test.file))
def test_intervals_that_were_too_narrow_are_stretched_and_no_others(test: PlannedTest) -> None:
    rows = [r for r in read_pairs(RESULTS / "pairs.jsonl") if r["lineage"] in test.lineages]
    found = first_update_figures(rows, test.lineages, "title")
    assert found is not None
    ahead = {(a["lineage"], a["checkpoint"]): a for a in read_lookaheads(RESULTS / FILE)}
    counts = []
    for factor in first_updates.WIDER if test is LAST else (1.0, 1.0):
        chosen = []
        for row in rows:
            own = ahead[row["lineage"], row["checkpoint"]]
            agreement = agreement_of(row)
            is_known = agreement is None or agreement.ci_low >= 0.5
            if own["risk_level"] == "low" and is_known:
                value, low, _ = own["reach"]
                chosen += [_failed(row)] * (value - factor * (value - low) >= 0.25)
        counts.append([len(chosen), sum(chosen)])

    said = first_updates.first_update_summary([found])

    assert found["lows_wider"] == counts
    assert (
        counts[1][0]
        <= counts[0][0]
        <= found["levels_with"]["low"]["failed"] + (found["levels_with"]["low"]["good"])
    )
    assert f"stretched so, {counts[0][0]} ({counts[0][1]} failed)" in said
