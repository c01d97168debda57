"""A lineage into MLflow: a parent run with the page, a child run for each version."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_rlrisk.lineage import LineageReport
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.sinks.mlflow_run import log_report
from mlflow_rlrisk.sinks.mlflow_store import FOLDER, mlflow_errors, own_run
from mlflow_rlrisk.sinks.registry import tag_version
from mlflow_rlrisk.sinks.verdict import MAX_TAG

if TYPE_CHECKING:
    from mlflow_rlrisk.assessment.wiring import Assessment


def log_lineage(
    lineage: LineageReport, assessments: "Sequence[Assessment]", pages: Sequence[str], page: str
) -> str:
    """Write the lineage to a parent run, each report to a child run, verdicts to the versions.

    Args:
        lineage: The lineage.
        assessments: Its members' assessments, in any order.
        pages: Their report pages, in the same order.
        page: The lineage page.

    Returns:
        Id of the parent run.

    Raises:
        SinkError: MLflow refuses.
    """
    import mlflow

    client = mlflow.MlflowClient()
    with own_run(client, f"rlrisk lineage of {counted(len(lineage.names), 'version')}") as parent:
        for assessment, own_page in zip(assessments, pages, strict=True):
            _log_member(assessment, own_page, parent)
        with mlflow_errors(f"the lineage cannot be written to run {parent}"):
            with tempfile.TemporaryDirectory(prefix="rlrisk-") as folder:
                Path(folder, "lineage.html").write_text(page, encoding="utf-8")
                text = json.dumps(lineage.to_dict(), ensure_ascii=False, allow_nan=False)
                Path(folder, "lineage.json").write_text(text, encoding="utf-8")
                client.log_artifacts(parent, folder, FOLDER)
            for key, value in lineage_tags(lineage).items():
                client.set_tag(parent, key, value[:MAX_TAG])
    return parent


def lineage_tags(lineage: LineageReport) -> dict[str, str]:
    """What the parent run says without opening the page."""
    choice = lineage.choice
    return {
        "rlrisk.start_from": choice.start_from or "none",
        "rlrisk.best_pass_at_1": choice.best_pass_at_1 or "undefined",
        "rlrisk.next_steps": "\n".join(choice.next_steps),
        "rlrisk.num_inversions": str(len(lineage.inversions)),
    }


def _log_member(assessment: "Assessment", page: str, parent: str) -> None:
    import mlflow

    report = assessment.report
    client = mlflow.MlflowClient()
    name = f"rlrisk {report.provenance.model_reference}"[:250]
    with own_run(client, name, parent) as run_id:
        logged = log_report(report, run_id=run_id, rollouts=assessment.folder, page=page)
        if report.provenance.version is not None:
            tag_version(report, report_uri=logged.report_uri)
