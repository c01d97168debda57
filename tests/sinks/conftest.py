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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder shaped like a trainer's output; nothing may load it, so the weights are bytes."""
    folder = tmp_path / "sft" / "checkpoint-64"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"twice the weights")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "extra").mkdir()
    (folder / "extra" / "special.json").write_text("{}")
    return folder
