"""PromptStatistics -> RiskReport."""

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
    "Component",
    "ExampleRollout",
    "Metric",
    "Provenance",
    "RiskLevel",
    "RiskReport",
]
