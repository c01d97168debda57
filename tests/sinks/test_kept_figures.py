"""Kept figures never change a page: it is byte by byte what the report alone gives."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.sinks import html, kept_figures
from mlflow_rlrisk.sinks.kept_figures import FIGURES, render_beside
from tests.sinks.simulated import simulated_report


@pytest.fixture(scope="module")
def report() -> RiskReport:
    return simulated_report()


@pytest.fixture(scope="module")
def page(report: RiskReport) -> str:
    return html.render(report)


@pytest.fixture(scope="module")
def kept(report: RiskReport, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("kept")
    render_beside(report, folder)
    return (folder / FIGURES).read_bytes()


def refuse(report: RiskReport) -> list[dict[str, str]]:
    raise AssertionError("drawn again")


def test_the_same_report_is_not_drawn_again_and_shows_who_asked_this_time(
    report: RiskReport, page: str, kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FIGURES).write_bytes(kept)
    monkeypatch.setattr(kept_figures, "draw_figures", refuse)

    assert render_beside(report, tmp_path) == page

    asked = replace(report.provenance, command="rlrisk compare later", finished_at="2030-01-02")
    again = render_beside(replace(report, provenance=asked), tmp_path)
    assert "rlrisk compare later" in again
    assert "2030-01-02" in again


def test_another_report_or_another_release_is_drawn_anew(
    report: RiskReport, kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FIGURES).write_bytes(kept)
    other = replace(report, solve_counts=report.solve_counts[:1])
    drawn: list[RiskReport] = []

    def record(asked: RiskReport) -> list[dict[str, str]]:
        drawn.append(asked)
        return []

    monkeypatch.setattr(kept_figures, "draw_figures", record)
    render_beside(other, tmp_path)
    (tmp_path / FIGURES).write_bytes(kept)
    monkeypatch.setattr(kept_figures, "own_code", lambda: "another")
    render_beside(report, tmp_path)

    assert drawn == [other, report]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole.replace(b"pass@k", b"pass@q", 1),
        lambda whole: b"[]",
        lambda whole: b"\xff",
    ],
)
def test_damaged_figures_are_drawn_anew_and_replaced(
    report: RiskReport,
    kept: bytes,
    tmp_path: Path,
    spoil: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / FIGURES).write_bytes(spoil(kept))
    monkeypatch.setattr(kept_figures, "draw_figures", lambda _: [])

    assert render_beside(report, tmp_path) == html.render(report, [])
    assert render_beside(report, tmp_path) == html.render(report, [])
