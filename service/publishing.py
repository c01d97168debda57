"""A report into MLflow exactly once, signed where there is a signer, however often this is begun.

The run is found by a tag with the assessment's id before one is made; what a broken attempt has
left is completed. The row says which run it is, so that a worker that only seemed dead neither
leaves one of its own nor shows an old verdict. The row keeps the report meanwhile, so an MLflow or
a signer that is away loses nothing. Where there is a signer, no verdict is put onto a version
without its signature; a version that was removed meanwhile gets none at all, and the run keeps the
report.
"""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_rlrisk import RiskReport, RLRiskError, log_report, tag_version
from service.commit_points import CommitPoint, reached
from service.problems import without_paths
from service.registry.bounded_calls import timed
from service.registry.upstream import is_gone, point_mlflow
from service.sampling.process import forget
from service.settings import ServiceSettings
from service.signing.protocol import (
    ASSESSMENT_TAG,
    Signer,
    SignerRefusedError,
    SignerUnavailableError,
)
from service.tables.assessment_rows import Assessment, State
from service.tables.assessments import AssessmentTable

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

ATTESTATION_ARTIFACT = "rlrisk/attestation.json"
ADVISORY = ("weights_declared",)
"""Refusals of the signer after which the verdict is worth showing, as advice."""
MAX_WHY = 500


class _OvertakenError(Exception):
    """Another worker publishes it, or has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    run_id: str
    report_uri: str
    note: str | None


def publish(
    jobs: AssessmentTable,
    settings: ServiceSettings,
    assessment_id: str,
    folder: Path,
    *,
    signer: Signer | None = None,
) -> bool:
    """Write the report of an assessment to MLflow.

    Args:
        jobs: Where the report is.
        settings: Which MLflow.
        assessment_id: Whose.
        folder: Its rollouts; removed at the end.
        signer: Signs the verdict; ``None``: it is advisory.

    Returns:
        False where MLflow or the signer did not take it and it must be tried again.
    """
    from mlflow.exceptions import MlflowException

    job = jobs.find(assessment_id)
    if job is None or job.state is not State.SUCCEEDED:
        return True
    if job.published_at is not None:
        forget(folder)
        return True
    text = jobs.report(assessment_id)
    assert text is not None  # stored in the transaction that made it succeed
    try:
        done = _write(jobs, settings, job, RiskReport.from_json(text), folder, signer)
    except (RLRiskError, MlflowException, OSError, SignerUnavailableError) as error:
        logger.warning("%s is not published yet: %s", assessment_id, error)
        jobs.publish_failed(assessment_id, without_paths(str(error))[:MAX_WHY])
        return False
    except SignerRefusedError as error:  # one that may be lifted; a final one is in the note
        jobs.publish_failed(assessment_id, f"not signed yet: {without_paths(str(error))}"[:MAX_WHY])
        return False
    except _OvertakenError:
        logger.info("%s is published by another worker", assessment_id)
        return False
    except Exception as error:  # an MLflow that talks nonsense fails anywhere in its client
        logger.exception("%s is not published yet", assessment_id)
        jobs.publish_failed(assessment_id, f"MLflow talks nonsense: {type(error).__name__}")
        return False
    jobs.published(assessment_id, done.run_id, done.report_uri, note=done.note)
    reached(CommitPoint.PUBLISHED)
    forget(folder)
    reached(CommitPoint.SHARDS_FORGOTTEN)
    return True


def _write(
    jobs: AssessmentTable,
    settings: ServiceSettings,
    job: Assessment,
    report: RiskReport,
    folder: Path,
    signer: Signer | None,
) -> _Published:
    client = timed(point_mlflow(settings), about=job.id)
    run_id = _run_of(client, jobs, settings.experiment, job)
    rollouts = folder / "rollouts"
    given = rollouts if rollouts.is_dir() else None
    logged = log_report(report, run_id=run_id, rollouts=given, client=client)
    reached(CommitPoint.REPORT_LOGGED)
    note = None
    if not jobs.choose_run(job.id, run_id, instead_of=run_id):  # a long pause may lie behind us
        raise _OvertakenError
    if report.provenance.version is not None:
        note = _show_on_version(client, job, report, run_id, logged.report_uri, signer)
        reached(CommitPoint.VERSION_TAGGED)
    client.set_terminated(run_id, "FINISHED")
    reached(CommitPoint.RUN_ENDED)
    return _Published(run_id=run_id, report_uri=logged.report_uri, note=note)


def _show_on_version(
    client: "MlflowClient",
    job: Assessment,
    report: RiskReport,
    run_id: str,
    report_uri: str,
    signer: Signer | None,
) -> str | None:
    """Tag the version; returns why it shows no verdict, or no signature, where that is for good."""
    tag = partial(_tagged, client, report, report_uri)
    if signer is None:
        return tag(None)
    try:
        envelope = signer.attest(job.id, run_id)
    except SignerRefusedError as error:
        if not error.is_final:
            raise
        logger.warning("%s is not signed: %s", job.id, error)
        if error.code in ADVISORY:
            tag(None)
        return f"not signed: {without_paths(str(error))}"[:MAX_WHY]
    reached(CommitPoint.ATTESTATION_RECEIVED)
    client.log_text(run_id, envelope, ATTESTATION_ARTIFACT)
    reached(CommitPoint.ATTESTATION_LOGGED)
    return tag(envelope)


def _tagged(
    client: "MlflowClient", report: RiskReport, report_uri: str, attestation: str | None
) -> str | None:
    """Tag the version; returns why not where it was removed, for it will never be there again."""
    try:
        tag_version(report, report_uri=report_uri, attestation=attestation, client=client)
    except RLRiskError as error:
        if not is_gone(error):
            raise
        logger.warning("the version is gone: %s", error)
        return f"not shown: {without_paths(str(error))}"[:MAX_WHY]
    return None


def _run_of(client: "MlflowClient", jobs: AssessmentTable, experiment: str, job: Assessment) -> str:
    found = client.get_experiment_by_name(experiment)
    experiment_id = client.create_experiment(experiment) if found is None else found.experiment_id
    runs = client.search_runs([experiment_id], f"tags.`{ASSESSMENT_TAG}` = '{job.id}'")
    known = [str(each.info.run_id) for each in runs]
    if job.run_id in known:
        return job.run_id
    if known:
        run_id = known[0]
    else:
        tags = {ASSESSMENT_TAG: job.id}
        name = f"rlrisk {job.request['model']}"[:250]
        run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
        reached(CommitPoint.RUN_CREATED)
    if jobs.choose_run(job.id, run_id, instead_of=job.run_id):
        return run_id
    chosen = jobs.find(job.id)
    if not known and chosen is not None and chosen.run_id != run_id:
        client.delete_run(run_id)
    raise _OvertakenError
