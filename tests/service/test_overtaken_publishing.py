"""A worker that only seemed dead goes on publishing beside the one that took over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

import service.publishing
from mlflow_rlrisk import RiskReport, log_checkpoint
from mlflow_rlrisk.report import RiskLevel
from service.publishing import publish
from service.signing.protocol import ASSESSMENT_TAG
from service.tables.assessments import AssessmentTable
from tests.service.running_service import BASE
from tests.service.test_assessment_table import finished, jobs, settings_of
from tests.sinks.simulated import simulated_report

__all__ = ["jobs"]


@pytest.fixture(autouse=True)
def _each_is_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one, the second would get what the first was answered."""
    monkeypatch.setattr(service.publishing, "timed", lambda client, **_: client)


def report_on(name: str, **changes: Any) -> RiskReport:
    log_checkpoint(BASE, name)
    report = simulated_report()
    place = {"registered_name": name, "version": "1", "model_id": None}
    return replace(report, provenance=replace(report.provenance, **place), **changes)


def pausing_once(call: Callable[..., Any], meanwhile: Callable[[], object]) -> Callable[..., Any]:
    """The call, before whose first time something else happens."""
    paused: list[bool] = []

    def slow(*args: Any, **named: Any) -> Any:
        if not paused:
            paused.append(True)
            meanwhile()
        return call(*args, **named)

    return slow


def runs_of(job: str) -> list[Any]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rlrisk")
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], f"tags.`{ASSESSMENT_TAG}` = '{job}'")
    )


def test_two_that_both_found_no_run_leave_one(
    jobs: AssessmentTable, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(jobs, report_on("twice"))
    settings = settings_of(registry, tmp_path)
    made = mlflow.MlflowClient.create_run
    other = pausing_once(made, lambda: publish(jobs, settings, job, tmp_path / "none"))
    monkeypatch.setattr(mlflow.MlflowClient, "create_run", other)

    while not publish(jobs, settings, job, tmp_path / "none"):
        pass

    (run,) = runs_of(job)
    done = jobs.find(job)
    assert done is not None
    assert (done.run_id, run.info.status) == (run.info.run_id, "FINISHED")


def test_a_run_that_was_made_at_the_same_moment_is_the_one_of_both(
    jobs: AssessmentTable, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has made it and is at the next step: neither is in the way of the other."""
    job = finished(jobs, report_on("beside"))
    settings = settings_of(registry, tmp_path)
    chosen = AssessmentTable.choose_run
    other = pausing_once(chosen, lambda: publish(jobs, settings, job, tmp_path / "none"))
    monkeypatch.setattr(AssessmentTable, "choose_run", other)

    while not publish(jobs, settings, job, tmp_path / "none"):
        pass

    (run,) = runs_of(job)
    assert run.data.metrics


def test_a_verdict_of_long_ago_is_not_put_over_a_newer_one(
    jobs: AssessmentTable, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_on("slow")
    older, newer = (replace(report, risk_level=level) for level in (RiskLevel.LOW, RiskLevel.HIGH))
    first, second = finished(jobs, older), finished(jobs, newer)
    settings = settings_of(registry, tmp_path)

    def meanwhile() -> None:
        for each in (first, second):
            assert publish(jobs, settings, each, tmp_path / "none")

    slow = pausing_once(service.publishing.log_report, meanwhile)
    monkeypatch.setattr(service.publishing, "log_report", slow)

    while not publish(jobs, settings, first, tmp_path / "none"):
        pass

    tags = mlflow.MlflowClient().get_model_version("slow", "1").tags
    assert tags["rlrisk.risk_level"] == "high"
