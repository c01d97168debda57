"""The demo's second act: does RL from the safe rung end ahead of RL from the drilled one?

Whatever comes out is printed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.console import say
from mlflow_rlrisk.demo import rl
from mlflow_rlrisk.demo.make_data import HELDOUT
from mlflow_rlrisk.demo.story import Assessed
from mlflow_rlrisk.demo.task import MAX_NEW_TOKENS
from mlflow_rlrisk.demo.tracking import VERIFIER
from mlflow_rlrisk.report_record import Metric, RiskReport
from mlflow_rlrisk.result_lines import table

HELDOUT_CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=16, max_new_tokens=MAX_NEW_TOKENS, seed=1),
    device="cpu",
    batch_size=512,
)


def compare_by_rl(ladder: Sequence[Assessed], folder: Path) -> dict[str, Any]:
    """Train the shallowest and the deepest rung alike and print who is ahead; also as JSON."""
    shallow, deep = ladder[0], ladder[-1]
    rows, reports, runs = [], [], []
    for each in (shallow, deep):
        name = f"{each.version.rung.epochs}-epochs"
        say(f"\n[RL] GRPO from {each.version.uri}: {_protocol()}")
        start = _heldout(each.version.rung.folder, folder / name / "before")
        run = rl.train_grpo(each.version.rung.folder, folder / name)
        end = _heldout(run.folder, folder / name / "after")
        reports.append(end)
        runs.append(
            {
                "model": each.version.uri,
                "epochs": each.version.rung.epochs,
                "before": start.to_dict()["metrics"],
                "after": end.to_dict()["metrics"],
                "frac_reward_zero_std": run.frac_reward_zero_std,
            }
        )
        rows.append(
            [
                each.version.uri,
                str(each.version.rung.epochs),
                _shown(_pass_at_1(start)),
                _shown(_pass_at_1(end)),
                f"{_pass_at_1(end).value - _pass_at_1(start).value:+.3f}",
                f"{start.metrics['rlrisk/pass_at_16'].value:.3f}",
                f"{end.metrics['rlrisk/pass_at_16'].value:.3f}",
                *(f"{value:.2f}" for value in _thirds(run.frac_reward_zero_std)),
            ]
        )
    header = ["RL from", "epochs", "pass@1 before", "after", "gain", "pass@16 before", "after"]
    header += [f"zero-std {part}" for part in ("first third", "middle", "last")]
    print(f"\nHeld-out prompts (none was trained on), {_protocol()}:\n")
    print("\n".join(table(header, rows)))
    print(
        "\nzero-std is TRL's frac_reward_zero_std: the share of groups without a reward difference."
    )
    verdicts = []
    for name in ("pass_at_1", "pass_at_16"):
        after = [report.metrics[f"rlrisk/{name}"] for report in reports]
        verdicts.append(verdict(name, shallow.version.uri, after[0], deep.version.uri, after[1]))
    print("\n".join(verdicts))
    return {"runs": runs, "verdicts": verdicts}


def verdict(name: str, shallow: str, shallow_after: Metric, deep: str, deep_after: Metric) -> str:
    """Who is ahead after RL, and whether the intervals leave a doubt."""
    ahead, behind = (
        ((shallow, shallow_after), (deep, deep_after))
        if shallow_after.value >= deep_after.value
        else ((deep, deep_after), (shallow, shallow_after))
    )
    margin = ahead[1].value - behind[1].value
    text = f"Ahead after RL in {name}: {ahead[0]}, by {margin:.3f} over {behind[0]}"
    if ahead[1].ci_low <= behind[1].ci_high:
        return f"{text}; the intervals overlap, so this run does not decide it."
    return f"{text}; the intervals do not overlap."


def _heldout(checkpoint: Path, out: Path) -> RiskReport:
    from mlflow_rlrisk.assess import assess

    return assess(
        str(checkpoint), str(HELDOUT), verifier=VERIFIER, config=HELDOUT_CONFIG, out_dir=out
    )


def _pass_at_1(report: RiskReport) -> Metric:
    return report.metrics["rlrisk/pass_at_1"]


def _shown(metric: Metric) -> str:
    return f"{metric.value:.3f} [{metric.ci_low:.3f}, {metric.ci_high:.3f}]"


def _thirds(values: Sequence[float]) -> list[float]:
    third = len(values) // 3
    parts = (values[:third], values[third : 2 * third], values[2 * third :])
    return [sum(part) / len(part) for part in parts]


def _protocol() -> str:
    return (
        f"{rl.NUM_STEPS} steps, groups of {rl.GROUP_SIZE}, {rl.PROMPTS_PER_STEP} prompts a step, "
        f"learning rate {rl.LEARNING_RATE:g}, no KL penalty"
    )
