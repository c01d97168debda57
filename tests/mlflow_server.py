"""Real MLflow stores for tests: a migrated SQLite file to copy, and one real server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # MLflow warns of a type hint of its own
    import mlflow.pyfunc

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

START_LIMIT_S = 90.0


def migrated_database(folder: Path) -> Path:
    """Write a SQLite file with MLflow's tables once; a copy of it starts in milliseconds."""
    path = folder / "template.db"
    store = SqlAlchemyStore(f"sqlite:///{path}", (folder / "artifacts").as_uri())
    store.engine.dispose()
    return path


@contextmanager
def sqlite_store(template: Path, folder: Path) -> Iterator[str]:
    """Point MLflow at a fresh SQLite store under ``folder``; yields its URI."""
    path = folder / "mlflow.db"
    shutil.copy(template, path)
    uri = f"sqlite:///{path}"
    with pointed_at(uri):
        mlflow.create_experiment("rlrisk", artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment("rlrisk")
        yield uri


@contextmanager
def pointed_at(uri: str) -> Iterator[None]:
    """Use ``uri`` for tracking and registry, and leave no run open behind."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


@contextmanager
def mlflow_server(
    folder: Path,
    template: Path | None = None,
    *,
    store_uri: str | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    workers: int = 1,
) -> Iterator[str]:
    """Run ``mlflow server`` (one worker, SQLite, artifacts by proxy); yields its URL."""
    database = folder / "server.db"
    if template is not None:
        shutil.copy(template, database)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", store_uri or f"sqlite:///{database}"),
        *("--workers", str(workers), "--artifacts-destination", str(folder / "artifacts")),
        *options,
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    variables = {**os.environ, **quiet, **(environment or {})}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=variables, cwd=folder, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(process, url, folder / "server.log")
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # uvicorn's worker is a child of its own
            try:
                process.wait(timeout=3)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_healthy(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.25)
    raise RuntimeError(f"mlflow server did not start:\n{log.read_text()[-2000:]}")
