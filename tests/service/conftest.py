from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_rlrisk import log_checkpoint
from tests.mlflow_server import sqlite_store
from tests.service.running_service import BASE


@pytest.fixture(scope="module")
def registry(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow store with the demo's base model as ``models:/chains-sft/1``.

    A module's own, for MLflow's active store and experiment are the process's: kept over several
    modules, each of them could change it for the next.
    """
    with sqlite_store(database, tmp_path_factory.mktemp("registry")) as uri:
        log_checkpoint(BASE, "chains-sft")
        yield uri
