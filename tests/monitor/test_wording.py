"""How a judgement reads."""

import math

import pytest

from mlflow_rlrisk.monitor import LogRow, judge_rows
from mlflow_rlrisk.monitor.wording import judgement_lines


@pytest.mark.parametrize(
    ("at_none", "slope", "words"),
    [
        (0.55, -0.12, "R = -0.12 e^H + 0.55: ceiling 0.43"),
        (0.05, 0.12, "R = 0.12 e^H + 0.05: ceiling 0.17"),
        (-0.3, 0.3, "R = 0.3 e^H - 0.3: ceiling"),
    ],
)
def test_the_law_is_written_with_one_sign_before_each_term(
    at_none: float, slope: float, words: str
) -> None:
    spent = [1.0 - 0.8 * step / 29 for step in range(30)]
    rows = [
        LogRow(step, {"entropy": entropy, "reward": at_none + slope * math.exp(entropy)})
        for step, entropy in enumerate(spent)
    ]

    (line,) = [each for each in judgement_lines(judge_rows(rows)) if each.startswith("law")]

    assert words in line
