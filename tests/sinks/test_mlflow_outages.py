"""What MLflow or a store refuses in the middle ends in a sentence about what was refused first."""

import logging
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_rlrisk.errors import SinkError
from mlflow_rlrisk.sinks.mlflow_run import log_report
from mlflow_rlrisk.sinks.mlflow_store import check_writable
from tests.sinks.simulated import simulated_report

pytestmark = pytest.mark.mlflow


class BreakingClient(MlflowClient):
    """Its database loses the table of runs as soon as the report's files are uploaded."""

    def log_artifacts(self, *arguments: Any, **named: Any) -> None:
        super().log_artifacts(*arguments, **named)
        with sqlite3.connect(self.tracking_uri.removeprefix("sqlite:///")) as database:
            database.execute("ALTER TABLE runs RENAME TO away")


def test_a_store_that_goes_away_in_the_middle_is_told_as_what_could_not_be_written(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SinkError, match=r"the report cannot be written to run .*runs"):
        log_report(simulated_report(), client=BreakingClient())

    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert any("cannot be ended" in message for message in told)


@pytest.fixture
def ftp_that_refuses() -> Iterator[str]:
    """Answers every login with 530, which ``ftplib`` raises as an error of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"220 hello\r\n")
                connection.recv(100)
                connection.sendall(b"530 Login incorrect.\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"ftp://somebody@127.0.0.1:{listener.getsockname()[1]}/artifacts"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_an_artifact_store_that_refuses_is_told_whatever_its_client_library_raises(
    store: str, ftp_that_refuses: str, tmp_path: Path
) -> None:
    mlflow.create_experiment("elsewhere", artifact_location=ftp_that_refuses)
    mlflow.set_experiment("elsewhere")

    with pytest.raises(SinkError, match=r"cannot be written: 530 Login incorrect"):
        check_writable()
    with pytest.raises(SinkError, match=r"the report cannot be written .*530 Login incorrect"):
        log_report(simulated_report())
