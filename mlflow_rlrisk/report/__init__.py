"""PromptStatistics -> `RiskReport`: the verdict with its reasons and what to do next."""

from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.report.summary import summarize
from mlflow_rlrisk.report_record import (
    SCHEMA_VERSION,
    Component,
    ExampleRollout,
    Metric,
    Provenance,
    RiskLevel,
    RiskReport,
)

__all__ = [
    "SCHEMA_VERSION",
    "AssessmentContext",
    "Component",
    "Evidence",
    "ExampleRollout",
    "Metric",
    "Provenance",
    "RiskLevel",
    "RiskReport",
    "summarize",
]
