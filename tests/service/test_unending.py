"""Answers of MLflow that never end: whoever asked goes on, and what it wanted is done later."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from flask.testing import FlaskClient

from mlflow_rlrisk.attestation import ATTESTATION_TAG, OVERRIDE_TAG
from mlflow_rlrisk.attestation.keys import SigningKey
from mlflow_rlrisk.sinks import mlflow_run
from service.app import create_app
from service.deps import Dependencies
from service.publishing import publish
from service.registry import bounded_calls
from service.registry.bounded_calls import LateError, bounded, num_under_way, timed
from service.registry.reader import RegistryReader
from service.settings import ServiceSettings, load_settings
from service.signing import overrides as override_signing
from service.signing import signer
from service.signing import statements as signer_statements
from service.signing.overrides import signed_override
from service.signing.protocol import ASSESSMENT_TAG, SignerRefusedError
from service.signing.statements import Statements
from service.tables.assessment_rows import State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.overrides import OverrideTable
from service.tables.tokens import TokenTable
from service.triggering import poller
from service.triggering.poller import Poller
from tests.gate.world import World as Gate
from tests.gate.world import checkpoint_folder
from tests.mlflow_server import pointed_at
from tests.service.running_service import write_settings
from tests.service.unending_mlflow import OnceEach, Request, UnendingMlflow, unending_mlflow
from tests.sinks.simulated import graded_groups, simulated_report, stored

pytestmark = pytest.mark.xdist_group("unending")  # its server is started once

MODEL = "unending"
SHORT_S = 0.3
METRICS = {"reward": 0.5, "entropy": 1.0}
TRIGGERS = {
    "new": {
        "models": [MODEL],
        "aliases": ["candidate"],
        "tags": {"assess": "yes"},
        "prompt_set": "heldout",
        "verifier": "chains",
    }
}


@pytest.fixture(scope="module")
def server(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnendingMlflow]:
    folder = tmp_path_factory.mktemp("unending")
    shutil.copy(database, folder / "mlflow.db")
    with (
        unending_mlflow(f"sqlite:///{folder}/mlflow.db", folder / "artifacts") as server,
        pointed_at(server.url),
    ):
        client = mlflow.MlflowClient()
        client.create_registered_model(MODEL)
        experiment = client.create_experiment(MODEL)  # the first one's artifacts are no server's
        run_id = client.create_run(experiment).info.run_id
        client.log_artifacts(run_id, str(checkpoint_folder(folder / "files")), "checkpoint")
        client.create_model_version(MODEL, f"runs:/{run_id}/checkpoint", run_id)
        yield server


@pytest.fixture
def settings(
    server: UnendingMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServiceSettings]:
    monkeypatch.setattr(bounded_calls, "CHECK_S", 0.05)
    more = {"triggers": TRIGGERS, "poll_interval_s": 1e-6}
    yield load_settings(write_settings(tmp_path, server.url, **more))
    server.drips = None
    server.let_go()


@pytest.fixture
def jobs(settings: ServiceSettings) -> AssessmentTable:
    return AssessmentTable(open_database(settings.database))


def persist(
    server: UnendingMlflow, monkeypatch: pytest.MonkeyPatch, attempt: Callable[[], bool]
) -> set[Request]:
    """Attempt until it is done, while every kind of answer fails to end once.

    What is late without that, on a machine that is busy, gets longer.
    """
    server.drips = fault = OnceEach()
    limit_s = SHORT_S
    while True:
        for name in ("CALL_LIMIT_S", "REQUEST_LIMIT_S"):
            monkeypatch.setattr(bounded_calls, name, limit_s)
        for module in (override_signing, signer_statements):
            monkeypatch.setattr(module, "ANSWER_LIMIT_S", 2 * limit_s)
        num_seen = len(fault.seen)
        is_done = attempt()
        assert not is_done or len(fault.seen) == num_seen
        if is_done:
            server.drips = None
            return fault.seen
        assert limit_s < 60
        limit_s = SHORT_S if len(fault.seen) > num_seen else 2 * limit_s
        until(lambda: num_under_way() == 0)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class _Signer:
    def is_there(self) -> bool:
        return True

    def attest(self, assessment_id: str, run_id: str) -> str:
        return f"an envelope for {assessment_id}"

    def override(self, override_id: str) -> str:
        raise AssertionError("publishing asks for no override")


def test_whichever_answer_to_publishing_never_ends_the_report_arrives_once(
    server: UnendingMlflow,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlflow_run, "render", lambda _: "a page costs seconds, and is not read")
    client, groups = mlflow.MlflowClient(), graded_groups()[:3]
    report = simulated_report(groups)
    name = {"registered_name": MODEL, "version": "1", "model_id": None}
    report = replace(report, provenance=replace(report.provenance, **name))
    job, _ = jobs.submit(
        {"model": f"models:/{MODEL}/1"},
        owner="o",
        body_digest="d",
        key=None,
        max_open=9,
        max_open_per_owner=9,
    )
    begun = jobs.begin(job.id, max_attempts=3)
    assert begun is not None
    level = str(report.risk_level)
    jobs.finish(job.id, begun.fence, State.SUCCEEDED, report=report.to_json(), risk_level=level)
    stored(groups, tmp_path / "shards" / "rollouts")

    def attempt() -> bool:
        is_done = publish(jobs, settings, job.id, tmp_path / "shards", signer=_Signer())
        found = jobs.find(job.id)
        assert found is not None
        assert (found.published_at is not None) == is_done
        assert is_done or found.publish_error
        return is_done

    kinds = persist(server, monkeypatch, attempt)

    assert len(kinds) > 18  # MLflow is asked for as many things
    experiment = client.get_experiment_by_name(settings.experiment)
    assert experiment is not None
    query = f"tags.`{ASSESSMENT_TAG}` = '{job.id}'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    assert run.info.status == "FINISHED"
    for metric in run.data.metrics:
        assert len(client.get_metric_history(run.info.run_id, metric)) == 1
    runs = [run.info.run_id]
    table = client.load_table(experiment.experiment_id, "rlrisk_prompts.json", runs)
    assert len(table) == len(groups)
    tags = client.get_model_version(MODEL, "1").tags
    assert tags["rlrisk.risk_level"] == level
    assert tags[ATTESTATION_TAG] == f"an envelope for {job.id}"


def test_whichever_answer_to_the_poller_never_ends_each_version_is_started_once(
    server: UnendingMlflow,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poller, "REST_S", 0.0)
    mlflow.MlflowClient().set_registered_model_alias(MODEL, "candidate", "1")
    looking = Poller(settings, jobs, "w")
    looks: list[int | None] = []

    def attempt() -> bool:
        looking.turn()
        looks.append(looking._state.watermark())
        return looks[-1] is not None

    kinds = persist(server, monkeypatch, attempt)

    assert {path.rsplit("/", 2)[-2] for _, path in kinds} == {"model-versions", "registered-models"}
    assert [row.request["model"] for row in jobs.page()] == [f"models:/{MODEL}/1"]


def test_whichever_answer_to_a_judgement_never_ends_the_caller_is_told_to_come_again(
    server: UnendingMlflow,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(MODEL)
    assert experiment is not None
    run_id = client.create_run(experiment.experiment_id).info.run_id
    for step in range(3):
        for metric, value in METRICS.items():
            client.log_metric(run_id, metric, value, step=step)
    caller = create_app(settings, Dependencies(jobs=jobs)).test_client()

    kinds = persist(
        server,
        monkeypatch,
        lambda: answers(caller, f"/v1/runs/{run_id}/monitor", {"write": True}, 200),
    )

    assert any("artifacts" in path for _, path in kinds)
    assert "rlrisk.monitor" in client.get_run(run_id).data.tags


def answers(caller: FlaskClient, path: str, body: dict[str, Any], status: int) -> bool:
    """Whether it answers as it should; else as it must while MLflow does not."""
    answer = caller.post(path, json=body)
    if answer.status_code == status:
        return True
    assert answer.mimetype == "application/problem+json"
    slug = answer.get_json(force=True)["type"].rsplit("/", 1)[1]
    assert (answer.status_code, slug) in ((502, "upstream"), (503, "override-unavailable")), (
        answer.text
    )
    assert int(answer.headers["Retry-After"]) > 0
    return False


class _KeysAtHand(_Signer):
    """Signs in this process what the signer process signs in its own."""

    def __init__(self, settings: ServiceSettings, key: SigningKey) -> None:
        self._settings, self._key = settings, key

    def override(self, override_id: str) -> str:
        engine = open_database(self._settings.database)
        return signed_override(
            override_id,
            overrides=OverrideTable(engine),
            tokens=TokenTable(engine),
            settings=self._settings,
            keys=[self._key],
        )


def test_whichever_answer_to_an_override_never_ends_the_caller_is_told_to_come_again(
    server: UnendingMlflow,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = {"name": "own", "models": [MODEL], "aliases": ["champion"]}
    gate = Gate.make(tmp_path / "gate", [rule])
    monkeypatch.setenv("RLRISK_POLICY", str(gate.policy_path))
    monkeypatch.delenv("RLRISK_REGISTRY", raising=False)
    client = mlflow.MlflowClient()
    if ATTESTATION_TAG in client.get_model_version(MODEL, "1").tags:
        client.delete_model_version_tag(MODEL, "1", ATTESTATION_TAG)
    deps = Dependencies(jobs=jobs, signer=_KeysAtHand(settings, gate.key))
    caller = create_app(settings, deps).test_client()
    reason = "the owners of the product agreed to it"
    body = {"model": f"models:/{MODEL}/1", "alias": "champion", "reason": reason}

    persist(server, monkeypatch, lambda: answers(caller, "/v1/overrides", body, 201))

    states = [row.state for row in OverrideTable(jobs.engine).page(limit=100)]
    assert states.count("signed") == 1
    assert set(states) == {"signed", "failed"}
    assert f"{OVERRIDE_TAG}alias.champion" in client.get_model_version(MODEL, "1").tags


@pytest.mark.parametrize("page", ["/", f"/models/{MODEL}", f"/models/{MODEL}/versions/1", "/runs"])
def test_a_page_whose_answers_never_end_says_that_mlflow_does_not_answer(
    page: str,
    server: UnendingMlflow,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = RegistryReader(tracking_uri=server.url, registry_uri=server.url)
    browser = create_app(settings, Dependencies(jobs=jobs, registry=reader)).test_client()
    monkeypatch.setattr(bounded_calls, "REQUEST_LIMIT_S", SHORT_S)

    server.drips = lambda request: True
    during = browser.get(page)
    server.drips = None
    monkeypatch.setattr(bounded_calls, "REQUEST_LIMIT_S", 60.0)
    after = browser.get(page)

    assert (during.status_code, after.status_code) == (502, 200)
    assert "MLflow does not answer" in during.text


def test_the_signer_signs_nothing_and_may_be_asked_again(
    server: UnendingMlflow,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statements = Statements(settings, jobs.engine, SigningKey.generate())
    report = simulated_report()
    monkeypatch.setattr(statements, "_finished", lambda _: (None, report))
    monkeypatch.setattr(statements, "_check_as_configured", lambda *_: None)
    monkeypatch.setattr(bounded_calls, "CALL_LIMIT_S", SHORT_S)
    server.drips = lambda request: True

    with pytest.raises(SignerRefusedError, match="no end of its answer") as caught:
        statements.attest("0" * 8 + "-0000" * 3 + "-" + "0" * 12, "0" * 32)

    assert not caught.value.is_final


def test_a_signer_whose_questions_are_all_under_way_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(signer, "POLL_S", 0.05)
    monkeypatch.setattr(signer, "MAX_AT_ONCE", 1)
    stopping, is_over, is_asked = threading.Event(), threading.Event(), threading.Event()

    def hang() -> str:
        is_asked.set()
        is_over.wait()
        return ""

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(4)
        arguments = (listener, {"hang": ((), hang)}, stopping)
        serving = threading.Thread(target=signer._serve, args=arguments)
        serving.start()
        callers = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for caller in callers:
            caller.connect(str(tmp_path / "s"))
            caller.sendall(b'{"kind": "hang"}\n')
        is_asked.wait(30)
        stopping.set()
        serving.join(30)
        is_stopped = not serving.is_alive()
        is_over.set()
        for caller in callers:
            caller.close()

    assert is_stopped


def test_a_call_that_is_given_up_ends_with_the_next_byte_and_counts_no_more(
    server: UnendingMlflow, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_calls, "CALL_LIMIT_S", SHORT_S)
    monkeypatch.setattr(bounded_calls, "MAX_UNDER_WAY", 2)
    client = timed(mlflow.MlflowClient())
    server.drips = lambda request: True

    for _ in range(4):
        with pytest.raises(LateError, match="no end of its answer"):
            client.get_registered_model(MODEL)
        until(lambda: num_under_way() == 0)


def test_no_second_call_about_a_thing_is_begun_before_the_one_given_up_has_ended() -> None:
    is_over = threading.Event()
    with pytest.raises(LateError, match="no end of its answer"):
        bounded(is_over.wait, 0.05, about="a")

    with pytest.raises(LateError, match="has not ended"):
        bounded(lambda: 1, 60, about="a")
    assert bounded(lambda: 1, 60, about="b") == 1
    assert bounded(lambda: 1, 60) == 1

    is_over.set()
    until(lambda: num_under_way() == 0)
    assert bounded(lambda: 1, 60, about="a") == 1
