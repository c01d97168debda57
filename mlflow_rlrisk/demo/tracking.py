"""The demo's own MLflow: a SQLite file and a folder of artifacts, nothing of the user's is touched.

Registering and assessing twice changes nothing: a version is found by the digest of its weights,
a report by everything that went into it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.content import own_code
from mlflow_rlrisk.demo.ladder import BATCH_SIZE, LEARNING_RATE, Rung
from mlflow_rlrisk.demo.make_base import BASE, digests
from mlflow_rlrisk.demo.make_data import RL
from mlflow_rlrisk.demo.task import MAX_NEW_TOKENS
from mlflow_rlrisk.errors import ReportError
from mlflow_rlrisk.report_record import RiskReport
from mlflow_rlrisk.rollouts.shards import write_text_atomically

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MODEL_NAME = "chains-sft"
EXPERIMENT = "rlrisk-demo"
VERIFIER = "mlflow_rlrisk.demo.task:reward"
WEIGHTS_TAG = "demo.weights_sha256"
WEIGHTS_FILE = "model.safetensors"

CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=64, max_new_tokens=MAX_NEW_TOKENS, seed=0),
    group_size=8,
    device="cpu",
    batch_size=512,
)
"""As the RL run will sample: temperature 1, groups of 8; 64 rollouts a prompt give pass@64."""


class Version(NamedTuple):
    """A rung in the registry."""

    rung: Rung
    uri: str


def quiet_mlflow() -> None:
    """Keep MLflow's notes ("Waiting up to 300 seconds ...") from between the demo's lines."""
    import mlflow  # noqa: F401  (it sets its levels when it is imported)

    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def open_store(out: Path) -> str:
    """Point MLflow at ``out`` and return the tracking URI."""
    import mlflow

    quiet_mlflow()
    out.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{(out / 'mlflow.db').resolve()}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        mlflow.create_experiment(EXPERIMENT, (out / "mlartifacts").resolve().as_uri())
    mlflow.set_experiment(EXPERIMENT)
    return uri


def register_rungs(rungs: Sequence[Rung]) -> list[Version]:
    """Register every rung as a version of `MODEL_NAME`, or find the version that it is."""
    known = _known_versions()
    versions = []
    for rung in rungs:
        weights = digests(rung.folder)[WEIGHTS_FILE]
        version = known.get(weights) or _register(rung, weights)
        versions.append(Version(rung, f"models:/{MODEL_NAME}/{version}"))
    return versions


def _known_versions() -> dict[str, str]:
    """Version number by digest of the weights."""
    from mlflow import MlflowClient

    found: Sequence[ModelVersion] = MlflowClient().search_model_versions(f"name='{MODEL_NAME}'")
    return {v.tags[WEIGHTS_TAG]: str(v.version) for v in found if WEIGHTS_TAG in v.tags}


def _register(rung: Rung, weights: str) -> str:
    import mlflow

    from mlflow_rlrisk.sinks.registry import log_checkpoint

    params = {"epochs": rung.epochs, "learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE}
    with mlflow.start_run(run_name=f"sft-{rung.epochs}-epochs"):
        mlflow.log_params(params)
        mlflow.log_metric("sft_loss", rung.loss, step=rung.epochs)
        version = log_checkpoint(
            rung.folder,
            MODEL_NAME,
            tags={WEIGHTS_TAG: weights, "demo.epochs": rung.epochs},
            params=params,
            step=rung.epochs,
            parent=f"base {digests(BASE)[WEIGHTS_FILE][:12]}",
        )
    return str(version.version)


def assess_version(version: Version, out: Path, config: AssessmentConfig = CONFIG) -> RiskReport:
    """Assess one version with the evaluator plugin, or read the report of an equal assessment.

    Args:
        version: What to assess.
        out: Folder for rollouts and the report.
        config: Settings of the assessment.
    """
    import mlflow
    import pandas as pd

    target = report_file(out, version.rung.epochs)
    stored = _stored_report(target, version, config)
    if stored is not None:
        return stored
    prompts = pd.read_json(RL, lines=True)
    evaluate: Any = mlflow.models.evaluate  # MLflow leaves it untyped
    with mlflow.start_run(run_name=f"assess-{version.rung.epochs}-epochs"):
        result = evaluate(
            model=None,
            data=prompts,
            model_type="rlrisk",
            evaluators="rlrisk",
            evaluator_config={
                "model_uri": version.uri,
                "verifier": VERIFIER,
                "out_dir": str(out / f"{version.rung.epochs}-epochs"),
                **config.model_dump(exclude_unset=True),
            },
        )
    report = RiskReport.from_dict(result.artifacts["rlrisk_report"].content)
    write_text_atomically(target, report.to_json())
    return report


def report_file(out: Path, epochs: int) -> Path:
    """Where the report of a rung is kept; other code of ours may report otherwise."""
    return out / f"{epochs}-epochs-{own_code()[:12]}.json"


def _stored_report(target: Path, version: Version, config: AssessmentConfig) -> RiskReport | None:
    """The report of an equal assessment: same model, prompts, verifier and settings."""
    from mlflow_rlrisk.checkpoint import open_checkpoint
    from mlflow_rlrisk.prompts import load_prompts
    from mlflow_rlrisk.verifiers import load_verifier

    if not target.is_file():
        return None
    try:
        report = RiskReport.from_json(target.read_text(encoding="utf-8"))
    except ReportError:
        return None
    wanted = {
        "checkpoint": open_checkpoint(version.uri).digest,
        "prompts": load_prompts(RL).digest,
        "verifier": load_verifier(VERIFIER).digest,
    }
    is_same = report.config == config and report.provenance.model_reference == version.uri
    is_same &= all(report.provenance.digests.get(name) == value for name, value in wanted.items())
    return report if is_same else None
