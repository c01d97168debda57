"""A real checkpoint assessed in rounds: stores, resumes, replays and rescores."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlflow_rlrisk import assess, rescore
from mlflow_rlrisk.assessment.observer import SilentObserver
from mlflow_rlrisk.config import DEFAULT_COMPONENTS, PolicyConfig
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.result_lines import report_lines
from mlflow_rlrisk.sinks.html import render
from mlflow_rlrisk.sinks.prompt_table import prompt_table
from tests.tiny_assessments import QUICK_OPTIONS, quick, rlrisk, sums, timeless, write_graders
from tests.tiny_models import write_llama

PROMPTS = sums(100)
POLICY = PolicyConfig(
    components={name: DEFAULT_COMPONENTS[name] for name in ("starvation", "headroom")},
    max_truncated_share=1.0,  # random weights seldom stop
)
CLEAR, OPEN = "zero", "early_letter"


class Tokens(SilentObserver):
    """Counts what is sampled; kills the process after so many graded prompts."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.rollouts = 0
        self._prompts, self._kill_after = 0, kill_after

    def sampled(self, num_tokens: int, num_rollouts: int) -> None:
        self.rollouts += num_rollouts

    def graded(self, statistics: Any) -> None:
        self._prompts += 1
        if self._prompts == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Setup:
    home: Path
    checkpoint: Path
    graders: Path

    def assess(
        self, folder: Path | None, grader: str, budget: str, **given: Any
    ) -> tuple[RiskReport, int]:
        observer = given.pop("observer", Tokens())
        report = assess(
            given.pop("model", self.checkpoint),
            PROMPTS,
            verifier=f"{self.graders}:{grader}",
            config=quick(budget=budget, batch_size=4, **given),
            policy=POLICY,
            out_dir=folder,
            run_preflight=False,
            observer=observer,
        )
        return report, observer.rollouts


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    home = tmp_path_factory.mktemp("rounds")
    return Setup(home, write_llama(home / "checkpoint"), write_graders(home))


@pytest.fixture(scope="module")
def stopped(setup: Setup) -> tuple[Path, RiskReport]:
    """A folder whose level was decided early."""
    report, rollouts = setup.assess(setup.home / "stopped", CLEAR, "auto")
    assert rollouts == report.num_rollouts == 64 * 4
    return setup.home / "stopped", report


@pytest.fixture(scope="module")
def whole(setup: Setup) -> RiskReport:
    """An open case, which takes every round."""
    return setup.assess(setup.home / "whole", OPEN, "auto")[0]


def stored(folder: Path) -> list[tuple[str, int]]:
    return [
        pair
        for shard in (folder / "rollouts").glob("*.parquet")
        for pair in zip(
            *(pq.read_table(shard)[name].to_pylist() for name in ("prompt_id", "sample_index")),
            strict=True,
        )
    ]


def test_a_clear_level_stops_the_sampling_and_the_report_says_so_everywhere(
    stopped: tuple[Path, RiskReport], setup: Setup
) -> None:
    folder, report = stopped
    fixed, _ = setup.assess(None, CLEAR, "fixed")

    assert report.risk_level == fixed.risk_level == "high"
    budget = report.budget
    assert budget is not None
    assert (budget.rounds, budget.planned_rounds, budget.is_stopped_early) == (1, 3, True)
    assert budget.max_rollouts == fixed.num_rollouts == 100 * 8
    assert budget.num_tokens == sum(len(each) for each in tokens_of(folder))
    assert report.to_dict()["budget"]["looks"][0]["is_decided"] is True
    said = budget.sentence(0.95)
    assert "stopped after round 1 of 3" in said
    assert said == report.notes[0]
    assert any(said in line for line in report_lines(report))
    assert "stopped after round 1 of 3" in render(report)
    assert RiskReport.from_json(report.to_json()) == report


def tokens_of(folder: Path) -> list[list[int]]:
    return [
        tokens
        for shard in (folder / "rollouts").glob("*.parquet")
        for tokens in pq.read_table(shard)["token_ids"].to_pylist()
    ]


def test_an_open_level_takes_the_fixed_budget_rollout_for_rollout(
    whole: RiskReport, setup: Setup
) -> None:
    fixed, rollouts = setup.assess(None, OPEN, "fixed")

    assert whole.budget is not None
    assert not whole.budget.is_stopped_early
    assert whole.num_rollouts == rollouts == 100 * 8
    assert whole.solve_counts == fixed.solve_counts
    assert len(set(stored(setup.home / "whole"))) == rollouts
    for name, metric in fixed.metrics.items():
        np.testing.assert_allclose(whole.metrics[name].value, metric.value, rtol=1e-6, atol=1e-9)


