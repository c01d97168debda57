"""The moments between two effects, by name: where a death must lose and repeat nothing.

In production `reached` does nothing. A test names a folder in ``RLRISK_CRASH_AT``; a process that
comes by a point whose name is a file in that folder removes the file and kills itself.
"""

import os
import signal
from enum import StrEnum
from pathlib import Path

CRASH_VARIABLE = "RLRISK_CRASH_AT"


class CommitPoint(StrEnum):
    """Where a process may be when it is killed, from what MLflow tells to what it gets."""

    DELIVERY_UNCOMMITTED = "api: the delivery is written, not committed"
    DELIVERY_COMMITTED = "api: the delivery is committed, not answered"
    POLLER_LEASED = "worker: it is the one that looks at the registry"
    HINT_FOLLOWED = "worker: what a delivery tells is started, not noted as handled"
    HINT_HANDLED = "worker: the delivery is noted as handled"
    REGISTRY_LOOKED = "worker: the registry is looked through, how far is not noted"
    WATERMARK_RAISED = "worker: how far it looked is noted"
    ACCEPT_UNCOMMITTED = "api, or worker for a trigger: the row is written, not committed"
    ACCEPT_COMMITTED = "api, or worker for a trigger: the row is committed, not answered"
    HANDOVER_DONE = "worker: the workflow is enqueued"
    ATTEMPT_BEGUN = "worker: the attempt is counted"
    MODEL_PINNED = "worker: the version is pinned"
    MODEL_FETCHED = "worker: the checkpoint is fetched"
    CHILD_STARTED = "worker: the sampling process is started"
    PROMPT_GRADED = "child: a prompt is graded"
    RESULT_UNWRITTEN = "child: the result is made, not written"
    RESULT_WRITTEN = "child: the result is written"
    REPORT_UNCOMMITTED = "worker: the report is read, not stored"
    REPORT_COMMITTED = "worker: the report is stored"
    RUN_CREATED = "worker: the run is made"
    REPORT_LOGGED = "worker: the report is in the run"
    STATEMENT_MADE = "signer: the statement is signed, not stored"
    SIGNATURE_COMMITTED = "signer: the signature is stored, not answered"
    ATTESTATION_RECEIVED = "worker: the signature is received"
    ATTESTATION_LOGGED = "worker: the signature is in the run"
    VERSION_TAGGED = "worker: the version is tagged"
    RUN_ENDED = "worker: the run is ended"
    PUBLISHED = "worker: it is marked as published"
    SHARDS_FORGOTTEN = "worker: the shards are removed"


def reached(point: CommitPoint) -> None:
    """Say that a process is here."""
    folder = os.environ.get(CRASH_VARIABLE)
    if folder is None:
        return
    try:
        Path(folder, point.name).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
