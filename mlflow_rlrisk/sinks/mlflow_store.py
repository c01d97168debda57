"""What every sink asks of MLflow: will it take the report, a run to write to, a readable refusal.

`check_writable` writes for real before any sampling, so that a store that refuses is found before
the computation, not after it.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlflow_rlrisk.errors import SinkError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

FOLDER = "rlrisk"
"""Artifact folder of a report."""
DIGEST_TAG = "rlrisk.report_digest"
"""Run tag that says which report a run holds."""
_STORAGE_CLIENTS = frozenset({"azure", "boto3", "botocore", "ftplib", "google", "paramiko"})
"""Packages through which MLflow reaches artifact stores; their errors share no base class."""


def check_writable(
    run_id: str | None = None, *, name: str | None = None, version: str | None = None
) -> None:
    """Prove that tracking store, artifact store and registry take what will be written.

    Args:
        run_id: The run that will get the report; ``None`` tries a run that is deleted at once.
        name: Registered model whose version will be tagged.
        version: Its version.

    Raises:
        SinkError: A store refuses, or the run holds a report already.
    """
    import mlflow

    now = datetime.now(UTC).isoformat(timespec="seconds")
    client = mlflow.MlflowClient()
    with mlflow_errors(f"MLflow at {mlflow.get_tracking_uri()} cannot be written"):
        if run_id is None:
            run_id = _try_run(client)
        elif DIGEST_TAG in client.get_run(run_id).data.tags:
            raise SinkError(f"run {run_id} holds a report already; use one run per model")
        else:
            client.set_tag(run_id, "rlrisk.attempted_at", now)
            client.log_text(run_id, now + "\n", f"{FOLDER}/attempted_at.txt")
    if name is not None and version is not None:
        with mlflow_errors(f"version {version} of {name} cannot be tagged"):
            client.set_model_version_tag(name, version, "rlrisk.attempted_at", now)


def _try_run(client: "MlflowClient") -> str:
    run_id = create_run(client, "rlrisk write check")
    try:
        client.log_text(run_id, "", f"{FOLDER}/attempted_at.txt")
    finally:
        client.delete_run(run_id)
    return run_id


def create_run(client: "MlflowClient", name: str, parent: str | None = None) -> str:
    """Begin a run in the experiment that is set, not the active one: that prints to stdout.

    Args:
        client: The client.
        name: Name of the run.
        parent: Id of the run that it belongs to.
    """
    from mlflow.tracking.context.registry import resolve_tags
    from mlflow.tracking.fluent import _get_experiment_id
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    experiment_id = _get_experiment_id()  # where mlflow.start_run() would put it
    if experiment_id is None:
        raise SinkError("no MLflow experiment is set; call mlflow.set_experiment")
    tags = resolve_tags() if parent is None else {**resolve_tags(), MLFLOW_PARENT_RUN_ID: parent}
    run = client.create_run(experiment_id, run_name=name, tags=tags)
    return str(run.info.run_id)


@contextmanager
def own_run(client: "MlflowClient", name: str, parent: str | None = None) -> Iterator[str]:
    """A run that is begun here and ended here: ``FINISHED``, or ``FAILED`` where the body raises.

    Args:
        client: The client.
        name: Name of the run.
        parent: Id of the run that it belongs to.

    Raises:
        SinkError: MLflow does not begin or end it.
    """
    import mlflow

    with mlflow_errors(f"no run can be started at {mlflow.get_tracking_uri()}"):
        run_id = create_run(client, name, parent)
    try:
        yield run_id
    except BaseException:
        try:
            _end(client, run_id, "FAILED")
        except SinkError as error:  # what the body raised is the reason
            logger.warning("%s", error)
        raise
    _end(client, run_id, "FINISHED")


def _end(client: "MlflowClient", run_id: str, status: str) -> None:
    # MLflow prints the run's address; stdout may be JSON.
    with mlflow_errors(f"run {run_id} cannot be ended"), redirect_stdout(sys.stderr):
        client.set_terminated(run_id, status)


@contextmanager
def mlflow_errors(what: str) -> Iterator[None]:
    """Turn a refusal of MLflow, of a store or of a disk into a `SinkError` that says of what."""
    try:
        yield
    except Exception as error:
        if not _is_refusal(error):
            raise
        text = getattr(error, "message", None) or str(error) or type(error).__name__
        raise SinkError(f"{what}: {text}") from error


def _is_refusal(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException | OSError | ModuleNotFoundError):
        return True
    return type(error).__module__.partition(".")[0] in _STORAGE_CLIENTS
