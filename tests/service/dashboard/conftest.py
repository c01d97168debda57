from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_server import sqlite_store
from tests.service.dashboard_world import DashboardWorld, make_world


@pytest.fixture(scope="package")
def world(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorld]:
    folder = tmp_path_factory.mktemp("dashboard")
    with sqlite_store(database, folder) as uri:
        yield make_world(uri, folder)
