import re
from dataclasses import replace

import pytest

from mlflow_rlrisk.comparison import rank
from mlflow_rlrisk.lineage import LineageMember, LineageReport, trace_lineage
from mlflow_rlrisk.result_lines import comparison_lines, lineage_lines
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from tests.lineage.ladders import beta_rates, collapsing, drawn, member
from tests.service.dashboard.chromium import chromium


@pytest.fixture(scope="module")
def lineage() -> LineageReport:
    return trace_lineage(collapsing(), base="base", outcomes={"base": 0.7, "epoch25": 0.5})


def test_the_first_screen_names_the_version_and_why_not_the_best_pass_at_1(
    lineage: LineageReport,
) -> None:
    page = render_lineage(lineage)
    first = page[: page.index("The versions</h2>")]

    assert "Start RL from" in first
    assert re.search(r'class="pick">epoch1<', first)
    assert "pass@1 alone would pick" in first
    assert "epoch25" in first
    assert "Why not the best pass@1" in first
    values = {name: lineage.measures[name] for name in ("rlrisk/pass_at_1", "rlrisk/pass_at_16")}
    for measure, value in values.items():
        pick, best = (f"{value[lineage.names.index(name)]:.3f}" for name in ("epoch1", "epoch25"))
        row = f'{pick}</strong></td><td class="num">{best}</td>'
        assert row in first, measure


def test_where_no_level_is_known_the_first_screen_chooses_none(lineage: LineageReport) -> None:
    undecided = replace(lineage.choice, start_from=None, is_advised=False, reasons=())

    page = render_lineage(replace(lineage, choice=undecided))

    first = page[: page.index("The versions</h2>")]
    assert "Too little evidence to choose" in first
    assert 'class="pick">none of them<' in first
    assert "best pass@1</th>" not in first


def test_the_page_shows_every_version_phase_pair_and_outcome(lineage: LineageReport) -> None:
    page = render_lineage(lineage)

    for name in lineage.names:
        assert name in page
    for title in ("disagree", "What is solved", "What RL then did", "Interval to look at"):
        assert title in page
    assert page.count("<svg") == 2
    assert "cannot reach significance" in page


def test_long_names_of_folders_push_no_column_out_of_a_desktop_window() -> None:
    folder = "/mnt/checkpoints/team-a/2026-11-20_coder-sft-7b"
    names = [f"{folder}/base", *(f"models:/coder-sft/{version}" for version in (1, 2, 3))]
    rungs = [replace(each, name=name) for name, each in zip(names, collapsing(), strict=True)]
    page = render_lineage(trace_lineage(rungs, base=names[0]))

    with chromium() as browser:
        shown = browser.new_page(viewport={"width": 1280, "height": 800})
        shown.set_content(page)
        wide = "es => es.map(e => e.scrollWidth - e.clientWidth)"
        hidden = shown.locator(".scroll").evaluate_all(wide)
        written = shown.inner_text(".scroll tbody th >> nth=0")

    assert len(hidden) >= 3
    assert set(hidden) == {0}
    assert written.startswith(names[0])


def test_the_same_lineage_gives_the_same_bytes(lineage: LineageReport) -> None:
    assert render_lineage(lineage) == render_lineage(lineage)


def test_hostile_names_stay_text() -> None:
    hostile = '<script>alert(1)</script>"\u202e'
    rates = beta_rates(2.0, 2.0, num_prompts=60)
    pair = [member(name, drawn(rates, 16, 0.3, seed)) for seed, name in enumerate((hostile, "b"))]

    page = render_lineage(trace_lineage(pair))

    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page


def test_a_name_with_a_line_break_or_a_terminal_code_stays_in_its_line() -> None:
    rates = beta_rates(2.0, 2.0, num_prompts=60)
    names = ("new\nline", "\x1b[31mred")
    members = [member(n, drawn(rates, 16, 0.3, s)) for s, n in enumerate(names)]
    found, reports = trace_lineage(members), [each.report for each in members]

    told = lineage_lines(found) + comparison_lines(found.ranking, reports)

    assert not [line for line in told if "\n" in line or "\x1b" in line]
    assert "new␊line" in "".join(told)


def test_the_console_tells_outcomes_and_why_there_are_no_phases(lineage: LineageReport) -> None:
    told = "\n".join(lineage_lines(lineage))
    short = "\n".join(lineage_lines(trace_lineage(collapsing()[:2], base="base")))

    assert "outcome  rlrisk/pass_at_1: regret 0.2, Spearman -1.00" in told
    assert "2 checkpoints cannot reach significance" in told
    assert "phases   not told: 2 checkpoints" in short


def test_models_without_a_level_or_a_pass_at_1_are_not_said_to_be_ordered_alike() -> None:
    rates = beta_rates(2.0, 2.0, num_prompts=60)
    known, worse, unknown = (
        member(name, drawn(rates * factor, 16, 0.3, 0))
        for name, factor in (("a", 1.0), ("b", 0.6), ("c", 1.2 / 1.21))
    )
    cut = [replace(each, num_truncated=16) for each in unknown.statistics]
    unknown = member("c", cut)
    graded = [
        member(name, [replace(each, num_correct=None) for each in known.statistics])
        for name in "de"
    ]

    def told(*members: LineageMember) -> list[str]:
        reports = [each.report for each in members]
        return comparison_lines(rank(reports), reports)

    assert told(known, worse)[-1] == "pass@1 and risk order these models alike."
    assert told(known, worse, unknown)[-1].startswith("pass@1 and risk order the 2 models that")
    for lines in (told(known, unknown), told(*graded)):
        assert lines[-1] == "pass@1 and risk are not compared: fewer than two models have both."
    assert "<-" not in "".join(told(*graded))
