"""What a run that ended in NaN came to: its last finite success is not where RL ended."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.monitor import Judgement, LogRow, judge_rows
from mlflow_rlrisk.sinks.version_outcome import recorded_finals

HEALTHY = {"entropy": 0.4, "reward": 0.75, "grad_norm": 1.0}


def ending_in(undefined: dict[str, float], count: int, **more: float) -> Judgement:
    """Ten healthy logs, and then some that say nothing of what is undefined."""
    healthy = HEALTHY | more
    rows = [LogRow(step, healthy) for step in range(1, 11)]
    rows += [LogRow(10 + i, healthy | undefined) for i in range(1, count + 1)]
    return judge_rows(rows)


def test_the_success_of_a_run_that_diverged_is_none_from_there_on() -> None:
    outcome = ending_in(dict.fromkeys(HEALTHY, math.nan), 10).outcome

    assert outcome is not None
    assert outcome.collapsed
    assert (outcome.start, outcome.peak, outcome.final, outcome.gain) == (0.75, 0.75, 0.0, -0.75)
    assert (outcome.regression_from_peak, outcome.last_step) == (0.75, 20)
    # Trapezoids by hand: nine of .75, one from .75 to 0, nine of 0.
    assert outcome.mean == pytest.approx((9 * 0.75 + 0.375) / 19)


def test_a_single_reward_that_is_no_number_counts_once_the_gradients_are_none() -> None:
    rows = [LogRow(step, HEALTHY) for step in range(1, 11)]
    rows += [LogRow(10 + i, HEALTHY | {"grad_norm": math.nan}) for i in range(1, 4)]
    known = judge_rows(rows).outcome
    lost = judge_rows([*rows, LogRow(14, dict.fromkeys(HEALTHY, math.nan))]).outcome

    assert known is not None
    assert lost is not None
    assert known.final == 0.75  # it was measured
    assert lost.final == 0.0


def test_a_reward_of_unknown_scale_ends_at_the_lowest_that_was_logged() -> None:
    rows = [LogRow(step, HEALTHY | {"reward": 3.0 + step}) for step in range(1, 11)]
    rows += [LogRow(10 + i, dict.fromkeys(HEALTHY, math.nan)) for i in range(1, 11)]
    outcome = judge_rows(rows).outcome

    assert outcome is not None
    assert (outcome.quantity, outcome.peak, outcome.final) == ("reward", 13.0, 4.0)


def dead(success: float, **more: float) -> Judgement:
    """A run whose groups end up all equal at a success, with no gradient left."""
    part = {"frac_reward_zero_std": 0.3, "reward_std": 0.5}
    rows = [LogRow(step, HEALTHY | part | {"reward": 0.5}) for step in range(1, 11)]
    ended = {"reward": success, "frac_reward_zero_std": 1.0, "grad_norm": 0.0, "reward_std": 0.0}
    rows += [LogRow(step, HEALTHY | ended | more) for step in range(11, 21)]
    return judge_rows(rows)


@pytest.mark.parametrize(
    ("success", "collapsed"), [(0.0, True), (0.5, True), (0.9, True), (0.93, False), (1.0, False)]
)
def test_a_run_that_ends_for_having_solved_its_prompts_has_not_collapsed(
    success: float, collapsed: bool
) -> None:
    # `rlrisk calibrate` counts collapsed runs as failures, whatever they gained. 1 - p*(8) is .917.
    judgement = dead(success)

    assert judgement.stop.step == 11  # nothing is left to learn, in either case
    assert judgement.outcome is not None
    assert judgement.outcome.collapsed is collapsed


def test_a_run_that_diverges_at_a_high_success_has_collapsed() -> None:
    outcome = dead(1.0, grad_norm=math.nan).outcome

    assert outcome is not None
    assert outcome.collapsed


@pytest.mark.mlflow
def test_compare_ranks_a_version_whose_run_diverged_below_one_whose_run_did_not(
    store: str, tmp_path: Path
) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("sft")
    logs: dict[str, list[dict[str, Any]]] = {
        "1": [{"step": s, **HEALTHY} for s in range(1, 11)]
        + [{"step": s, **dict.fromkeys(HEALTHY, math.nan)} for s in range(11, 21)],
        "2": [{"step": s, **HEALTHY, "reward": 0.5} for s in range(1, 21)],
    }
    for version, rows in logs.items():
        client.create_model_version("sft", tmp_path.as_uri())
        log = tmp_path / f"{version}.jsonl"
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["outcome", f"models:/sft/{version}", "--file", str(log)]
        assert CliRunner().invoke(cli, command, standalone_mode=False).return_value == 0

    assert recorded_finals(["models:/sft/1", "models:/sft/2"]) == {
        "models:/sft/1": 0.0,
        "models:/sft/2": 0.5,
    }
