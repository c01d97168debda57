"""A report into MLflow exactly once, however often this is begun.

The run is found by a tag with the assessment's id before one is made; what a broken attempt has
left is completed. The row keeps the report meanwhile, so an MLflow that is away loses nothing.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_rlrisk import RiskReport, RLRiskError, log_report, tag_version
from service.assessment_table import Assessment, AssessmentTable, State
from service.problems import without_paths
from service.sampling_process import forget
from service.settings import ServiceSettings
from service.upstream import point_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

ASSESSMENT_TAG = "rlrisk.assessment_id"
MAX_WHY = 500


def publish(
    jobs: AssessmentTable, settings: ServiceSettings, assessment_id: str, folder: Path
) -> bool:
    """Write the report of an assessment to MLflow.

    Args:
        jobs: Where the report is.
        settings: Which MLflow.
        assessment_id: Whose.
        folder: Its rollouts; removed at the end.

    Returns:
        False where MLflow did not take it and it must be tried again.
    """
    from mlflow.exceptions import MlflowException

    job = jobs.find(assessment_id)
    if job is None or job.state is not State.SUCCEEDED or job.published_at is not None:
        return True
    text = jobs.report(assessment_id)
    assert text is not None  # stored in the transaction that made it succeed
    try:
        run_id, report_uri = _write(settings, job, RiskReport.from_json(text), folder)
    except (RLRiskError, MlflowException, OSError) as error:
        logger.warning("%s is not published yet: %s", assessment_id, error)
        jobs.publish_failed(assessment_id, without_paths(str(error))[:MAX_WHY])
        return False
    jobs.published(assessment_id, run_id, report_uri)
    forget(folder)
    return True


def _write(
    settings: ServiceSettings, job: Assessment, report: RiskReport, folder: Path
) -> tuple[str, str]:
    client = point_mlflow(settings)
    run_id = _run_of(client, settings.experiment, job)
    rollouts = folder / "rollouts"
    logged = log_report(report, run_id=run_id, rollouts=rollouts if rollouts.is_dir() else None)
    if report.provenance.version is not None:
        tag_version(report, report_uri=logged.report_uri)
    client.set_terminated(run_id, "FINISHED")
    return run_id, logged.report_uri


def _run_of(client: "MlflowClient", experiment: str, job: Assessment) -> str:
    found = client.get_experiment_by_name(experiment)
    experiment_id = client.create_experiment(experiment) if found is None else found.experiment_id
    known = client.search_runs([experiment_id], f"tags.`{ASSESSMENT_TAG}` = '{job.id}'")
    if known:
        return str(known[0].info.run_id)
    tags = {ASSESSMENT_TAG: job.id}
    name = f"rlrisk {job.request['model']}"[:250]
    return str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
