"""Register a checkpoint in MLflow and assess the version with the evaluator plugin.

The metrics land on the run and on the LoggedModel, the verdict becomes tags of the version, the
page ``rlrisk/report.html`` an artifact of the run.
"""

import tempfile
from pathlib import Path

import mlflow  # noqa: TID253  (an example may)
import pandas as pd

import mlflow_rlrisk
from mlflow_rlrisk import log_checkpoint

DEMO = Path(mlflow_rlrisk.__file__).parent / "demo"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_registry_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.create_experiment("example", Path(folder, "artifacts").as_uri())
        mlflow.set_experiment("example")

        version = log_checkpoint(DEMO / "base", "chains")
        with mlflow.start_run():
            result = mlflow.models.evaluate(
                model=None,  # nothing is loaded twice
                data=pd.read_json(DEMO / "data" / "rl.jsonl", lines=True),
                model_type="rlrisk",
                evaluators="rlrisk",
                evaluator_config={
                    "model_uri": f"models:/chains/{version.version}",
                    "verifier": "mlflow_rlrisk.demo.task:reward",
                    "num_samples": 16,
                    "max_new_tokens": 20,
                    "out_dir": f"{folder}/rollouts",
                    "progress": False,
                },
            )
        print("pass@1       ", result.metrics["rlrisk/pass_at_1"])
        print("group signal ", result.metrics["rlrisk/group_signal_fraction"])
        tagged = mlflow.MlflowClient().get_model_version("chains", version.version)
        print("risk level   ", tagged.tags["rlrisk.risk_level"])


if __name__ == "__main__":
    main()
