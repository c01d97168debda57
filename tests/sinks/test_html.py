import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.report import RiskLevel, RiskReport
from mlflow_rlrisk.sinks import html, plots
from mlflow_rlrisk.sinks.wording import shown
from tests.sinks.simulated import HOSTILE, graded_groups, simulated_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes, text by element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        where = self._open[-1] if self._open else ""
        self.text[where] = self.text.get(where, "") + data

    @property
    def is_closed(self) -> bool:
        return not self._open


@pytest.fixture(scope="module")
def report() -> RiskReport:
    return simulated_report()


@pytest.fixture(scope="module")
def page(report: RiskReport) -> str:
    return html.render(report)


def test_the_same_report_gives_the_same_bytes_in_another_process(page: str) -> None:
    program = (
        "import sys\nfrom mlflow_rlrisk.sinks.html import render\n"
        "from tests.sinks.simulated import simulated_report\n"
        "sys.stdout.buffer.write(render(simulated_report()).encode())"
    )

    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert other.stdout.decode() == page


def test_the_page_of_a_stored_report_is_the_page_of_the_report(
    report: RiskReport, page: str
) -> None:
    assert html.render(RiskReport.from_json(report.to_json())) == page


def test_level_comes_before_reasons_before_figures_before_tables_before_rollouts(page: str) -> None:
    order = [
        'class="level"',
        ">Why<",
        ">What to do next<",
        'id="pass-at-k-box"',
        'id="solve-rate-box"',
        ">What the index is made of<",
        ">All metrics<",
        ">Sampled rollouts<",
        ">How to reproduce it<",
    ]

    places = [page.index(mark) for mark in order]

    assert all(before < after for before, after in pairwise(places))


def test_a_hostile_completion_is_text_and_nothing_else(page: str) -> None:
    seen = Page(page)

    assert seen.is_closed
    assert not {"script", "img", "iframe", "object", "link", "form"} & {t for t, _ in seen.elements}
    assert not [name for _, attrs in seen.elements for name in attrs if name.startswith("on")]
    assert "<img src=x onerror=alert(2)>" in seen.text["pre"]
    assert "{{7*7}}" in seen.text["pre"]


def test_a_hostile_model_name_and_reason_are_text(report: RiskReport) -> None:
    evil = '"><script>alert(1)</script>'
    source = replace(report.provenance, registered_name=evil, command=evil)

    seen = Page(html.render(replace(report, reasons=(evil,), notes=(evil,), provenance=source)))

    assert "script" not in {tag for tag, _ in seen.elements}
    assert evil in seen.text["h1"]


def test_foreign_text_cannot_reorder_the_page() -> None:
    assert shown(HOSTILE).endswith("[U+202E] gnp␀ &amp; {{7*7}}")
    assert shown("a\ud800b") == "a\ufffdb"
    assert shown("x" * 30, limit=10) == "x" * 10 + " … (20 more characters)"


def test_the_page_needs_nothing_from_anywhere(page: str) -> None:
    links = [
        value
        for _, attrs in Page(page).elements
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data") and value
    ]

    assert all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_every_figure_has_a_text_alternative_and_a_caption(page: str) -> None:
    elements = Page(page).elements
    images = [attrs for _, attrs in elements if attrs.get("role") == "img"]
    ids = {attrs["id"] for _, attrs in elements if attrs.get("id")}

    assert page.count("<figure") == page.count("<figcaption>") == 4
    assert all(a.get("aria-label") or a["aria-labelledby"] in ids for a in images)


def test_identifiers_are_unique_and_references_resolve(page: str) -> None:
    elements = Page(page).elements
    ids = [attrs["id"] for _, attrs in elements if attrs.get("id")]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', page))

    assert len(ids) == len(set(ids))
    assert used
    assert used <= set(ids)


def test_headings_descend_without_gaps_and_table_headers_say_what_they_head(page: str) -> None:
    elements = Page(page).elements
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in elements if tag == "th")


def test_every_metric_and_every_undefined_one_stands_in_the_page(
    report: RiskReport, page: str
) -> None:
    rows = Page(page).text["code"]

    assert report.undefined
    assert all(name in rows for name in [*report.metrics, *report.undefined])
    assert all(reason in page for reason in report.undefined.values())


def test_the_meaning_of_a_metric_is_shown_without_the_readmes_backticks(page: str) -> None:
    shown = Page(page).text["small"]

    assert "tried on the rollouts by rlrisk lookahead" in shown
    assert "mean over tokens (--expert-train-data)" in shown


def test_every_component_stands_beside_its_source_and_scope(report: RiskReport, page: str) -> None:
    cells = Page(page).text

    assert all(c.source in cells["td"] and c.scope in cells["small"] for c in report.components)
    assert all(why in cells["small"] for why in report.not_assessed.values())


def test_without_success_or_entropies_the_figures_are_left_out(report: RiskReport) -> None:
    bare = replace(report, solve_counts=(), profile=None, examples=())

    page = html.render(bare)

    assert 'id="solve-rate-box"' not in page
    assert 'id="entropy-histogram-box"' not in page
    assert "The report carries no rollouts." in page


def test_an_undefined_index_is_not_drawn(report: RiskReport) -> None:
    metrics = {name: m for name, m in report.metrics.items() if name != "rlrisk/risk_index"}

    page = html.render(replace(report, metrics=metrics, level_probabilities={}))

    assert 'class="gauge"' not in page
    assert 'class="chances"' not in page


@pytest.mark.parametrize(
    ("level", "low", "high", "said"),
    [
        (RiskLevel.HIGH, 0.13, 0.33, "the index would say medium"),
        (RiskLevel.HIGH, 0.01, 0.20, "the index would say low"),
        (RiskLevel.MEDIUM, 0.0, 0.01, "the index would say low"),
        (RiskLevel.HIGH, 0.66, 0.9, None),
        (RiskLevel.MEDIUM, 0.1, 0.25, None),
        (RiskLevel.LOW, 0.1, 0.2, None),
        (RiskLevel.UNKNOWN, 0.1, 0.2, None),
    ],
)
def test_a_level_that_the_index_alone_would_not_give_is_said_so(
    report: RiskReport, level: RiskLevel, low: float, high: float, said: str | None
) -> None:
    name = "rlrisk/risk_index"
    index = replace(report.metrics[name], value=(low + high) / 2, ci_low=low, ci_high=high)
    metrics = {**report.metrics, name: index}

    page = html.render(replace(report, metrics=metrics, risk_level=level))

    assert "the index would say" not in page if said is None else f"By itself {said}." in page


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_a_report_of_very_few_prompts_renders(num_prompts: int) -> None:
    report = simulated_report(graded_groups(num_prompts=num_prompts))

    assert Page(html.render(report)).is_closed


def test_other_confidences_are_named(report: RiskReport) -> None:
    page = html.render(replace(report, config=AssessmentConfig(confidence=0.9)))

    assert "90 % interval" in page
    assert "95 % interval" not in page.replace("95% interval", "")


def test_the_solve_rate_figure_states_the_shares_of_its_zones() -> None:
    svg = plots.solve_rate_figure(np.array([0, 1, 8, 16]), np.full(4, 16), 8, 0.083)

    assert "Of 4 prompts 50% were solved less often than 0.08" in svg
    assert "25% more often than 0.92" in svg


def test_drawing_leaves_the_callers_figures_and_settings_alone() -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mine = plt.figure()
    before = dict(mpl.rcParams)

    plots.pass_at_k_figure([1, 2], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5])

    assert plt.get_fignums() == [mine.number]
    assert dict(mpl.rcParams) == before
    plt.close(mine)
