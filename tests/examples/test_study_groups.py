"""The fourteenth test: what is low for its groups of 16 alone, counted as its plan says."""

import json
from typing import Any

import pytest

from examples.study.groups import group_figures, group_section, is_moved
from examples.study.planned_settings import PROSPECTIVE_14
from examples.study.predictors import RESULTS
from examples.study.rows import PairRow, read_pairs
from examples.study.verdicts import level_in_groups
from mlflow_rlrisk import PolicyConfig


@pytest.fixture(scope="module")
def rows() -> list[PairRow]:
    return read_pairs(RESULTS / "pairs.jsonl")


@pytest.fixture(scope="module")
def found(rows: list[PairRow]) -> dict[str, Any]:
    figures = group_figures(rows)
    assert figures is not None
    return figures


def test_every_start_is_counted_once_beside_its_own_run_in_groups_of_8(
    found: dict[str, Any],
) -> None:
    lines = (RESULTS / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    failed = {}
    for row in map(json.loads, lines):
        runs = [run["failed"] for run in row["outcomes"]]
        failed[row["lineage"], row["checkpoint"]] = 2 * sum(runs) >= len(runs)
    pairs = [
        (failed[name.removesuffix("-16"), checkpoint], has_failed)
        for (name, checkpoint), has_failed in failed.items()
        if name.endswith("-16")
    ]

    assert found["failed_in"] == {
        "both": pairs.count((True, True)),
        "8 only": pairs.count((True, False)),
        "16 only": pairs.count((False, True)),
        "neither": pairs.count((False, False)),
    }
    assert sum(each["n"] for each in found["groups"].values()) == len(pairs) == 96
    assert sum(each["failed"] for each in found["groups"].values()) == sum(
        has_failed for _, has_failed in pairs
    )


def test_a_level_in_groups_of_the_run_is_that_of_its_report_but_on_the_line(
    rows: list[PairRow],
) -> None:
    names, line = {each.name for each in PROSPECTIVE_14.lineages}, PolicyConfig().low_signal_from

    others = [
        row["metrics"]["rlrisk/group_signal_fraction_ci_low"]
        for row in rows
        if row["lineage"] in names
        and level_in_groups(row, PROSPECTIVE_14.group_size).value != row["risk_level"]
    ]

    assert len(others) <= 2
    assert others == pytest.approx([line] * len(others), abs=0.01)


@pytest.mark.parametrize(
    ("alone", "both", "wanted"),
    [
        ((7, 7), (10, 0), False),
        ((8, 2), (10, 0), True),
        ((8, 1), (10, 0), False),
        ((8, 2), (8, 2), False),
        ((8, 2), (0, 0), True),
    ],
)
def test_the_rule_is_that_of_the_plan(
    alone: tuple[int, int], both: tuple[int, int], wanted: bool
) -> None:
    counted = {
        name: {"n": n, "failed": failed} for name, (n, failed) in (("alone", alone), ("both", both))
    }

    assert is_moved(counted) is wanted


def test_nothing_is_said_without_runs(rows: list[PairRow]) -> None:
    names = {each.name for each in PROSPECTIVE_14.lineages}

    assert group_figures([row for row in rows if row["lineage"] not in names]) is None
    assert group_section(None) == ""
