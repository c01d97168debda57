"""A helper that a reward file imports is part of the reward: edited, nothing old is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.assessment.wiring import Assessment, run_assessment
from mlflow_rlrisk.comparison import check_comparable
from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.verifiers.process import WorkerProcess
from tests.tiny_assessments import quick, sums, timeless
from tests.tiny_models import write_llama

REWARDS = """
from helper import is_right


def grade(completions, **columns):
    return [float(any(map(is_right, text))) for text in completions]
"""
HELPER = "def is_right(character):\n    return character.isdigit()\n"
Assess = Callable[[str], Assessment]


@pytest.fixture
def assess(tmp_path: Path) -> Assess:
    write_llama(tmp_path / "checkpoint")
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "helper.py").write_text(HELPER)
    given: dict[str, Any] = {"verifier": f"{tmp_path / 'rewards.py'}:grade", "config": quick()}

    def into(folder: str) -> Assessment:
        out = tmp_path / folder
        return run_assessment(tmp_path / "checkpoint", sums(6), out_dir=out, **given)

    return into


def test_the_next_assessment_grades_anew_and_compares_with_nothing_older(
    assess: Assess, tmp_path: Path
) -> None:
    before = assess("out")

    (tmp_path / "helper.py").write_text(HELPER.replace("return", "return not"))
    after = assess("out")

    assert after.report.metrics != before.report.metrics
    assert timeless(after.report) == timeless(assess("fresh").report)
    with pytest.raises(ComparabilityError, match="verifier"):
        check_comparable([before.report, after.report])


def test_the_same_helper_is_answered_from_the_folder(
    assess: Assess, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = assess("out")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was started")

    monkeypatch.setattr(WorkerProcess, "start", refuse)

    assert timeless(assess("out").report) == timeless(before.report)
