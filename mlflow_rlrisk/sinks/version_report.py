"""The report that a model version names, or that a file holds."""

from pathlib import Path

from mlflow_rlrisk.errors import SinkError
from mlflow_rlrisk.model_reference import registered_version
from mlflow_rlrisk.report_record import RiskReport
from mlflow_rlrisk.sinks.mlflow_store import mlflow_errors


def report_of(reference: str) -> RiskReport:
    """The report that a version's ``rlrisk.report_uri`` points to, or that a file holds.

    Args:
        reference: ``models:/...`` or the path of a ``report.json``.

    Raises:
        SinkError: The version has no report, or it cannot be fetched.
        ReportError: What was fetched is no report.
    """
    if not reference.startswith("models:/"):
        try:
            return RiskReport.from_json(Path(reference).read_text(encoding="utf-8"))
        except OSError as error:
            raise SinkError(f"report {reference} cannot be read: {error}") from error
    from mlflow.artifacts import load_text

    version = registered_version(reference)
    if version is None:
        raise SinkError(f"{reference}: only a registered version names its report")
    uri = version.tags.get("rlrisk.report_uri")
    if uri is None:
        raise SinkError(f"{reference} was not assessed with --register: it names no report")
    if not uri.startswith("runs:/"):  # a tag is anybody's: no file or address of their choice
        raise SinkError(f"{reference}: rlrisk.report_uri={uri!r}: runs:/<id>/... is needed")
    with mlflow_errors(f"the report of {reference} cannot be fetched"):
        text: str = load_text(uri.replace("report.html", "report.json"))
    return RiskReport.from_json(text)