def test_a_later_fixed_budget_only_samples_what_the_rounds_left_out(
    stopped: tuple[Path, RiskReport], setup: Setup, tmp_path: Path
) -> None:
    shutil.copytree(stopped[0], tmp_path / "out")
    scratch, _ = setup.assess(None, CLEAR, "fixed")

    resumed, sampled = setup.assess(tmp_path / "out", CLEAR, "fixed")

    assert sampled == 100 * 8 - 64 * 4
    assert resumed.solve_counts == scratch.solve_counts
    assert resumed.budget is None
    assert rescore(tmp_path / "out", policy=POLICY).num_rollouts == 100 * 8


def test_stored_rollouts_beyond_a_look_are_not_seen_by_it(
    stopped: tuple[Path, RiskReport], setup: Setup
) -> None:
    folder = setup.home / "fixed-first"
    setup.assess(folder, CLEAR, "fixed")

    again, sampled = setup.assess(folder, CLEAR, "auto")

    assert sampled == 0
    assert again.num_rollouts == stopped[1].num_rollouts
    assert again.solve_counts == stopped[1].solve_counts
    table = prompt_table(again, folder)
    assert len(table) == again.num_prompts == 64
    assert table["num_samples"].sum() == again.num_rollouts
    assert table["token_entropy"].mean() == pytest.approx(
        again.metrics["rlrisk/token_entropy"].value
    )


def test_a_stopped_assessment_is_rescored_and_replayed_on_what_it_rested_on(
    stopped: tuple[Path, RiskReport], setup: Setup
) -> None:
    folder, report = stopped

    rescored = rescore(folder, policy=POLICY)
    graded_anew = rescore(
        folder, verifier=f"{setup.graders}:zero", policy=POLICY, run_preflight=False
    )
    replayed, _ = setup.assess(None, CLEAR, "fixed", model=folder, backend="replay")
    replayed_in_rounds, _ = setup.assess(None, CLEAR, "auto", model=folder, backend="replay")

    for other in (rescored, graded_anew, replayed, replayed_in_rounds):
        assert other.metrics == report.metrics
        assert other.budget == report.budget


KILLED = """
import sys
from pathlib import Path
from tests.assessment.test_budget_rounds import OPEN, Setup, Tokens
home, folder, after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
setup = Setup(home, home / "checkpoint", home / "graders.py")
setup.assess(folder, OPEN, "auto", observer=Tokens(kill_after=after))
"""


@pytest.mark.parametrize("after", [64, 90])
def test_a_run_killed_between_rounds_goes_on_to_the_same_report(
    whole: RiskReport, setup: Setup, tmp_path: Path, after: int
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(setup.home), str(tmp_path / "out"), str(after)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=120,
    )
    kept = len(set(stored(tmp_path / "out")))

    report, sampled = setup.assess(tmp_path / "out", OPEN, "auto")

    assert killed.returncode == -signal.SIGKILL
    assert sampled == 100 * 8 - kept
    assert json.dumps(timeless(report)) == json.dumps(timeless(whole))


def test_the_command_says_what_the_rounds_saved(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)), encoding="utf-8")
    (tmp_path / "policy.yaml").write_text("max_truncated_share: 1.0\n", encoding="utf-8")

    code, out, err = rlrisk(
        *("assess", str(setup.checkpoint), "--prompts", "prompts.jsonl", "--no-preflight"),
        *("--verifier", f"{setup.graders}:zero", *QUICK_OPTIONS, "--policy", "policy.yaml"),
        *("--budget", "auto", "--out", "out", "--json"),
        cwd=tmp_path,
    )

    answer = json.loads(out)
    assert code == 10, err
    assert answer["budget"]["rounds"] == 1
    assert answer["budget"]["tokens_saved"] > 0
    assert "budget      auto: stops when the level is decided" in err
    assert "stopped after round 1 of 3" in (tmp_path / "out" / "report.html").read_text()


def test_compare_refuses_rounds_before_anything_is_sampled(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)), encoding="utf-8")

    code, out, err = rlrisk(
        *("compare", str(setup.checkpoint), "elsewhere", "--prompts", "prompts.jsonl"),
        *("--verifier", f"{setup.graders}:zero", "--budget", "auto", "--json"),
        cwd=tmp_path,
    )

    assert code == 2, err
    assert "--budget fixed" in json.loads(out)["error"]["message"]
