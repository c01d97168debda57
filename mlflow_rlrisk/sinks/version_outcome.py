"""What RL made of a checkpoint, as a tag of the model version that it started from.

Writing the same again leaves the same; writers at the same time lose nothing.
"""

import json
import logging
import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.errors import HistoryError, SinkError
from mlflow_rlrisk.model_reference import registered_version
from mlflow_rlrisk.monitor.outcome import (
    RunOutcome,
    is_same_run,
    outcome_record,
    recorded_outcomes,
)
from mlflow_rlrisk.sinks.mlflow_store import mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

OUTCOME_TAG = "rlrisk.outcome"
"""JSON on a model version: status, means over its runs, every run with its definition."""
SETTLE_S = 0.2
"""Another writer that had read the outcome tag before ours was written has written by then."""
MAX_TRIES = 20


def record_outcome(
    reference: str, outcome: RunOutcome, *, run: str, replaces: str | None = None
) -> dict[str, Any]:
    """Write what RL made of a checkpoint onto its model version.

    Args:
        reference: The SFT version, ``models:/name/version`` or ``models:/name@alias``.
        outcome: What came of it.
        run: Id of the RL run, the identity of its log, or the RL checkpoint that was assessed;
            the same one again replaces what was recorded of it.
        replaces: A recorded run that this one is too, though its log was written anew since.

    Returns:
        The record as it stands on the version.

    Raises:
        ModelReferenceError: The reference is no registered version.
        SinkError: The registry refuses, others overwrite the outcome each time, or what is to be
            replaced is not recorded.
    """
    import mlflow

    found = registered_version(reference)
    if found is None:
        need = "an outcome is recorded on a registered version: models:/name/version or @alias"
        raise SinkError(f"{reference}: {need}")
    client = mlflow.MlflowClient()
    name, version = found.name, str(found.version)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"run": run, "recorded_at": now, **outcome.to_dict()}
    with mlflow_errors(f"the outcome cannot be written to version {version} of {name}"):
        runs = _known_outcomes(client, name, version)
        if replaces is not None and replaces not in [each["run"] for each in runs]:
            known = ", ".join(each["run"] for each in runs) or "none"
            raise SinkError(f"replaces={replaces!r}: a recorded run is needed; there are {known}")
        _tell_branches(reference, runs, run, replaces)
        # MLflow has no compare-and-set: what another writer overwrote is merged again.
        for _ in range(MAX_TRIES):
            _write_outcome(client, name, version, runs, entry, replaces)
            time.sleep(SETTLE_S * random.uniform(1.0, 2.0))
            runs = _known_outcomes(client, name, version)
            if entry in runs:
                return outcome_record(runs[:-1], runs[-1])
    raise SinkError(
        f"version {version} of {name}: other writers overwrote the outcome of run {run} "
        f"{MAX_TRIES} times; record it again"
    )


def _write_outcome(
    client: "MlflowClient",
    name: str,
    version: str,
    runs: list[dict[str, Any]],
    entry: dict[str, Any],
    replaces: str | None,
) -> None:
    """Write one more run beside those that were read; where another was quicker, maybe nothing."""
    from mlflow.exceptions import MlflowException

    kept = [each for each in runs if each["run"] != replaces]
    text = json.dumps(outcome_record(kept, entry))
    try:
        client.set_model_version_tag(name, version, OUTCOME_TAG, text)
    except MlflowException:
        # SQL stores refuse the second of two that add a tag at once; anything else is for good.
        if _known_outcomes(client, name, version) == runs:
            raise


def _tell_branches(
    reference: str, runs: list[dict[str, Any]], run: str, replaces: str | None
) -> None:
    """Say which recorded runs began as this one did: a seed used twice, or one run resumed."""
    for known in (each["run"] for each in runs):
        is_branch = known.startswith("log ") and known.split(".")[0] == run.split(".")[0]
        if is_branch and known != replaces and not is_same_run(known, run):
            logger.warning(
                "%s: the first rows of this log are those of recorded run %r, later ones are not: "
                "it counts as another run; where it is that one, resumed from an earlier step, "
                "record it with --replaces",
                reference,
                known,
            )


def _known_outcomes(client: "MlflowClient", name: str, version: str) -> list[dict[str, Any]]:
    tag = client.get_model_version(name, version).tags.get(OUTCOME_TAG)
    try:
        return recorded_outcomes(tag)
    except HistoryError as error:
        raise SinkError(f"version {version} of {name}: {error}; delete the tag") from error


def recorded_finals(references: Iterable[str]) -> dict[str, float]:
    """Final value of RL, mean over its runs, of the versions that have an outcome.

    Only one quantity goes into a comparison: where several were recorded, the commonest.

    Args:
        references: Any model references; those that are no registered version have no outcome.

    Raises:
        ModelReferenceError: The registry does not know a version, or refuses.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for reference in references:
        version = registered_version(reference)
        if version is None:
            continue
        try:
            runs = recorded_outcomes(version.tags.get(OUTCOME_TAG))
        except HistoryError as error:  # no reason to compare nothing
            logger.warning("%s has no outcome: %s", reference, error)
            continue
        if runs:
            record = outcome_record(runs[:-1], runs[-1])
            values = found.setdefault(record["quantity"], [])
            values.append((reference, float(record["mean_final"])))
    if not found:
        return {}
    commonest = max(found, key=lambda quantity: len(found[quantity]))
    return dict(found[commonest])
