"""What the signer signs, what it refuses, and that nothing is published unsigned in its place."""

import json
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_rlrisk import AssessmentConfig, LookaheadConfig, RiskReport, assess, log_checkpoint
from mlflow_rlrisk.attestation import ATTESTATION_TAG, Place, verify_attestation
from mlflow_rlrisk.attestation.keys import KeyRing, PublicKey, SigningKey
from service.publishing import publish
from service.settings import ServiceSettings, load_settings
from service.signing.client import SocketSigner, check_peer, short_address
from service.signing.protocol import ASSESSMENT_TAG, SignerRefusedError, SignerUnavailableError
from service.signing.statements import DIGEST_TAG, Statements
from service.tables.assessment_rows import Assessment, State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from tests.service.running_service import (
    ASSESSMENT,
    BASE,
    VERIFIER,
    RunningService,
    wait_for,
    write_settings,
)

pytestmark = pytest.mark.xdist_group("signer")  # its server is started once

RUN = LookaheadConfig(learning_rate=1e-6, run_steps=400)

Change = Callable[[RiskReport], RiskReport]


@dataclass
class World:
    """A database, a key, and a report that an undisturbed assessment gave."""

    folder: Path
    settings: ServiceSettings
    jobs: AssessmentTable
    key: SigningKey
    report: RiskReport

    def finished(self, change: Change = lambda report: report, **request: Any) -> Assessment:
        """An assessment of a new version that succeeded with this report."""
        version = log_checkpoint(BASE, "signed-sft")
        asked = {
            "model": f"models:/signed-sft/{version.version}",
            "prompt_set": "heldout",
            "verifier": "chains",
            "policy": "default",
            "sampling": self.report.config.sampling.model_dump(mode="json"),
            "group_size": self.report.config.group_size,
            **request,
        }
        job, _ = self.jobs.submit(
            asked, owner="o", body_digest="d", key=None, max_open=99, max_open_per_owner=99
        )
        begun = self.jobs.begin(job.id, max_attempts=3)
        assert begun is not None
        named = {"model_name": "signed-sft", "model_version": str(version.version)}
        self.jobs.update(job.id, begun.fence, **named)
        origin = {"registered_name": "signed-sft", "version": str(version.version)}
        report = replace(self.report, provenance=replace(self.report.provenance, **origin))
        text = change(report).to_json()
        self.jobs.finish(job.id, begun.fence, State.SUCCEEDED, report=text, risk_level="unknown")
        found = self.jobs.find(job.id)
        assert found is not None
        return found

    @property
    def signer(self) -> Statements:
        return Statements(self.settings, self.jobs.engine, self.key)

    def publish(self, job: Assessment, signer: Any) -> bool:
        return publish(self.jobs, self.settings, job.id, self.folder / job.id, signer=signer)

    def tags(self, job: Assessment) -> dict[str, str]:
        version = mlflow.MlflowClient().get_model_version("signed-sft", str(job.model_version))
        return dict(version.tags)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, registry: str) -> World:
    folder = tmp_path_factory.mktemp("signer")
    artifacts = str(Path(registry.removeprefix("sqlite:///")).parent / "artifacts")
    runs = {"grpo": RUN.model_dump(mode="json")}
    path = write_settings(folder, registry, artifact_roots=[artifacts], lookaheads=runs)
    settings = load_settings(path)
    config = AssessmentConfig(**ASSESSMENT)
    report = assess(BASE, folder / "prompts.jsonl", verifier=VERIFIER, config=config)
    key = SigningKey.generate()
    key.write(folder / "key.pem")
    return World(folder, settings, AssessmentTable(open_database(settings.database)), key, report)


def proven(world: World, job: Assessment, envelope: str) -> Any:
    """What the envelope proves to one who has the public key only."""
    public = PublicKey.of(world.key, "test", datetime.now(UTC) - timedelta(minutes=1))
    version = mlflow.MlflowClient().get_model_version("signed-sft", str(job.model_version))
    place = Place(
        registry="mlflow",
        workspace=version.workspace,
        model="signed-sft",
        version=str(version.version),
    )
    ring = KeyRing({public.key_id: public})
    return verify_attestation(envelope, ring, place, datetime.now(UTC)).statement


