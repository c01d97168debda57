"""Assess a checkpoint folder: sample it as the RL run would and ask how risky it is to start there.

The checkpoint and the prompts ship with the package; put in your own folder, a JSONL file and the
reward function of your RL run.
"""

import tempfile
from pathlib import Path

import mlflow_rlrisk
from mlflow_rlrisk import AssessmentConfig, SamplingConfig, assess

DEMO = Path(mlflow_rlrisk.__file__).parent / "demo"


def main() -> None:
    config = AssessmentConfig(
        sampling=SamplingConfig(num_samples=16, temperature=1.0, max_new_tokens=20),
        group_size=8,
    )
    with tempfile.TemporaryDirectory() as out:
        report = assess(
            str(DEMO / "base"),
            str(DEMO / "data" / "rl.jsonl"),
            verifier="mlflow_rlrisk.demo.task:reward",
            config=config,
            out_dir=Path(out),
        )
    print("risk level:", report.risk_level)
    for reason in report.reasons:
        print("  because", reason)
    for name in ("pass_at_1", "pass_at_16", "group_signal_fraction", "token_entropy"):
        metric = report.metrics[f"rlrisk/{name}"]
        print(f"{name:<24}{metric.value:.3f}  [{metric.ci_low:.3f}, {metric.ci_high:.3f}]")


if __name__ == "__main__":
    main()
