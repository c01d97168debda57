"""The worker: durable workflows that bring every accepted assessment to its end.

The table of assessments is what callers were promised; DBOS is how the work is carried on. A
sweep hands every open row to a workflow of its own id, which twice is the same as once, so that a
death between the promise and the workflow loses nothing. A row that is still open where its
workflow has ended (MLflow was away, the disk was full) gets it again after a while; meanwhile
others have their turn.
"""

import contextlib
import fcntl
import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID
from dbos import error as dbos_errors
from sqlalchemy import make_url

from mlflow_rlrisk import ConfigError
from service.announcing import Announce
from service.commit_points import CommitPoint, reached
from service.publishing import publish
from service.sampling.sandboxes import watch
from service.sampling.scoring import Scorer
from service.settings import ServiceSettings
from service.signing.client import signer_of
from service.signing.protocol import Signer
from service.tables.assessment_rows import OPEN, State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.worker_presence import gone, say_alive
from service.triggering.poller import Poller

logger = logging.getLogger(__name__)

SCORING, PUBLISHING = "rlrisk-scoring", "rlrisk-publishing"
APPLICATION = "rlrisk"
WORKFLOW_VERSION = "1"
"""Raised only where the workflows below change their steps; others go on across releases."""
SWEEP_S = 0.5
BEATS_A_LIFE = 6
FIRST_RETRY_S, MAX_RETRY_S = 1.0, 60.0
PATIENCE = 0.25
"""The next attempt comes after this share of the time that a row has waited so far."""
LOST_S = 5.0
"""A workflow that nobody runs for so long has lost its thread: DBOS could not write."""
STOP_LIMIT_S = 30.0
"""For what is under way when the worker is to stop; what is not done then is begun anew."""
MAX_RECOVERIES = 100_000  # the row counts attempts, and knows which of them brought something

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ONGOING = ("PENDING", "ENQUEUED", "DELAYED")
"""DBOS's words for a workflow that is not at its end."""


class _Parts:
    """What the workflows use; they are registered at import and get ids only."""

    jobs: AssessmentTable
    settings: ServiceSettings
    scorer: Scorer
    signer: Signer | None
    name: str
    last_beat = -math.inf
    listens_since = -math.inf
    """Since when the database has answered us, so that others could say that they live."""
    running: ClassVar[Counter[str]] = Counter()
    """Workflows that this process is in."""
    idle_since: ClassVar[dict[str, float]] = {}
    """Workflows that are ours by DBOS's word, and that this process is not in."""
    num_steps: int = 0
    """Steps that are under way."""


_parts = _Parts()
_counting = threading.Lock()
_stopping = threading.Event()


@DBOS.step()
def score_step(assessment_id: str) -> bool:
    """Sample and judge; false where another attempt is due at once."""
    with _step():
        return not _stopping.is_set() and _parts.scorer.score(assessment_id)


@DBOS.step()
def publish_step(assessment_id: str) -> bool:
    """Write to MLflow; false where it must be tried again."""
    folder = _parts.scorer.folder(assessment_id)
    with _step():
        return publish(_parts.jobs, _parts.settings, assessment_id, folder, signer=_parts.signer)


@DBOS.workflow(name="rlrisk_score", max_recovery_attempts=MAX_RECOVERIES)
def score_workflow(assessment_id: str) -> None:
    """Attempts until the row is at its end or has to wait."""
    with _running(_scoring_id(assessment_id)):
        while not score_step(assessment_id):
            if _stopping.is_set():  # it stays pending, and whoever comes next goes on with it
                threading.Event().wait()
            DBOS.sleep(FIRST_RETRY_S)


@DBOS.workflow(name="rlrisk_publish", max_recovery_attempts=MAX_RECOVERIES)
def publish_workflow(assessment_id: str) -> None:
    """One attempt to bring a report to MLflow."""
    with _running(_publishing_id(assessment_id)):
        publish_step(assessment_id)


def _scoring_id(assessment_id: str) -> str:
    return f"score-{assessment_id}"


def _publishing_id(assessment_id: str) -> str:
    return f"publish-{assessment_id}"


@contextlib.contextmanager
def _step() -> Iterator[None]:
    with _counting:
        _parts.num_steps += 1
    try:
        yield
    finally:
        with _counting:
            _parts.num_steps -= 1


@contextlib.contextmanager
def _running(workflow_id: str) -> Iterator[None]:
    with _counting:
        _parts.running[workflow_id] += 1
    _parts.idle_since.pop(workflow_id, None)
    try:
        yield
    finally:
        with _counting:
            _parts.running[workflow_id] -= 1
            if not _parts.running[workflow_id]:
                del _parts.running[workflow_id]  # a worker lives for months


