import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_server import migrated_database, sqlite_store
from tests.monitor.histories import pilot_rows


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_database(tmp_path_factory.mktemp("database"))


@pytest.fixture
def store(database: Path, tmp_path: Path) -> Iterator[str]:
    with sqlite_store(database, tmp_path) as uri:
        yield uri


@pytest.fixture
def dying(tmp_path: Path) -> Path:
    """The log of the published run that died, as JSONL."""
    path = tmp_path / "dying.jsonl"
    path.write_text(
        "".join(json.dumps({"step": s, **metrics}) + "\n" for s, metrics in pilot_rows())
    )
    return path
