import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from mlflow_rlrisk import cli
from mlflow_rlrisk.difficulty_band import select_band
from mlflow_rlrisk.errors import ConfigError, PromptSetError
from tests.prompt_statistics import prompts
from tests.tiny_assessments import QUICK_OPTIONS, sums, write_graders
from tests.tiny_models import write_llama


def test_a_prompt_is_chosen_by_the_posterior_of_its_rate_not_by_the_rate() -> None:
    statistics = prompts([0, 1, 2, 8, 15, 16], 16)

    band = select_band(statistics, low=0.1, high=0.9)

    for each in statistics:
        posterior = stats.beta(0.5 + (each.num_correct or 0), 16.5 - (each.num_correct or 0))
        assert band.probabilities[each.prompt_id] == pytest.approx(
            posterior.cdf(0.9) - posterior.cdf(0.1), abs=1e-9
        )
    assert band.chosen == ("p00002", "p00003")  # 1 of 16 may well be below 10 %


def test_the_control_is_as_large_and_blind_to_difficulty() -> None:
    statistics = prompts([0] * 90 + [8] * 10, 16)

    drawn = [select_band(statistics, seed=seed).control for seed in range(200)]

    assert all(len(set(control)) == 10 for control in drawn)
    hard = sum(name < "p00090" for control in drawn for name in control) / 2000
    assert hard == pytest.approx(0.9, abs=0.03)


def test_an_empty_band_and_undefined_success_are_refused() -> None:
    with pytest.raises(PromptSetError, match="none of 2 prompts"):
        select_band(prompts([0, 16], 16))
    with pytest.raises(ConfigError, match="low"):
        select_band(prompts([8], 16), low=0.0)
    shaped = [replace(each, num_correct=None, rewards=(0.5,) * 16) for each in prompts([8], 16)]
    with pytest.raises(PromptSetError, match="success-threshold"):
        select_band(shaped)


@pytest.mark.parametrize("name", ["band.csv", "band.parquet", "band"])
def test_a_name_that_promises_another_format_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.run(["band", str(tmp_path), "--out", str(tmp_path / name)])

    assert stopped.value.code == 2
    assert "JSON lines are written" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_the_command_keeps_every_column_and_writes_the_control_beside_it(tmp_path: Path) -> None:
    rows = [{**row, "source": {"book": i}} for i, row in enumerate(sums(12))]
    (tmp_path / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, grader = write_llama(tmp_path / "model"), write_graders(tmp_path)
    run = [sys.executable, "-c", "from mlflow_rlrisk.cli import run; run()"]
    assess = [
        *["assess", str(model), "--prompts", "rl.jsonl", "--verifier", f"{grader}:digit"],
        *["--out", "kept", "--no-preflight", *QUICK_OPTIONS],
    ]
    subprocess.run([*run, *assess], cwd=tmp_path, capture_output=True, check=False)

    result = subprocess.run(
        [*run, "band", "kept", "--out", "band.jsonl", "--low", "0.02", "--high", "0.98", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    summary = json.loads(result.stdout)
    chosen = [json.loads(line) for line in (tmp_path / "band.jsonl").read_text().splitlines()]
    control = (tmp_path / "band.control.jsonl").read_text().splitlines()
    assert len(chosen) == len(control) == summary["chosen"] > 0
    assert all(row in rows for row in chosen)
