"""Clocks of workers that are, or were, ahead: no version stays unseen for it."""

import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from service.settings import ServiceSettings, load_settings
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.triggering.poller import Poller
from tests.mlflow_server import sqlite_store
from tests.service.running_service import write_settings
from tests.service.test_triggers import TRIGGERS, make, models


@pytest.fixture
def registry(database: Path, tmp_path: Path) -> Iterator[mlflow.MlflowClient]:
    (tmp_path / "store").mkdir()
    with sqlite_store(database, tmp_path / "store") as uri:
        yield mlflow.MlflowClient(uri, uri)


@pytest.fixture
def settings(registry: mlflow.MlflowClient, tmp_path: Path) -> ServiceSettings:
    return load_settings(write_settings(tmp_path, registry.tracking_uri, triggers=TRIGGERS))


@pytest.fixture
def jobs(settings: ServiceSettings) -> AssessmentTable:
    return AssessmentTable(open_database(settings.database))


def test_a_worker_whose_clock_is_ahead_of_the_registrys_sees_every_new_version(
    registry: mlflow.MlflowClient,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.triggering.poller.OVERLAP_MS", 0)
    make(registry, "old", 1)
    hour_ns, right = 3600 * 10**9, time.time_ns
    with monkeypatch.context() as wrong:
        wrong.setattr("service.triggering.poller.time.time_ns", lambda: right() + hour_ns)
        Poller(settings, jobs, "a").look()
        time.sleep(0.002)
        make(registry, "sft-a", 1)
        Poller(settings, jobs, "a").look()
        assert models(jobs) == ["models:/sft-a/1"]
    time.sleep(0.002)
    make(registry, "sft-b", 1)

    Poller(settings, jobs, "a").look()

    assert models(jobs) == ["models:/sft-a/1", "models:/sft-b/1"]


def test_a_lease_of_a_clock_that_was_wrong_keeps_nobody_from_looking(
    registry: mlflow.MlflowClient,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tomorrow = time.time() + 24 * 3600
    with monkeypatch.context() as wrong:
        wrong.setattr("service.tables.poller_state.time.time", lambda: tomorrow)
        Poller(settings, jobs, "a").turn()
    make(registry, "sft-a")

    Poller(settings, jobs, "b").turn()

    assert models(jobs) == ["models:/sft-a/1"]
