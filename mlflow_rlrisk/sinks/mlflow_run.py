"""A report into an MLflow run: metrics, parameters, tags, the page, the table, the rollouts.

A run holds one report. Metrics go to the run and to the LoggedModel in the same request, so each
has one point in its history; who logs them is decided by the caller, because MLflow's ``evaluate``
logs returned metrics itself where it knows the LoggedModel.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow_rlrisk.errors import SinkError
from mlflow_rlrisk.sinks.html import render
from mlflow_rlrisk.sinks.mlflow_store import DIGEST_TAG, FOLDER, mlflow_errors, own_run
from mlflow_rlrisk.sinks.prompt_table import prompt_table, refuse_other_rollouts
from mlflow_rlrisk.sinks.verdict import MAX_TAG, verdict_markdown, verdict_tags

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Run

    from mlflow_rlrisk.report import RiskReport

PROMPT_TABLE = "rlrisk_prompts.json"
"""At the root of the run: MLflow finds tables of an evaluation nowhere else."""
MAX_METRICS, MAX_PARAMS = 1000, 100  # limits of one log_batch request
MAX_PARAM = 6000  # characters MLflow takes
_PARTS = (
    "rollouts",
    "grades",
    "expert",
    "manifest.json",
    "inputs.json",
    "prompts.jsonl",
    "evidence.json",
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedReport:
    """Where a report was written.

    Attributes:
        run_id: The run.
        report_uri: The page, as ``runs:/<id>/rlrisk/report.html``.
        num_table_rows: Prompts in the table; 0 where no rollouts were given.
        num_prompts: Prompts of the assessment.
        page: The page.
        table: The table of prompts; ``None`` where no rollouts were given.
    """

    run_id: str
    report_uri: str
    num_table_rows: int
    num_prompts: int
    page: str = field(repr=False)
    table: "pd.DataFrame | None" = field(repr=False)


def metric_values(report: "RiskReport") -> dict[str, float]:
    """Every metric with its interval, under the names MLflow gets."""
    values: dict[str, float] = {}
    for name, metric in report.metrics.items():
        values[name] = metric.value
        values[f"{name}_ci_low"] = metric.ci_low
        values[f"{name}_ci_high"] = metric.ci_high
    return values


def log_report(
    report: "RiskReport",
    *,
    run_id: str | None = None,
    rollouts: str | Path | None = None,
    dataset: Any = None,
    log_metrics: bool = True,
    page: str | None = None,
    client: "MlflowClient | None" = None,
) -> LoggedReport:
    """Write a report to a run; the LoggedModel of its provenance gets the metrics too.

    Args:
        report: What to write.
        run_id: The run; the active one, else a new one that is ended here.
        rollouts: Folder of the assessment; its rollouts and grades become artifacts, and the
            table of prompts is made from them.
        dataset: MLflow dataset that the metrics belong to, as ``mlflow.data`` or a run gives it.
        log_metrics: ``False`` leaves the metrics to MLflow.
        page: The report as `render` gave it, where it was rendered already.
        client: Asks MLflow; one of the server in use where it is absent.

    Returns:
        Where it is.

    Raises:
        SinkError: MLflow refuses, the run holds another report, or the rollouts are of another.
        RolloutStoreError: The folder of the rollouts is damaged.
    """
    import mlflow

    if rollouts is not None:
        refuse_other_rollouts(report, Path(rollouts))
    client = client or mlflow.MlflowClient()
    if run_id is None and (active := mlflow.active_run()):
        run_id = active.info.run_id
    target = _Target(
        rollouts=None if rollouts is None else Path(rollouts),
        dataset=_dataset_entity(dataset),
        model_id=report.provenance.model_id,
        log_metrics=log_metrics,
        page=page,
    )
    if run_id is not None:
        return _write(client, report, run_id, target)
    with own_run(client, _run_name(report)) as run_id:
        return _write(client, report, run_id, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    rollouts: Path | None
    dataset: "Dataset | None"
    model_id: str | None
    log_metrics: bool
    page: str | None


def _dataset_entity(dataset: Any) -> "Dataset | None":
    convert = getattr(dataset, "_to_mlflow_entity", None)  # what MLflow's own evaluate calls
    entity: Dataset | None = dataset if convert is None else convert()
    return entity


def _write(
    client: "MlflowClient", report: "RiskReport", run_id: str, target: _Target
) -> LoggedReport:
    """Write everything that is not there yet; what a broken attempt has left is completed."""
    with mlflow_errors(f"the report cannot be written to run {run_id}"):
        run = client.get_run(run_id)
        if run.data.tags.get(DIGEST_TAG, report.digest) != report.digest:
            raise SinkError(f"run {run_id} holds another report; use one run per model")
        client.set_tag(run_id, DIGEST_TAG, report.digest)
        page = target.page or render(report)
        table = None if target.rollouts is None else prompt_table(report, target.rollouts)
        _log_artifacts(client, report, run, page)
        if target.rollouts is not None and table is not None:
            _log_rollouts(client, run, target.rollouts, table)
        _log_inputs(client, run, target)
        if target.log_metrics:
            _log_metrics(client, report, run, target)
        report_uri = f"runs:/{run_id}/{FOLDER}/report.html"
        _log_params_and_tags(client, report, run, report_uri)
    return LoggedReport(
        run_id=run_id,
        report_uri=report_uri,
        num_table_rows=0 if table is None else len(table),
        num_prompts=report.num_prompts,
        page=page,
        table=table,
    )


def _run_name(report: "RiskReport") -> str:
    source = report.provenance
    name = f"{source.registered_name}/{source.version}" if source.version else ""
    return f"rlrisk {name or source.model_reference}"[:250]


def _log_artifacts(client: "MlflowClient", report: "RiskReport", run: "Run", page: str) -> None:
    with tempfile.TemporaryDirectory(prefix="rlrisk-") as folder:
        Path(folder, "report.html").write_text(page, encoding="utf-8")
        Path(folder, "report.json").write_text(report.to_json(), encoding="utf-8")
        client.log_artifacts(run.info.run_id, folder, FOLDER)


def _log_rollouts(
    client: "MlflowClient", run: "Run", rollouts: Path, table: "pd.DataFrame"
) -> None:
    run_id = run.info.run_id
    for part in _PARTS:
        path = rollouts / part
        if path.is_dir():
            client.log_artifacts(run_id, str(path), f"{FOLDER}/{part}")
        elif path.is_file():
            client.log_artifact(run_id, str(path), FOLDER)
    if PROMPT_TABLE not in {file.path for file in client.list_artifacts(run_id)}:
        client.log_table(run_id, table, PROMPT_TABLE)  # it would append to one that is there
    else:
        _announce_table(client, run)


def _announce_table(client: "MlflowClient", run: "Run") -> None:
    """Set the tag by which MLflow finds a table; an attempt that broke may not have come to it."""
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    known = json.loads(run.data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    table = {"path": PROMPT_TABLE, "type": "table"}
    if table not in known:
        client.set_tag(run.info.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, table]))


def _log_inputs(client: "MlflowClient", run: "Run", target: _Target) -> None:
    from mlflow.entities import DatasetInput, LoggedModelInput

    inputs = run.inputs
    known_models = {given.model_id for given in inputs.model_inputs} if inputs else set()
    known_data = {given.dataset.digest for given in inputs.dataset_inputs} if inputs else set()
    models, data = [], []
    if target.model_id is not None and target.model_id not in known_models:
        models.append(LoggedModelInput(target.model_id))
    if target.dataset is not None and target.dataset.digest not in known_data:
        data.append(DatasetInput(target.dataset))
    if models or data:
        client.log_inputs(run.info.run_id, datasets=data, models=models)


def _log_metrics(client: "MlflowClient", report: "RiskReport", run: "Run", target: _Target) -> None:
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    data = target.dataset
    metrics = [
        Metric(
            key=name,
            value=value,
            timestamp=now,
            step=0,
            model_id=target.model_id,
            dataset_name=data.name if data else None,
            dataset_digest=data.digest if data else None,
            run_id=run.info.run_id,
        )
        for name, value in metric_values(report).items()
        if name not in run.data.metrics
    ]
    for batch in _batches(metrics, MAX_METRICS):
        client.log_batch(run.info.run_id, metrics=batch, synchronous=True)


def _log_params_and_tags(
    client: "MlflowClient", report: "RiskReport", run: "Run", report_uri: str
) -> None:
    from mlflow.entities import Param, RunTag
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    params = [Param(key, value[:MAX_PARAM]) for key, value in report_params(report).items()]
    for batch in _batches(params, MAX_PARAMS):
        client.log_batch(run.info.run_id, params=batch, synchronous=True)
    tags = verdict_tags(report)
    if MLFLOW_RUN_NOTE not in run.data.tags:
        tags[MLFLOW_RUN_NOTE] = verdict_markdown(report, report_uri, MAX_TAG)
    entities = [RunTag(key, value) for key, value in tags.items()]
    client.log_batch(run.info.run_id, tags=entities, synchronous=True)


def report_params(report: "RiskReport") -> dict[str, str]:
    """The settings that were in force, under ``rlrisk.<snake_case>``."""
    settings = report.config.model_dump(mode="json")
    flat: dict[str, Any] = {**settings.pop("sampling"), **settings}
    flat |= {
        "model_reference": report.provenance.model_reference,
        "verifier": report.provenance.verifier,
        "policy": report.policy.name,
        **{f"{name}_digest": value for name, value in report.provenance.digests.items()},
    }
    return {f"rlrisk.{name}": _text(value) for name, value in flat.items()}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _batches(items: list[_T], size: int) -> Iterator[list[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
