"""The README and the pages beside the code say what it does: metrics, tags, flags, commands."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.metrics.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for room in ("mlflow_rlrisk", "service", "tests/benchmarks", "examples")
        for page in (ROOT / room).rglob("README.md")
    ),
]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_metric_table_is_the_catalogue() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `rlrisk/")]

    wanted = [
        f"| `{s.name}` | {s.unit} | {s.direction} | {s.meaning} | {s.source} |" for s in CATALOGUE
    ]

    assert rows == wanted


def test_every_tag_that_is_written_is_listed() -> None:
    from mlflow_rlrisk.sinks.verdict import verdict_tags
    from tests.sinks.simulated import simulated_report

    for tag in [*verdict_tags(simulated_report()), "rlrisk.report_uri"]:
        assert f"`{tag}`" in README


def test_every_page_is_led_to_by_the_readme() -> None:
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", README)}

    assert len(PAGES) >= 10
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} <= linked


@each_page
def test_every_command_and_flag_that_is_shown_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    for name, rest in re.findall(r"^\$ rlrisk ([\w-]+)((?:.*\\\n)*.*)$", text, flags=re.MULTILINE):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        if isinstance(command, click.Group):
            command = command.commands[rest.split()[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest.split("#")[0])) <= known


def test_every_make_target_that_is_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    for target in re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@each_page
def test_every_link_leads_to_a_heading_or_a_file(page: Path) -> None:
    def anchors(text: str) -> set[str]:
        titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))

    for link in links:
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_every_example_runs_as_it_is(example: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip()
