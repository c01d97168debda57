"""What the report before RL said, laid beside the run; the picture of the run."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.monitor import LogRow, MonitorSettings, RunFacts, judge_rows
from mlflow_rlrisk.monitor.before_after import before_after, prediction_lines
from mlflow_rlrisk.monitor.wording import live_line
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.sinks.monitor_run import judgement_chart
from tests.sinks.simulated import simulated_report


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def test_the_prediction_is_laid_beside_the_run(dying: Path, tmp_path: Path) -> None:
    report = simulated_report()
    path = tmp_path / "report.json"
    path.write_text(report.to_json())

    result = run("monitor", "--file", str(dying), "--json", "--report", str(path))

    found = json.loads(result.stdout)["before_after"]
    assert found["risk_level"] == str(report.risk_level)
    by_name = {each["metric"]: each for each in found["metrics"]}
    assert by_name["rlrisk/pass_at_1"]["predicted"] == report.metrics["rlrisk/pass_at_1"].value
    assert by_name["rlrisk/pass_at_1"]["at_start"] == pytest.approx(0.275)
    assert (
        "before RL the report said"
        in run("monitor", "--file", str(dying), "--report", str(path)).stdout
    )


def predicted(history: Path, report: RiskReport, *options: str) -> set[str]:
    """Figures of the report that are laid beside the run."""
    path = history.parent / "report.json"
    path.write_text(report.to_json())
    text = run("monitor", "--file", str(history), "--json", "--report", str(path), *options).stdout
    return {each["metric"] for each in json.loads(text)["before_after"]["metrics"]}


def test_dead_groups_are_compared_with_groups_of_the_same_size_only(
    dying: Path,
) -> None:
    # Of groups of 64 hardly one is dead where most of 8 are.
    report = simulated_report()

    same, larger = (predicted(dying, report, "--group-size", size) for size in ("8", "64"))

    assert same - larger == {"rlrisk/frac_reward_zero_std"}


def test_what_is_not_the_quantity_of_its_name_is_neither_drawn_nor_compared() -> None:
    # A share of whole batches is 0, an entropy summed over tokens has hundreds of nats.
    trl = [LogRow(s, {"reward": 0.4, "frac_reward_zero_std": 0.0}) for s in range(1, 40)]
    verl = [LogRow(s, {"critic/score/mean": 0.4, "actor/entropy": 90.0}) for s in range(1, 40)]
    facts = RunFacts(batch_scaled=True, loss_agg_mode="seq-mean-token-sum")

    for rows in (trl, verl):
        judgement = judge_rows(rows, MonitorSettings(facts=facts))

        found = before_after(simulated_report(), judgement)
        assert [each.metric for each in found] == ["rlrisk/pass_at_1"]
        assert live_line(judgement).startswith("step 39 | success")
        assert "dead groups" not in (judgement_chart(judgement) or "")


@pytest.mark.parametrize(
    ("trainer", "entropy", "is_compared"),
    [
        ("verl", "actor/entropy", True),
        ("openrlhf", "entropy_loss", False),  # at temperature 1
        ("nemo-rl", "approx_entropy", False),  # of sampled tokens
    ],
)
def test_an_entropy_of_another_kind_is_not_compared_with_the_reports(
    trainer: str, entropy: str, is_compared: bool
) -> None:
    rows = [LogRow(step, {entropy: 0.3 - 0.001 * step}) for step in range(1, 40)]
    report = simulated_report()

    found = before_after(report, judge_rows(rows, MonitorSettings(trainer=trainer)))

    assert [each.metric for each in found] == ["rlrisk/token_entropy_token_mean"] * is_compared
    for each in found:
        assert (each.at_end, each.is_inside) == (0.3 - 0.039, False)
        assert prediction_lines(report, found)[1].endswith("-> 0.261  outside the interval")


def test_the_picture_of_a_run_names_the_steps_of_all_its_curves() -> None:
    # Entropy is logged from step 30 on only.
    rows = [LogRow(s, {"reward": 0.4, **({"entropy": 0.3} if s >= 30 else {})}) for s in range(60)]

    chart = judgement_chart(judge_rows(rows))

    assert chart is not None
    assert "The run from step 0 to 59" in chart
