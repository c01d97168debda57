"""What the README shows of the evidence at a glance: counts of every row, and a picture of them."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from examples.study import analyse
from examples.study.at_a_glance import (
    PICTURE,
    alternative_text,
    draw_picture,
    level_shares,
    planned_table,
)
from examples.study.predictors import RESULTS
from examples.study.prospective import PLANNED
from examples.study.rows import read_pairs

pytestmark = pytest.mark.xdist_group("study")  # its figures are computed once


def test_the_levels_of_the_picture_are_of_every_checkpoint(shown: analyse.Shown) -> None:
    lines = (RESULTS / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    runs = [[run["failed"] for run in json.loads(line)["outcomes"]] for line in lines]
    failed = sum(2 * sum(each) >= len(each) for each in runs)

    shares = level_shares(shown.ahead)

    by_samples = [counts for name, counts in shares.items() if "updates" not in name]
    assert [sum(each) for each in zip(*by_samples, strict=True)] == [failed, len(lines)]


def test_the_committed_picture_is_of_the_present_figures(shown: analyse.Shown) -> None:
    with Image.open(PICTURE) as picture:
        assert picture.info["Description"] == alternative_text(shown.ahead)


def test_a_picture_is_drawn_of_the_rows(shown: analyse.Shown, tmp_path: Path) -> None:
    path = tmp_path / "evidence.png"

    draw_picture(read_pairs(RESULTS / "pairs.jsonl"), shown.ahead, path)

    with Image.open(path) as drawn, Image.open(PICTURE) as committed:
        assert drawn.size == committed.size


def test_every_planned_test_has_its_line_with_all_its_checkpoints(shown: analyse.Shown) -> None:
    text = planned_table(shown.tested, shown.ahead, shown.planned_chance)

    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \w+: ", line)]
    counts = [int(row[1].split()[0]) for row in rows]
    assert [row[0].removeprefix("| ").split(":")[0] for row in rows] == [
        test.title.split()[0].lower() for test in PLANNED
    ]
    assert counts == [sum(found["lineages"].values()) for found in shown.tested if found]