def test_a_report_is_published_with_one_signature_over_what_it_says(world: World) -> None:
    job = world.finished()

    assert world.publish(job, world.signer)
    envelope = world.tags(job)[ATTESTATION_TAG]
    done = world.jobs.find(job.id)

    assert done is not None
    assert done.run_id is not None
    stated = proven(world, job, envelope)
    report = RiskReport.from_json(world.jobs.report(job.id) or "")
    assert (stated.report_digest, stated.risk_level) == (report.digest, report.risk_level)
    assert stated.run_id == report.provenance.run_id
    assert world.tags(job)["rlrisk.risk_level"] == report.risk_level
    kept = mlflow.artifacts.load_text(f"runs:/{done.run_id}/rlrisk/attestation.json")
    assert kept == envelope == world.signer.attest(job.id, done.run_id)


def test_without_its_signer_a_service_waits_and_shows_nothing_unsigned(world: World) -> None:
    job = world.finished()
    away = SocketSigner(world.folder / "nobody.sock")

    assert not world.publish(job, away)
    waiting = world.jobs.find(job.id)
    assert waiting is not None
    assert waiting.published_at is None
    assert "does not answer" in str(waiting.publish_error)
    assert not [tag for tag in world.tags(job) if tag.startswith("rlrisk.")]

    assert world.publish(job, world.signer)
    assert ATTESTATION_TAG in world.tags(job)


def test_a_report_that_looked_ahead_is_signed_where_it_tried_the_run_that_was_asked_for(
    world: World,
) -> None:
    job = world.finished(with_digest("lookahead", RUN.digest()), lookahead="grpo")

    assert world.publish(job, world.signer)

    assert ATTESTATION_TAG in world.tags(job)


def with_digest(name: str, digest: str = "0" * 64) -> Change:
    def change(report: RiskReport) -> RiskReport:
        digests = {**report.provenance.digests, name: digest}
        return replace(report, provenance=replace(report.provenance, digests=digests))

    return change


def with_provenance(**values: str) -> Change:
    return lambda report: replace(report, provenance=replace(report.provenance, **values))


def with_more_samples(report: RiskReport) -> RiskReport:
    sampling = report.config.sampling.model_copy(update={"num_samples": 64})
    return replace(report, config=report.config.model_copy(update={"sampling": sampling}))


def with_lookahead(**changes: Any) -> Change:
    return with_digest("lookahead", RUN.model_copy(update=changes).digest())


def with_easy_lines(report: RiskReport) -> RiskReport:
    return replace(report, policy=report.policy.model_copy(update={"low_below": 0.6}))


@pytest.mark.parametrize(
    ("change", "request_", "code"),
    [
        (with_digest("prompts"), {}, "not_as_configured"),
        (with_digest("verifier"), {}, "not_as_configured"),
        (with_digest("checkpoint"), {}, "content_changed"),
        (with_more_samples, {}, "not_as_configured"),
        (with_easy_lines, {}, "not_as_configured"),
        (with_provenance(version="777"), {}, "wrong_version"),
        (with_provenance(finished_at="2020-01-01T00:00:00+00:00"), {}, "stale"),
        (lambda report: report, {"prompt_set": "of-the-caller"}, "not_as_configured"),
        (with_lookahead(run_steps=4000), {"lookahead": "grpo"}, "not_as_configured"),
        (lambda report: report, {"lookahead": "grpo"}, "not_as_configured"),
        (with_lookahead(), {}, "not_as_configured"),
        (with_lookahead(), {"lookahead": "no-longer"}, "not_as_configured"),
        (lambda report: report, {"lookahead": "no-longer"}, "not_as_configured"),
    ],
)
def test_a_worker_that_was_taken_over_gets_no_signature_for_another_report(
    world: World, change: Change, request_: dict[str, Any], code: str
) -> None:
    job = world.finished(change, **request_)
    report = RiskReport.from_json(world.jobs.report(job.id) or "")
    tags = {ASSESSMENT_TAG: job.id, DIGEST_TAG: report.digest}
    run = mlflow.MlflowClient().create_run("0", tags=tags)  # as one who holds the worker would

    with pytest.raises(SignerRefusedError) as refused:
        world.signer.attest(job.id, run.info.run_id)

    assert (refused.value.code, refused.value.is_final) == (code, True)


