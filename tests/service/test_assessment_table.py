"""The row as the truth: what counts, what does not, what happens twice."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from mlflow_rlrisk import ConfigError, RiskReport, log_checkpoint
from service.app import create_app
from service.dashboard.job_view import job_row
from service.deps import Dependencies
from service.publishing import publish
from service.registry.upstream import AwayError
from service.sampling.scoring import Scorer
from service.settings import Limits, ServiceSettings, load_settings
from service.signing.protocol import ASSESSMENT_TAG
from service.tables.assessment_rows import KeyConflictError, QueueFullError, State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from tests.mlflow_server import pointed_at
from tests.service.running_service import BASE, write_settings
from tests.sinks.simulated import simulated_report

REQUEST = {"model": "models:/chains-sft/1", "prompt_set": "p", "verifier": "v", "policy": "default"}


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[AssessmentTable]:
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield AssessmentTable(engine)
    engine.dispose()


def submit(jobs: AssessmentTable, **more: object) -> str:
    given = {"owner": "o", "body_digest": "d", "key": None, "max_open": 9, "max_open_per_owner": 9}
    found, _ = jobs.submit(REQUEST, **(given | more))  # type: ignore[arg-type]
    return found.id


def test_a_worker_that_was_overtaken_writes_nothing(jobs: AssessmentTable) -> None:
    job = submit(jobs)
    old = jobs.begin(job, max_attempts=3)
    new = jobs.begin(job, max_attempts=3)
    assert old is not None
    assert new is not None

    assert not jobs.finish(job, old.fence, State.SUCCEEDED, report="{}", risk_level="low")
    assert jobs.finish(job, new.fence, State.SUCCEEDED, report="{}", risk_level="high")
    assert not jobs.finish(job, new.fence, State.FAILED, error_code="late")

    found = jobs.find(job)
    assert found is not None
    assert (found.state, found.risk_level) == (State.SUCCEEDED, "high")


def test_what_is_cancelled_stays_cancelled(jobs: AssessmentTable) -> None:
    job = submit(jobs)
    begun = jobs.begin(job, max_attempts=3)
    assert begun is not None
    jobs.cancel(job)

    assert not jobs.finish(job, begun.fence, State.SUCCEEDED, report="{}", risk_level="low")
    assert jobs.begin(job, max_attempts=3) is None
    assert jobs.report(job) is None


def test_attempts_without_progress_end_as_failed_never_as_a_verdict(jobs: AssessmentTable) -> None:
    job = submit(jobs)
    for _ in range(3):
        assert jobs.begin(job, max_attempts=3) is not None

    assert jobs.begin(job, max_attempts=3) is None
    found = jobs.find(job)
    assert found is not None
    assert (found.state, found.error_code) == (State.FAILED, "worker_lost")
    assert found.risk_level is None


def test_an_attempt_that_is_put_back_counts_no_deaths_from_before_its_progress(
    jobs: AssessmentTable,
) -> None:
    job = submit(jobs)
    for _ in range(3):  # two workers died
        begun = jobs.begin(job, max_attempts=3)
    assert begun is not None
    jobs.update(job, begun.fence, attempts=0)  # the third brought a graded prompt

    assert jobs.put_back(job, begun.fence)  # and is stopped by SIGTERM

    found = jobs.find(job)
    assert found is not None
    assert found.attempts == 0


@pytest.mark.parametrize("end", ["cancelled", "worker_lost"])
def test_what_was_fetched_for_an_assessment_does_not_outlive_it(
    jobs: AssessmentTable, tmp_path: Path, end: str
) -> None:
    config = write_settings(tmp_path, "http://127.0.0.1:9")
    scorer = Scorer(jobs, load_settings(config), lambda: False)
    job = submit(jobs)
    for _ in range(3):  # as many as may die
        assert jobs.begin(job, max_attempts=3) is not None
    if end == "cancelled":
        jobs.cancel(job)
    model = scorer.folder(job) / "model" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"a large checkpoint")

    assert scorer.score(job)

    assert not scorer.folder(job).exists()


def test_a_key_belongs_to_its_owner_and_the_queue_has_an_end(jobs: AssessmentTable) -> None:
    first = submit(jobs, key="k")

    assert submit(jobs, key="k") == first
    assert submit(jobs, key="k", owner="another") != first
    with pytest.raises(KeyConflictError):
        submit(jobs, key="k", body_digest="other")
    with pytest.raises(QueueFullError):
        submit(jobs, max_open=2)
    with pytest.raises(QueueFullError):
        submit(jobs, max_open_per_owner=1)
    assert submit(jobs, key="k", max_open=1) == first  # a repetition is not new


def test_pages_hold_everything_once_also_what_was_accepted_at_the_same_time(
    jobs: AssessmentTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that is set back, or is coarse, gives two rows the same time.
    monkeypatch.setattr("service.tables.assessments.time.time", lambda: 1000.1)
    same = {submit(jobs) for _ in range(3)}
    monkeypatch.setattr("service.tables.assessments.time.time", lambda: 1000.2)
    newest = submit(jobs)
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    client = create_app(settings, Dependencies(jobs=jobs)).test_client()

    def page(**query: object) -> tuple[list[str], dict[str, object]]:
        told = client.get("/v1/assessments", query_string={"limit": 2, **query}).get_json()
        following = {"before": told["next_before"], "before_id": told["next_before_id"]}
        return [each["id"] for each in told["assessments"]], following

    first, following = page()
    second, after = page(**following)
    third, end = page(**after)

    assert [first[0], third] == [newest, []]
    assert sorted([*first[1:], *second]) == sorted(same)
    assert end == {"before": None, "before_id": None}
    assert page(before=1000.1)[0] == []  # by the time alone: what is older
    assert client.get("/v1/assessments?before_id=%00").status_code == 422


def test_the_report_of_what_was_accepted_last_decides_whatever_the_clock_says(
    jobs: AssessmentTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a clock that was a day ahead was set right, the older report promoted for a day.
    def assessed(level: str) -> str:
        job = submit(jobs)
        begun = jobs.begin(job, max_attempts=3)
        assert begun is not None
        jobs.update(job, begun.fence, model_name="m", model_version="1")
        jobs.finish(job, begun.fence, State.SUCCEEDED, report="{}", risk_level=level)
        return job

    monkeypatch.setattr("service.tables.assessments.time.time", lambda: 2.0e9)
    older = assessed("low")
    monkeypatch.setattr("service.tables.assessments.time.time", lambda: 1.9e9)
    newer, last = assessed("high"), submit(jobs)

    latest = jobs.latest_report("m", "1")
    assert latest is not None
    assert latest.id == newer
    assert [each.id for each in jobs.page()] == [last, newer, older]
    assert jobs.waiting(State.QUEUED) == [last]


def settings_of(tracking_uri: str, folder: Path) -> ServiceSettings:
    data_dir = str(folder / "data")
    return ServiceSettings(
        tracking_uri=tracking_uri, data_dir=data_dir, prompt_sets={}, verifiers={}
    )


def finished(jobs: AssessmentTable, report: RiskReport) -> str:
    job = submit(jobs)
    begun = jobs.begin(job, max_attempts=3)
    assert begun is not None
    level = str(report.risk_level)
    jobs.finish(job, begun.fence, State.SUCCEEDED, report=report.to_json(), risk_level=level)
    return job


def test_publishing_waits_for_mlflow_and_leaves_one_run_however_often(
    jobs: AssessmentTable, registry: str, tmp_path: Path
) -> None:
    log_checkpoint(BASE, "published")
    simulated = simulated_report()
    place = {"registered_name": "published", "version": "1", "model_id": None}
    report = replace(simulated, provenance=replace(simulated.provenance, **place))
    job = finished(jobs, report)
    there = settings_of(registry, tmp_path)
    away = there.model_copy(update={"tracking_uri": "sqlite:////dev/null/mlflow.db"})

    try:
        assert publish(jobs, away, job, tmp_path / "none") is False
        waiting = jobs.find(job)
        assert waiting is not None
        assert waiting.published_at is None
        assert waiting.publish_error
        assert "/dev/null" not in waiting.publish_error
    finally:
        mlflow.set_tracking_uri(registry)
        mlflow.set_registry_uri(registry)
    # A death before the row says so: the run is there, and the next attempt finds it.
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rlrisk")
    assert experiment is not None
    half = client.create_run(experiment.experiment_id, tags={ASSESSMENT_TAG: job})
    for _ in range(2):
        assert publish(jobs, there, job, tmp_path / "none") is True

    query = f"tags.`{ASSESSMENT_TAG}` = '{job}'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    done = jobs.find(job)
    assert done is not None
    assert run.info.run_id == half.info.run_id == done.run_id
    assert run.data.metrics


def test_the_report_of_a_version_that_was_removed_meanwhile_is_published_and_says_so(
    jobs: AssessmentTable, registry: str, tmp_path: Path
) -> None:
    # It was tried once a minute for ever, and its run never ended.
    log_checkpoint(BASE, "removed")
    simulated = simulated_report()
    place = {"registered_name": "removed", "version": "1", "model_id": None}
    job = finished(jobs, replace(simulated, provenance=replace(simulated.provenance, **place)))
    client = mlflow.MlflowClient()
    client.delete_model_version("removed", "1")
    settings = settings_of(registry, tmp_path)

    assert publish(jobs, settings, job, tmp_path / "none") is True

    done = jobs.find(job)
    assert done is not None
    assert done.published_at is not None
    assert str(done.publish_error).startswith("not shown: version 1 of removed")
    assert job_row(done)["why"] == done.publish_error  # the page does not call it unpublished
    assert client.get_run(str(done.run_id)).info.status == "FINISHED"


def away(*_: object, **__: object) -> None:
    raise AwayError("it is away")


def test_a_clock_that_is_set_forward_ends_no_wait_for_mlflow(
    jobs: AssessmentTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.sampling.scoring.in_time", away)
    settings = settings_of("http://127.0.0.1:9", tmp_path)
    settings = settings.model_copy(update={"limits": Limits(min_free_disk_bytes=0)})
    scorer, job = Scorer(jobs, settings, lambda: False), submit(jobs)
    now, ticks, waits_s = time.time(), time.monotonic(), settings.limits.wall_s + 1

    def score() -> tuple[State, str, str | None]:
        with pointed_at(settings.tracking_uri):
            assert scorer.score(job)
        found = jobs.find(job)
        assert found is not None
        return found.state, found.stage, found.error_code

    waits = (State.QUEUED, "wait for MLflow", None)
    assert score() == waits
    monkeypatch.setattr("time.time", lambda: now + waits_s)
    assert score() == waits
    monkeypatch.setattr("time.monotonic", lambda: ticks + 2 * waits_s)
    assert score() == (State.FAILED, "done", "upstream")


def test_settings_that_no_assessment_could_use_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        ServiceSettings(
            tracking_uri="x",
            prompt_sets={},
            verifiers={},
            assessment={"sampling": {"temperature": -1}},
        )
    with pytest.raises(ConfigError, match="unknown setting"):
        ServiceSettings(tracking_uri="x", prompt_sets={}, verifiers={}, debug=True)


def test_a_settings_file_that_says_two_things_is_refused(tmp_path: Path) -> None:
    # The second address would win silently, and the reports would go there.
    file = tmp_path / "service.yaml"
    file.write_text("tracking_uri: http://a\ntracking_uri: http://b\n")

    with pytest.raises(ConfigError, match="a key stands twice"):
        load_settings(file)