def run_worker(
    settings: ServiceSettings, *, name: str | None = None, announce: Announce | None = None
) -> None:
    """Work until SIGTERM or SIGINT.

    Args:
        settings: The service.
        name: Tells workers apart; a worker of the same name goes on with what it left. The host's
            name where it is absent.
        announce: Told the name when it is ready.

    Raises:
        ConfigError: A worker of this name is running, or no worker can have it.
    """
    name = name or socket.gethostname()
    if not _NAME.fullmatch(name):
        raise ConfigError("worker_name", name, "1 to 128 of A-Z a-z 0-9 . _ - are needed")
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
        if announce is not None:
            announce(name=name)
        _parts.name = name
        threading.Thread(target=poller.run, args=(_stopping.wait,), daemon=True).start()
        sandboxes = (settings, _parts.jobs.engine, name, _stopping.wait)
        threading.Thread(target=watch, args=sandboxes, daemon=True).start()
        while not _stopping.wait(SWEEP_S):
            _sweep()
        deadline = time.monotonic() + STOP_LIMIT_S
        while _parts.num_steps and time.monotonic() < deadline:
            time.sleep(SWEEP_S / 5)
        DBOS.destroy()


def _sweep() -> None:
    """Hand over what nobody carries on; a database that is away is tried again."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _take_over()
        for each in _parts.jobs.waiting(*OPEN):
            _hand_over(SCORING, score_workflow, each, _scoring_id(each))
        for each in _parts.jobs.waiting(State.SUCCEEDED, is_unpublished=True):
            _hand_over(PUBLISHING, publish_workflow, each, _publishing_id(each))
    except SQLAlchemyError as error:
        logger.error("the database does not answer: %s", error)
    except dbos_errors.DBOSNonExistentWorkflowError as error:
        logger.info("another worker was quicker, the next sweep goes on: %s", error)


def _take_over() -> None:
    """Say that we live, and carry on what dead workers were running.

    A worker that only seemed dead is harmless: the row's fence has passed it by. But while the
    database is away all are silent, so nobody counts as dead before it was listened to for a life.
    """
    engine, life_s = _parts.jobs.engine, _parts.settings.worker_life_s
    silence_s = time.monotonic() - _parts.last_beat
    if silence_s < life_s / BEATS_A_LIFE:
        return
    say_alive(engine, _parts.name)
    _parts.last_beat = time.monotonic()
    if silence_s > life_s / 2:
        _parts.listens_since = _parts.last_beat
    if time.monotonic() - _parts.listens_since < life_s:
        return
    dead = [name for name in gone(engine, life_s) if name != _parts.name]
    if not dead:
        return
    for found in DBOS.list_workflows(executor_id=dead, status="PENDING", load_input=False):
        logger.warning("%s was left by %s", found.workflow_id, found.executor_id)
        DBOS.resume_workflow(found.workflow_id, queue_name=found.queue_name)


def _hand_over(queue: str, workflow: Any, assessment_id: str, workflow_id: str) -> None:
    found = DBOS.get_workflow_status(workflow_id)
    if found is not None and found.status in _ONGOING:
        if found.status == "PENDING" and found.executor_id == _parts.name:
            _pick_up(queue, workflow_id)
        return
    delay_s = None
    if found is not None:
        DBOS.delete_workflow(workflow_id)  # an id counts once, and the row is open still
        delay_s = _delay_s(assessment_id)
    with SetWorkflowID(workflow_id), SetEnqueueOptions(delay_seconds=delay_s):
        DBOS.enqueue_workflow(queue, workflow, assessment_id)
    reached(CommitPoint.HANDOVER_DONE)


def _pick_up(queue: str, workflow_id: str) -> None:
    """Go on with a workflow of ours whose thread ended where DBOS could not write that down."""
    if _parts.running[workflow_id]:
        _parts.idle_since.pop(workflow_id, None)
        return
    now = time.monotonic()
    if now - _parts.idle_since.setdefault(workflow_id, now) > LOST_S:
        logger.warning("%s was left by its thread", workflow_id)
        DBOS.resume_workflow(workflow_id, queue_name=queue)
        _parts.idle_since.pop(workflow_id, None)


def _delay_s(assessment_id: str) -> float:
    job = _parts.jobs.find(assessment_id)
    since = None if job is None else job.finished_at or job.started_at
    waited_s = 0.0 if since is None else time.time() - since
    return min(max(PATIENCE * waited_s, FIRST_RETRY_S), MAX_RETRY_S)


def _config(settings: ServiceSettings, name: str) -> DBOSConfig:
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        # Two writers to one SQLite file would wait for each other all the time.
        beside = url.set(database=f"{url.database}.workflows")
        address = beside.render_as_string(hide_password=False)
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
