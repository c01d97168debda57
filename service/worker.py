"""The worker: durable workflows that bring every accepted assessment to its end.

The table of assessments is what callers were promised; DBOS is how the work is carried on. A
sweep hands every open row to a workflow of its own id, which twice is the same as once, so that a
death between the promise and the workflow loses nothing.
"""

import contextlib
import fcntl
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID
from sqlalchemy import make_url

from mlflow_rlrisk import ConfigError
from service.assessment_table import AssessmentTable, State
from service.commit_points import CommitPoint, reached
from service.database import open_database
from service.poller import Poller
from service.publishing import publish
from service.scoring import Scorer
from service.settings import ServiceSettings
from service.signer_client import signer_of
from service.signer_protocol import Signer
from service.worker_presence import gone, say_alive

logger = logging.getLogger(__name__)

SCORING, PUBLISHING = "rlrisk-scoring", "rlrisk-publishing"
APPLICATION = "rlrisk"
WORKFLOW_VERSION = "1"
"""Raised only where the workflows below change their steps; others go on across releases."""
SWEEP_S = 0.5
BEATS_A_LIFE = 6
FIRST_RETRY_S, MAX_RETRY_S = 1.0, 60.0
MAX_RECOVERIES = 100_000  # the row counts attempts, and knows which of them brought something


class _Parts:
    """What the workflows use; they are registered at import and get ids only."""

    jobs: AssessmentTable
    settings: ServiceSettings
    scorer: Scorer
    signer: Signer | None
    name: str
    last_beat = -math.inf


_parts = _Parts()
_stopping = threading.Event()


@DBOS.step()
def score_step(assessment_id: str) -> bool:
    """Sample and judge; false where another attempt is due."""
    return _parts.scorer.score(assessment_id)


@DBOS.step()
def publish_step(assessment_id: str) -> bool:
    """Write to MLflow; false where it must be tried again."""
    folder = _parts.scorer.folder(assessment_id)
    return publish(_parts.jobs, _parts.settings, assessment_id, folder, signer=_parts.signer)


@DBOS.workflow(name="rlrisk_score", max_recovery_attempts=MAX_RECOVERIES)
def score_workflow(assessment_id: str) -> None:
    """Attempts until the row is at its end."""
    while not score_step(assessment_id):
        DBOS.sleep(FIRST_RETRY_S)


@DBOS.workflow(name="rlrisk_publish", max_recovery_attempts=MAX_RECOVERIES)
def publish_workflow(assessment_id: str) -> None:
    """Attempts until MLflow has the report."""
    wait = FIRST_RETRY_S
    while not publish_step(assessment_id):
        DBOS.sleep(wait)
        wait = min(2 * wait, MAX_RETRY_S)


def run_worker(settings: ServiceSettings, *, name: str | None = None) -> None:
    """Work until SIGTERM or SIGINT.

    Args:
        settings: The service.
        name: Tells workers apart; a worker of the same name goes on with what it left. The host's
            name where it is absent.

    Raises:
        ConfigError: A worker of this name is running.
    """
    name = name or socket.gethostname()
    with _only_one(settings, name):
        _parts.jobs = AssessmentTable(open_database(settings.database))
        _parts.settings = settings
        _parts.signer = signer_of(settings)
        _parts.scorer = Scorer(_parts.jobs, settings, _stopping.is_set)
        poller = Poller(settings, _parts.jobs, name)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: _stopping.set())
        DBOS(config=_config(settings, name))
        DBOS.launch()
        DBOS.register_queue(SCORING, worker_concurrency=1, polling_interval_sec=SWEEP_S)
        DBOS.register_queue(PUBLISHING, worker_concurrency=2, polling_interval_sec=SWEEP_S)
        logger.info("worker %s is ready", name)
        _parts.name = name
        looking = threading.Thread(target=poller.run, args=(_stopping.wait,), daemon=True)
        looking.start()
        while not _stopping.wait(SWEEP_S):
            _sweep()
        DBOS.destroy(workflow_completion_timeout_sec=30)


def _sweep() -> None:
    """Hand over what has no workflow yet; a database that is away is tried again."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _take_over()
        for assessment_id in _parts.jobs.waiting(State.QUEUED):
            _hand_over(SCORING, score_workflow, assessment_id, f"score-{assessment_id}")
        for assessment_id in _parts.jobs.waiting(State.SUCCEEDED, is_unpublished=True):
            _hand_over(PUBLISHING, publish_workflow, assessment_id, f"publish-{assessment_id}")
    except SQLAlchemyError as error:
        logger.error("the database does not answer: %s", error)


def _take_over() -> None:
    """Say that we live, and carry on what dead workers were running.

    A worker that only seemed dead is harmless: the row's fence has passed it by.
    """
    engine, life_s = _parts.jobs.engine, _parts.settings.worker_life_s
    if time.monotonic() - _parts.last_beat < life_s / BEATS_A_LIFE:
        return
    _parts.last_beat = time.monotonic()
    say_alive(engine, _parts.name)
    dead = [name for name in gone(engine, life_s) if name != _parts.name]
    if not dead:
        return
    for found in DBOS.list_workflows(executor_id=dead, status="PENDING", load_input=False):
        logger.warning("%s was left by %s", found.workflow_id, found.executor_id)
        DBOS.resume_workflow(found.workflow_id, queue_name=found.queue_name)


def _hand_over(queue: str, workflow: Any, assessment_id: str, workflow_id: str) -> None:
    if DBOS.get_workflow_status(workflow_id) is None:
        with SetWorkflowID(workflow_id):
            DBOS.enqueue_workflow(queue, workflow, assessment_id)
        reached(CommitPoint.HANDOVER_DONE)


def _config(settings: ServiceSettings, name: str) -> DBOSConfig:
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        # Two writers to one SQLite file would wait for each other all the time.
        address = f"{settings.database}.workflows"
    else:
        address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return DBOSConfig(
        name=APPLICATION,
        system_database_url=address,
        executor_id=name,
        application_version=WORKFLOW_VERSION,
        enable_otlp=False,
        log_level="WARNING",
    )


@contextlib.contextmanager
def _only_one(settings: ServiceSettings, name: str) -> Iterator[None]:
    folder = Path(settings.data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"worker-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            need = "a worker of this name is running; give each its own --worker-name"
            raise ConfigError("worker_name", name, need) from error
        lock.write(str(os.getpid()))
        lock.flush()
        yield
