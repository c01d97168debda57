"""What every test module starts from."""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_active_experiment() -> Iterator[None]:
    """MLflow keeps the active experiment for the process; the next module has another store."""
    yield
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if "mlflow.tracking.fluent" in sys.modules:
        sys.modules["mlflow.tracking.fluent"]._active_experiment_id = None  # type: ignore[attr-defined]
