"""An MLflow that sends a byte now and then for ever: no scoring slot is held by it."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk import ModelSource
from service.registry import bounded_calls
from service.registry.upstream import AwayError, in_time, point_mlflow
from service.sampling.intake import fetch
from service.sampling.scoring import Scorer
from service.settings import Limits, load_settings
from service.tables.assessment_rows import State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from tests.service.running_service import write_settings

REQUEST = {"model": "models:/m/1", "prompt_set": "heldout", "verifier": "chains"}


class _Dripping(BaseHTTPRequestHandler):
    """MLflow, whose ``drips`` come a byte at a time: no limit on one read ends that."""

    drips = ""
    is_over = threading.Event()

    def do_GET(self) -> None:
        body = json.dumps(
            {"files": [{"path": "model.safetensors", "file_size": 9, "is_dir": False}]}
        ).encode()
        if self.drips not in self.path:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            while not self.is_over.wait(0.05):
                self.wfile.write(b" ")
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(bounded_calls, "CALL_LIMIT_S", 1.5)
    monkeypatch.setattr(_Dripping, "is_over", threading.Event())
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Dripping)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    _Dripping.is_over.set()
    server.shutdown()
    server.server_close()


def test_a_registry_that_drips_gives_the_slot_to_others_and_counts_no_attempt(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Dripping, "drips", "")  # everything
    settings = load_settings(write_settings(tmp_path, address))
    jobs = AssessmentTable(open_database(settings.database))
    row, _ = jobs.submit(
        REQUEST | {"policy": "default"},
        owner="ann",
        body_digest="0" * 64,
        key=None,
        max_open=9,
        max_open_per_owner=9,
    )

    begun = time.monotonic()
    Scorer(jobs, settings, lambda: False).score(row.id)

    assert time.monotonic() - begun < 30
    found = jobs.find(row.id)
    assert found is not None
    assert (found.state, found.stage, found.attempts) == (State.QUEUED, "wait for MLflow", 0)


def test_a_file_that_drips_is_given_up_and_what_came_of_it_is_not_taken(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Dripping, "drips", "model.safetensors")
    point_mlflow(load_settings(write_settings(tmp_path, address)))
    source = ModelSource(reference="models:/m/1", artifact_uri="mlflow-artifacts:/1/a")
    folder = tmp_path / "assessment" / "model"

    with pytest.raises(AwayError, match=r"no end of its answer within 1\.5"):
        fetch(source, folder, limits=Limits())

    assert list(folder.iterdir()) == []


def test_whoever_cancels_need_not_wait_for_an_answer_that_never_ends(address: str) -> None:
    stopped = RuntimeError("cancelled")

    def cancelled() -> None:
        raise stopped

    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="cancelled"):
        in_time(_Dripping.is_over.wait, 60, keep_waiting=cancelled)

    assert time.monotonic() - begun < 10


def test_calls_that_never_end_are_not_begun_without_end(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_calls, "MAX_UNDER_WAY", 2)
    for _ in range(2):
        with pytest.raises(AwayError, match="no end of its answer"):
            in_time(_Dripping.is_over.wait, 0.05)

    with pytest.raises(AwayError, match="calls to it do not end"):
        in_time(lambda: 1, 60)

    _Dripping.is_over.set()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            assert in_time(lambda: 1, 60) == 1
            return
        except AwayError:
            time.sleep(0.05)
    raise AssertionError("the ended calls still count")
