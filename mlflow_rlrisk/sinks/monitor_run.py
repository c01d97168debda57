"""A judgement onto the MLflow run that it judges: tags, the annotated curves, JSON.

Writing the same again leaves the same: the tags are replaced, the artifacts overwritten.
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlflow_rlrisk.monitor.judgement import Judgement
from mlflow_rlrisk.sinks.mlflow_store import FOLDER, mlflow_errors
from mlflow_rlrisk.sinks.plots import run_figure
from mlflow_rlrisk.sinks.verdict import MAX_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALARMS_TAG = "rlrisk.alarms"
"""Alarms of a run as ``R1@128 warn``, in the order in which they were sure; ``none``."""
MONITOR_TAG = "rlrisk.monitor"
"""``go on`` or ``stop from step N: reason``."""
MONITORED_AT_TAG = "rlrisk.monitored_at"

_CURVES = (
    ("entropy", "entropy (nats)"),
    ("zero_variance", "dead groups"),
    ("success", "success"),
)


def log_judgement(
    run_id: str, judgement: Judgement, *, client: "MlflowClient | None" = None
) -> None:
    """Write alarms as tags and the annotated curves as artifacts of the run.

    Args:
        run_id: The run that was judged.
        judgement: What was found.
        client: Asks MLflow; one of the server in use where it is absent.

    Raises:
        SinkError: MLflow refuses.
    """
    import mlflow

    client = client or mlflow.MlflowClient()
    with mlflow_errors(f"the judgement cannot be written to run {run_id}"):
        for key, value in judgement_tags(judgement).items():
            client.set_tag(run_id, key, value)
        chart = judgement_chart(judgement)
        if chart is not None:
            client.log_text(run_id, chart, f"{FOLDER}/monitor.svg")
        client.log_text(
            run_id, json.dumps(judgement.to_dict(), allow_nan=False), f"{FOLDER}/monitor.json"
        )


def judgement_tags(judgement: Judgement) -> dict[str, str]:
    """The tags of a judged run."""
    alarms = [f"{a.rule}@{a.step} {a.severity}" for a in judgement.alarms]
    stop = judgement.stop
    word = "go on" if stop.step is None else f"stop from step {stop.step}: {stop.reason}"
    return {
        ALARMS_TAG: (", ".join(alarms) or "none")[:MAX_TAG],
        MONITOR_TAG: word[:MAX_TAG],
        MONITORED_AT_TAG: datetime.now(UTC).isoformat(timespec="seconds"),
    }


def judgement_chart(judgement: Judgement) -> str | None:
    """The run's curves with its alarms as SVG; ``None`` where there is no curve."""
    curves = [
        (title, track.steps, track.values)
        for name, title in _CURVES
        if (track := judgement.curves.get(name)) is not None
    ]
    alarms = sorted((alarm.step, alarm.rule) for alarm in judgement.alarms)
    return run_figure(curves, list(dict.fromkeys(alarms))) if curves else None
