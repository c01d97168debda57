"""Assessments from the request to MLflow: real model, real store, real processes."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_rlrisk import AssessmentConfig, LookaheadConfig, RiskReport, assess, log_checkpoint
from tests.service.running_service import (
    ASSESSMENT,
    BASE,
    VERIFIER,
    Client,
    RunningService,
    running_service,
    wait_for,
    write_settings,
)

pytestmark = pytest.mark.xdist_group("jobs")  # its server is started once

RUN = LookaheadConfig(learning_rate=1e-4, run_steps=20, prompts_per_step=4, steps=2, repeats=60)
"""Tried often enough to be seen at it."""

SPY = '''
import json, os, time


def slow(prompts, completions, **columns):
    """Tells what it sees of the environment, then takes long enough to be killed in between."""
    with open(__file__ + ".env", "w") as stream:
        json.dump(dict(os.environ), stream)
    time.sleep(0.1)
    from mlflow_rlrisk.demo.task import reward
    return reward(prompts=prompts, completions=completions, **columns)
'''


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, registry: str) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "spy.py").write_text(SPY)
    artifacts = str(Path(registry.removeprefix("sqlite:///")).parent / "artifacts")
    config = write_settings(
        folder,
        registry,
        artifact_roots=[artifacts],
        model_roots=[str(BASE.parent)],
        verifiers={"chains": VERIFIER, "slow": "spy.py:slow"},
        lookaheads={"grpo": RUN.model_dump(mode="json")},
        limits={"max_attempts": 50},
        writable=["."],  # the spy notes what it saw
    )
    with running_service(config, environment={"MLFLOW_TRACKING_PASSWORD": "hunter2"}) as running:
        yield running


@pytest.fixture(scope="module")
def direct(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> RiskReport:
    """The same assessment without any service."""
    prompts = service.config.parent / "prompts.jsonl"
    return assess(BASE, prompts, verifier=VERIFIER, config=AssessmentConfig(**ASSESSMENT))


def runs_of(assessment_id: str) -> list[Any]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rlrisk")
    assert experiment is not None
    query = f"tags.`rlrisk.assessment_id` = '{assessment_id}'"
    return list(client.search_runs([experiment.experiment_id], query))


def figures(report: RiskReport) -> dict[str, Any]:
    return {name: metric.value for name, metric in report.metrics.items()}


def test_an_assessment_gives_the_report_that_assess_gives_and_is_published_once(
    service: RunningService, direct: RiskReport
) -> None:
    client = Client(service.url)

    asked = client.assess("models:/chains-sft/1")
    events = client.ask("GET", f"{asked.headers['Location']}/events", timeout_s=90).body.decode()
    done = client.wait(asked.json["id"])
    text = client.ask("GET", f"{asked.headers['Location']}/report").body.decode()
    page = client.ask("GET", f"{asked.headers['Location']}/report", Accept="text/html")
    decision = client.ask("POST", "/v1/decisions", {"model": "models:/chains-sft/1"}).json

    report = RiskReport.from_json(text)
    assert figures(report) == figures(direct)
    assert report.provenance.digests == direct.provenance.digests
    assert report.provenance.model_reference == "models:/chains-sft/1"
    assert done["risk_level"] == str(direct.risk_level)
    assert done["progress"]["num_samples_done"] == done["progress"]["num_samples"] == 32
    assert done["progress"]["pass_at_1"] == pytest.approx(figures(direct)["rlrisk/pass_at_1"])
    last = [line for line in events.splitlines() if line.startswith("data: ")][-1]
    assert "event: done" in events
    assert json.loads(last.removeprefix("data: "))["state"] == "succeeded"
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"<!doctype html>" in page.body[:100]
    for place in (str(service.config.parent), str(BASE.parent)):  # no path of the machine leaves
        assert place not in text + page.body.decode()

    (run,) = runs_of(done["id"])
    assert run.info.run_id == done["run_id"]
    assert run.data.metrics["rlrisk/pass_at_1"] == figures(direct)["rlrisk/pass_at_1"]
    tags = mlflow.MlflowClient().get_model_version("chains-sft", "1").tags
    assert tags["rlrisk.risk_level"] == done["risk_level"] == decision["risk_level"]
    assert decision["assessment_id"] == done["id"]
    assert decision["report_digest"] == report.digest
    (shown,) = client.ask("GET", "/v1/models/chains-sft").json["assessments"]
    assert shown["id"] == done["id"]
    assert not (service.config.parent / "rlrisk-service" / "assessments" / done["id"]).exists()


def test_an_assessment_that_looks_ahead_tells_so_and_publishes_what_it_found(
    service: RunningService, direct: RiskReport
) -> None:
    client = Client(service.url)

    asked = client.assess("models:/chains-sft/1", lookahead="grpo")
    events = client.ask("GET", f"{asked.headers['Location']}/events", timeout_s=90).body.decode()
    done = client.wait(asked.json["id"])

    told = [
        json.loads(line.removeprefix("data: "))
        for line in events.splitlines()
        if line.startswith("data: ")
    ]
    ahead = [each for each in told if each["stage"] == "look ahead"]
    assert ahead
    assert {each["progress"]["eta_s"] for each in ahead} == {None}
    assert (done["state"], done["lookahead"]) == ("succeeded", "grpo")
    text = client.ask("GET", f"{asked.headers['Location']}/report").body.decode()
    report, name = RiskReport.from_json(text), "rlrisk/lookahead_reach"
    assert {**figures(direct), name: figures(report)[name]} == figures(report)
    assert report.provenance.digests == direct.provenance.digests | {"lookahead": RUN.digest()}
    assert str(service.config.parent) not in text
    (run,) = runs_of(done["id"])
    assert run.data.metrics[name] == figures(report)[name]


def test_the_sampling_process_sees_no_credential_and_no_address(service: RunningService) -> None:
    client = Client(service.url)
    body = {"model": str(BASE), "prompt_set": "heldout", "verifier": "slow"}

    done = client.wait(client.ask("POST", "/v1/assessments", body).json["id"])

    seen = json.loads((service.config.parent / "spy.py.env").read_text())
    assert done["state"] == "succeeded"
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert not [name for name in seen if name.startswith(("MLFLOW", "RLRISK"))]
    assert "hunter2" not in json.dumps(seen)


def test_cancelling_ends_the_sampling_process(service: RunningService) -> None:
    client = Client(service.url)
    body = {"model": str(BASE), "prompt_set": "heldout", "verifier": "slow"}
    asked = client.ask("POST", "/v1/assessments", body).json["id"]
    wait_for(lambda: service.pids("service.sampling.child"))
    folder = service.config.parent / "rlrisk-service" / "assessments" / asked
    assert folder.is_dir()

    answer = client.ask("DELETE", f"/v1/assessments/{asked}").json

    assert answer["state"] == "cancelled"
    wait_for(lambda: not service.pids("service.sampling.child"))
    assert client.wait(asked)["state"] == "cancelled"
    assert runs_of(asked) == []
    wait_for(lambda: not folder.exists())  # a checkpoint may have been fetched into it


def test_a_version_whose_files_lie_elsewhere_is_refused(
    service: RunningService, registry: str
) -> None:
    # Whoever registers a version writes its source; here one in a folder that is not listed.
    log_checkpoint(BASE, "elsewhere")
    database = registry.removeprefix("sqlite:///")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE model_versions SET source = ?, storage_location = ? WHERE name = 'elsewhere'",
            (str(service.config.parent), str(service.config.parent)),
        )
    client = Client(service.url)

    done = client.wait(client.assess("models:/elsewhere/1").json["id"])

    assert (done["state"], done["error"]["code"]) == ("failed", "model_uri_refused")
    assert str(service.config.parent) not in json.dumps(done)


def test_a_version_that_is_not_there_fails_with_a_reason(service: RunningService) -> None:
    client = Client(service.url)

    done = client.wait(client.assess("models:/chains-sft/77").json["id"])

    assert (done["state"], done["error"]["code"]) == ("failed", "invalid_model")


def test_kill_9_of_api_worker_and_child_loses_nothing_and_publishes_once(
    service: RunningService, direct: RiskReport
) -> None:
    client = Client(service.url)
    asked = [client.assess("models:/chains-sft/1").json["id"] for _ in range(2)]

    for word in ("service.sampling.child", "--role worker", "--role api", "service.sampling.child"):
        wait_for(lambda word=word: service.pids(word))
        for pid in service.pids(word):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)

    for each in asked:
        done = client.wait(each, limit_s=120)
        assert done["state"] == "succeeded"
        (run,) = runs_of(each)
        assert run.info.run_id == done["run_id"]
        text = client.ask("GET", f"/v1/assessments/{each}/report").body
        assert figures(RiskReport.from_json(text)) == figures(direct)


def test_a_run_is_judged_and_written_to_only_when_asked(service: RunningService) -> None:
    with mlflow.start_run() as run:
        for step in range(40):
            values = {"reward": 0.5, "reward_std": 0.1, "entropy": 0.5 - step * 0.012}
            mlflow.log_metrics({**values, "frac_reward_zero_std": 0.02 * step}, step=step)
    client = Client(service.url)
    path = f"/v1/runs/{run.info.run_id}/monitor"

    read = client.ask("POST", path, {"trainer": "trl"})
    untouched = mlflow.get_run(run.info.run_id).data.tags
    written = client.ask("POST", path, {"trainer": "trl", "write": True})
    absent = client.ask("POST", f"/v1/runs/{'0' * 32}/monitor", {})

    assert read.status == 200, read.body
    assert read.json["alarms"]
    assert "rlrisk.monitor" not in untouched
    assert written.status == 200
    assert "rlrisk.monitor" in mlflow.get_run(run.info.run_id).data.tags
    assert absent.slug == "not-found"


def test_metrics_and_readiness_tell_the_state_of_the_jobs(service: RunningService) -> None:
    client = Client(service.url)

    ready = client.ask("GET", "/readyz").json
    text = client.ask("GET", "/metrics").body.decode()

    assert ready["status"] == "ok"
    assert ready["checks"] == {
        **{"database": "ok", "disk": "ok", "workers": "ok"},
        **{"sandbox": "not configured", "signer": "not configured"},
    }
    succeeded = 'rlrisk_assessments{state="succeeded"} '
    (count,) = [line for line in text.splitlines() if line.startswith(succeeded)]
    listed = client.ask("GET", "/v1/assessments?state=succeeded").json["assessments"]
    assert float(count.removeprefix(succeeded)) == len(listed)


def test_every_api_process_answers_with_the_counts_of_all(service: RunningService) -> None:
    client = Client(service.url)
    livez = 'rlrisk_http_requests_total{method="GET",route="/livez",status="200"} '

    def counted() -> float:
        text = client.ask("GET", "/metrics").body.decode()
        (line,) = [line for line in text.splitlines() if line.startswith(livez)]
        return float(line.removeprefix(livez))

    client.ask("GET", "/livez")  # since the API was started again there was none
    before = counted()
    for _ in range(40):  # a connection each, so that both processes get some
        client.ask("GET", "/livez")

    assert len(service.pids("--role api")) == 3  # one that starts two
    assert {counted() for _ in range(12)} == {before + 40}
