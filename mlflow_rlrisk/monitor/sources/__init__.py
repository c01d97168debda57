"""Where a run's history is read from: a file, a folder, a TensorBoard folder or an MLflow run."""

from mlflow_rlrisk.monitor.sources.files import FileSource
from mlflow_rlrisk.monitor.sources.mlflow_run import MlflowRunSource
from mlflow_rlrisk.monitor.sources.points import HistorySource, StoredLog

__all__ = ["FileSource", "HistorySource", "MlflowRunSource", "StoredLog"]
