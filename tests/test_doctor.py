"""What ``rlrisk doctor`` says of MLflow's stores."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.mlflow_server import migrated_database


def test_doctor_asks_the_tracking_server_too_where_the_registry_is_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow

    from mlflow_rlrisk import doctor

    registry = f"sqlite:///{migrated_database(tmp_path)}"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:1")
    monkeypatch.setattr(mlflow, "get_registry_uri", lambda: registry)
    known = mlflow.MlflowClient
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: known("http://127.0.0.1:1", registry))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    (found,) = doctor._tracking()

    assert found.status == "problem"
    assert "experiments/search" in found.detail


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("sqlite:///{}", "is a folder"),
        ("sqlite:///{}/nowhere/mlflow.db", "there is no folder"),
        ("sqlite:///{}/no.db", "file is not a database"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", "Connection refused"),
        ("rlrisk+postgresql+psycopg2://me:secret@127.0.0.1:1/db", "Connection refused"),
        ("postgresql+nothing://me:secret@127.0.0.1:1/db", "nothing://me:***@127.0.0.1"),
        ("postgresql+nothing://me:a/se@secret@127.0.0.1:1/db", "nothing://me:***@127.0.0.1"),
        ("postgresql+nothing://me:a secret@127.0.0.1:1/db", "nothing://me:***@127.0.0.1"),
    ],
)
def test_doctor_names_a_store_that_cannot_be_used_and_tells_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, problem: str
) -> None:
    import mlflow

    from mlflow_rlrisk import doctor

    (tmp_path / "no.db").write_text("no database")
    uri = place.format(tmp_path)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    monkeypatch.setattr(mlflow, "get_registry_uri", lambda: uri)
    known = mlflow.MlflowClient
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: known(uri, uri))

    waits: list[float] = []  # MLflow asks a database that is away ten times, for 100 s
    monkeypatch.setattr("mlflow.store.db.utils.time", SimpleNamespace(sleep=waits.append))

    (found,) = doctor._tracking()

    assert found.status == "problem"
    assert problem in found.detail
    assert "secret" not in found.detail
    assert waits == []
