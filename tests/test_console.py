"""What people read in the terminal and in log files."""

import time

import pytest

from mlflow_rlrisk import console
from mlflow_rlrisk.result_lines import report_lines
from tests.prompt_statistics import prompt, report_of


def test_a_progress_bar_writes_no_line_for_each_step_into_a_log_file(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with console.progress("first updates") as move:
        for done in range(1, 41):
            move(done, 40)
            time.sleep(0.015)  # together longer than tqdm's own interval

    assert capfd.readouterr().err.count("pass/s") <= 2


def test_the_figures_of_a_verdict_stand_in_one_column_where_entropies_are_unknown() -> None:
    report = report_of([prompt(place, 8, 16, entropy=None) for place in range(60)])

    lines = report_lines(report)

    figures = lines[lines.index("") + 1 :]
    assert any("entropy, estimated" in line for line in figures)
    assert {line[32:35] for line in figures} == {"   "}
