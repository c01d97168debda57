"""What every test module starts from."""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _mlflow_points_nowhere_afterwards() -> Iterator[None]:
    """MLflow keeps store and experiment for the process; the next module has other ones."""
    yield
    if "mlflow.tracking.fluent" in sys.modules:
        import mlflow

        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        sys.modules["mlflow.tracking.fluent"]._active_experiment_id = None  # type: ignore[attr-defined]
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
