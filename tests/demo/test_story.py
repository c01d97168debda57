import re
from pathlib import Path

from mlflow_rlrisk.demo.ladder import Rung
from mlflow_rlrisk.demo.rl_story import verdict
from mlflow_rlrisk.demo.story import (
    Assessed,
    best_pass_at_1,
    comparison_lines,
    safest,
    verdict_lines,
)
from mlflow_rlrisk.demo.tracking import Version
from mlflow_rlrisk.report_record import Metric
from tests.prompt_statistics import ladder_rung, report_of


def assessed(epochs: int, alpha: float, beta: float, entropy: float) -> Assessed:
    uri = f"models:/chains/{epochs}"
    version = Version(Rung(epochs, Path("."), 0.1), uri)
    return Assessed(version, report_of(ladder_rung(alpha, beta, entropy), model=uri))


SHALLOW = assessed(1, 6.0, 8.0, 0.4)
DEEP = assessed(64, 0.2, 0.15, 0.02)


def test_pass_at_1_and_risk_pick_different_rungs_where_the_figures_say_so() -> None:
    assert best_pass_at_1([SHALLOW, DEEP]) is DEEP
    assert safest([SHALLOW, DEEP]) is SHALLOW

    shallow_line, deep_line = comparison_lines([SHALLOW, DEEP])[2:]
    text = "\n".join(verdict_lines([SHALLOW, DEEP]))

    assert shallow_line.endswith("<- lowest risk")
    assert deep_line.endswith("<- best pass@1")
    assert "pass@1 alone picks   models:/chains/64" in text
    assert "the risk report picks models:/chains/1 (1 epoch, risk low)" in text


def test_the_reason_against_the_best_pass_at_1_is_told_once_and_without_its_source() -> None:
    lines = verdict_lines([SHALLOW, DEEP])

    picked, advised = (
        place for place, line in enumerate(lines) if re.search("picks? .*models:", line)
    )
    told = " ".join(line.strip() for line in lines[picked + 1 : advised])
    assert DEEP.report.reasons[0].startswith(told + " [")
    assert max(map(len, lines)) <= 102


def test_agreement_is_said_as_such_and_not_turned_into_a_story() -> None:
    weak = assessed(16, 0.1, 2.0, 0.02)

    assert verdict_lines([SHALLOW, weak]) == [
        "Both pass@1 and risk pick models:/chains/1: here they agree."
    ]


def metric(value: float, low: float, high: float) -> Metric:
    return Metric(value=value, ci_low=low, ci_high=high, num_prompts=200, method="percentile")


def test_the_rung_that_is_ahead_after_rl_is_named_whichever_it_is() -> None:
    ahead = verdict(
        "pass_at_1", "shallow", metric(0.5, 0.45, 0.55), "deep", metric(0.7, 0.66, 0.74)
    )

    assert "Ahead after RL in pass_at_1: deep, by 0.200" in ahead
    assert "do not overlap" in ahead


def test_overlapping_intervals_are_said_to_decide_nothing() -> None:
    text = verdict("pass_at_1", "shallow", metric(0.7, 0.6, 0.8), "deep", metric(0.65, 0.55, 0.75))

    assert "does not decide" in text
