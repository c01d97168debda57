"""The study end to end as a toy: it resumes, its rows are whole, its outcomes follow the rule."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.study.grpo import has_failed, outcome_of
from examples.study.layout import checkpoints_of, rl_seeds_of, sweep_order
from examples.study.planned_settings import STUDIES
from examples.study.prompts import draw_sets, sets_digest
from examples.study.rows import CurvePoint, PairRow, read_pairs
from examples.study.settings import FULL, TINY, StudySettings
from examples.study.tasks import TASKS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "study" / "results"
LINEAGE = TINY.lineages[0].name


def study(*arguments: object) -> str:
    """Run the command as a user does; returns what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.study", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stderr


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[PairRow]]:
    out, results = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("results")
    study("run", "--tiny", "--only", LINEAGE, "--out", out)
    study("collect", "--tiny", "--out", out, "--results", results)
    return out, results, read_pairs(results / "pairs.jsonl")


@pytest.mark.slow
def test_every_checkpoint_of_the_toy_becomes_a_row_with_its_report(
    tiny: tuple[Path, Path, list[PairRow]],
) -> None:
    _, results, rows = tiny
    expected = checkpoints_of(LINEAGE, TINY)

    assert {row["checkpoint"] for row in rows} == {each.name for each in expected}
    for row in rows:
        report = json.loads(gzip.decompress((results / row["report"]).read_bytes()))
        assert report["risk_level"] == row["risk_level"]
        assert report["metrics"]["rlrisk/pass_at_1"]["value"] == row["metrics"]["rlrisk/pass_at_1"]
        assert str(ROOT) not in json.dumps([report, row])
        assert row["digests"]["settings"] == TINY.digest()
        for run in row["outcomes"]:
            assert [point["step"] for point in run["curve"]] == [0, 1, 2]
            assert len(run["reward"]) == len(run["entropy"]) == TINY.rl_steps
    assert sum(len(row["outcomes"]) for row in rows) == sum(
        len(rl_seeds_of(each, TINY)) for each in expected
    )


@pytest.mark.slow
def test_a_sweep_goes_on_with_what_is_missing_and_repeats_nothing_else(
    tiny: tuple[Path, Path, list[PairRow]],
) -> None:
    out, _, rows = tiny
    lost = next(each for each in checkpoints_of(LINEAGE, TINY) if each.kind == "base")
    stored = {path: path.stat().st_mtime_ns for path in (out / LINEAGE).rglob("*.json")}
    (out / lost.row).unlink()

    said = study("run", "--tiny", "--only", LINEAGE, "--out", out)

    missing = len(rl_seeds_of(lost, TINY))
    assert f"{missing} runs are missing" in said
    changed = {path for path, made in stored.items() if path.stat().st_mtime_ns != made}
    assert changed == {out / lost.row}
    again = json.loads((out / lost.row).read_text(encoding="utf-8"))
    before = next(row for row in rows if row["checkpoint"] == lost.name)
    for timed in (*again["outcomes"], *before["outcomes"]):
        timed["seconds"] = 0.0
    assert again == before


def test_an_outcome_is_computed_as_its_definition_says() -> None:
    points: list[CurvePoint] = [
        {"step": 0, "pass_at_1": 0.20, "pass_at_10": 0.60},
        {"step": 40, "pass_at_1": 0.50, "pass_at_10": 0.58},
        {"step": 80, "pass_at_1": 0.44, "pass_at_10": 0.70},
    ]
    log = {"reward": [0.1], "frac_reward_zero_std": [0.2], "entropy": [0.3]}

    outcome = outcome_of(points, log, settings=FULL, rl_seed=0, error=None, seconds=1.0)
    broken = outcome_of(points, log, settings=FULL, rl_seed=0, error="nan", seconds=1.0)

    assert outcome["peak"] == {"pass_at_1": 0.50, "pass_at_10": 0.70}
    assert outcome["final"] == {"pass_at_1": 0.44, "pass_at_10": 0.70}
    assert outcome["gain"] == pytest.approx({"pass_at_1": 0.24, "pass_at_10": 0.10})
    assert not outcome["failed"]
    assert broken["failed"]


@pytest.mark.parametrize(
    ("before", "gain", "gain_at_10", "failed"),
    [
        (0.5, FULL.failed_below / 2 + 1e-6, 0.0, False),
        (0.5, FULL.failed_below / 2 - 1e-6, 0.0, True),
        (0.0, FULL.failed_below + 1e-6, -FULL.pass_at_10_noise + 1e-6, False),
        (0.0, 0.9, -FULL.pass_at_10_noise - 1e-6, True),
        (1.0, 0.0, 0.0, False),
    ],
)
def test_a_run_fails_by_the_share_of_the_gap_or_by_lost_pass_at_10(
    before: float, gain: float, gain_at_10: float, failed: bool
) -> None:
    start = {"pass_at_1": before, "pass_at_10": before}
    assert has_failed(start, {"pass_at_1": gain, "pass_at_10": gain_at_10}, FULL) is failed  # type: ignore[arg-type]


def test_the_sweep_is_balanced_wherever_it_stops() -> None:
    order = list(sweep_order(FULL))
    lineages = [each.name for each in FULL.lineages]

    for stop in range(1, len(order)):
        counts = [sum(each.lineage == name for each in order[:stop]) for name in lineages]
        assert max(counts) - min(counts) <= 1
    for name in lineages:
        found = checkpoints_of(name, FULL)
        assert len(found) == len({each.name for each in found}) >= 20
        assert {each.kind for each in found} == {"ladder", "diverse", "trap", "smoothed", "base"}
        twice = [each for each in found if len(rl_seeds_of(each, FULL)) > 1]
        assert len(twice) >= len(found) / 3


@pytest.mark.parametrize(("name", "settings"), STUDIES.items(), ids=list(STUDIES))
def test_the_committed_settings_are_those_of_the_code(name: str, settings: StudySettings) -> None:
    record = json.loads((RESULTS / name).read_text(encoding="utf-8"))

    assert record["digest"] == settings.digest()
    assert record["settings"] == settings.model_dump(mode="json")


def test_the_committed_rows_are_whole_and_of_the_frozen_settings() -> None:
    rows = read_pairs(RESULTS / "pairs.jsonl")
    planned = [(each, settings) for settings in STUDIES.values() for each in sweep_order(settings)]
    names = {(each.lineage, each.name): (each, settings) for each, settings in planned}
    prompts = {
        lineage.name: sets_digest(TASKS[lineage.task], draw_sets(TASKS[lineage.task], settings))
        for settings in STUDIES.values()
        for lineage in settings.lineages
    }

    assert len({(row["lineage"], row["checkpoint"]) for row in rows}) == len(rows) >= 60
    for row in rows:
        known, settings = names[row["lineage"], row["checkpoint"]]
        assert (row["kind"], row["depth"], row["trap"]) == (known.kind, known.depth, known.trap)
        assert row["digests"]["settings"] == settings.digest()
        assert row["digests"]["prompts"] == prompts[row["lineage"]]
        assert (RESULTS / row["report"]).is_file()
        for run in row["outcomes"]:
            again = outcome_of(
                run["curve"],
                {name: run[name] for name in ("reward", "frac_reward_zero_std", "entropy")},  # type: ignore[literal-required]
                settings=settings,
                rl_seed=run["rl_seed"],
                error=run["error"],
                seconds=run["seconds"],
            )
            assert again == run