def test_what_the_signer_refused_is_published_as_unsigned_and_shown_on_no_version(
    world: World,
) -> None:
    job = world.finished(with_easy_lines)

    assert world.publish(job, world.signer)  # it is at its end: asking again would change nothing

    done = world.jobs.find(job.id)
    assert done is not None
    assert str(done.publish_error).startswith("not signed: not_as_configured")
    assert not [tag for tag in world.tags(job) if tag.startswith("rlrisk.")]


def test_what_is_not_finished_or_lies_in_another_run_is_not_signed(world: World) -> None:
    job, other = world.finished(), world.finished()
    assert world.publish(other, world.signer)
    run_of_other = world.jobs.find(other.id)
    assert run_of_other is not None
    asked, _ = world.jobs.submit(
        job.request, owner="o", body_digest="d", key=None, max_open=99, max_open_per_owner=99
    )

    def code(assessment_id: str, run_id: str) -> str:
        with pytest.raises(SignerRefusedError) as refused:
            world.signer.attest(assessment_id, run_id)
        return refused.value.code

    assert code(asked.id, "0" * 32) == "not_finished"
    assert code(job.id, str(run_of_other.run_id)) == "wrong_run"
    assert code(other.id, "0" * 32) == "wrong_run"  # also where it is signed already
    assert code("../../key.pem", "0" * 32) == "malformed"


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[RunningService]:
    options = ["--signing-key", str(world.folder / "key.pem")]
    service = RunningService(world.folder / "service.yaml", 1, "signer", {}, options=options)
    service.start()
    yield service
    service.stop()


def socket_of(world: World) -> Path:
    return world.folder / "rlrisk-service" / f"signer-{socket.gethostname()}.sock"


def test_the_signer_is_a_process_behind_a_socket_of_its_user(
    world: World, running: RunningService
) -> None:
    path, job = socket_of(world), world.finished()
    wait_for(path.exists)
    signer = SocketSigner(path)

    assert world.publish(job, signer)
    proven(world, job, world.tags(job)[ATTESTATION_TAG])

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(SignerRefusedError, match="malformed"):
        signer.attest("x", "y")
    with pytest.raises(SignerRefusedError, match="not_approved"):
        signer.override("00000000-0000-0000-0000-000000000000")
    for line in (b"{}\n", b'{"kind": "sign", "statement": {}}\n', b'{"kind": "attest"}\n', b"[\n"):
        with socket.socket(socket.AF_UNIX) as connection, short_address(path) as address:
            connection.connect(address)
            connection.sendall(line)
            answer = connection.recv(65536)
        assert answer == b"" or "error" in json.loads(answer)


def test_a_killed_signer_is_missed_until_another_one_runs(
    world: World, running: RunningService
) -> None:
    wait_for(socket_of(world).exists)
    assert running.process is not None
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    signer = SocketSigner(socket_of(world))  # its file is still there
    job = world.finished()

    assert not signer.is_there()
    with pytest.raises(SignerUnavailableError):
        signer.attest(job.id, "0" * 32)
    running.start()

    def is_back() -> bool:
        try:
            return world.publish(job, signer) and ATTESTATION_TAG in world.tags(job)
        except SignerUnavailableError:
            return False

    wait_for(is_back)
    assert signer.is_there()


def test_a_peer_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        check_peer(ours)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(PermissionError):
            check_peer(ours)
