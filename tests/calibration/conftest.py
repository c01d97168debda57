from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_server import migrated_database, sqlite_store


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_database(tmp_path_factory.mktemp("database"))


@pytest.fixture
def store(database: Path, tmp_path: Path) -> Iterator[str]:
    with sqlite_store(database, tmp_path) as uri:
        yield uri
