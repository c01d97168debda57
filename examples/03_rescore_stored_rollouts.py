"""Judge stored rollouts again for another group size: no model, no sampling, no GPU."""

import tempfile
from pathlib import Path

import mlflow_rlrisk
from mlflow_rlrisk import AssessmentConfig, SamplingConfig, assess, rescore

DEMO = Path(mlflow_rlrisk.__file__).parent / "demo"


def main() -> None:
    with tempfile.TemporaryDirectory() as out:
        first = assess(
            str(DEMO / "base"),
            str(DEMO / "data" / "rl.jsonl"),
            verifier="mlflow_rlrisk.demo.task:reward",
            config=AssessmentConfig(sampling=SamplingConfig(num_samples=16, max_new_tokens=20)),
            out_dir=Path(out),
        )
        for group_size in (2, 4, first.config.group_size, 16):
            report = rescore(out, group_size=group_size)
            signal = report.metrics["rlrisk/group_signal_fraction"].value
            print(f"groups of {group_size:>2}: {signal:.1%} hold a reward difference")


if __name__ == "__main__":
    main()
