"""The artifacts of a run are a complete assessment: they can be judged again after a download."""

from pathlib import Path

import mlflow
import pytest

import mlflow_rlrisk
from mlflow_rlrisk import AssessmentConfig, SamplingConfig, assess, log_report, rescore

DEMO = Path(mlflow_rlrisk.__file__).parent / "demo"


@pytest.mark.mlflow
def test_downloaded_artifacts_are_rescored_to_the_same_figures(tmp_path: Path) -> None:
    lines = (DEMO / "data" / "rl.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    prompts = tmp_path / "rl.jsonl"
    prompts.write_text("\n".join(lines), encoding="utf-8")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("one", (tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("one")
    report = assess(
        DEMO / "base",
        str(prompts),
        verifier="mlflow_rlrisk.demo.task:reward",
        config=AssessmentConfig(
            sampling=SamplingConfig(num_samples=4, max_new_tokens=8), group_size=2
        ),
        expert_data=DEMO / "data" / "heldout.jsonl",
        out_dir=tmp_path / "out",
    )

    logged = log_report(report, rollouts=tmp_path / "out")
    fetched = mlflow.artifacts.download_artifacts(f"runs:/{logged.run_id}/rlrisk")

    assert "rlrisk/heldout_nll" in report.metrics
    assert rescore(fetched).metrics == report.metrics
