"""What every test module starts from."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long texts name no test: those with a key of this process differ in each worker of xdist."""
    return argname if isinstance(val, str | bytes) and len(val) > 80 else None


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


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, to be copied."""
    from tests.mlflow_server import migrated_database

    return migrated_database(tmp_path_factory.mktemp("database"))


@pytest.fixture
def store(database: Path, tmp_path: Path) -> Iterator[str]:
    """A fresh MLflow store, which MLflow points at; its URI."""
    from tests.mlflow_server import sqlite_store

    with sqlite_store(database, tmp_path) as uri:
        yield uri
