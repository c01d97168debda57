"""What must hold after the kills: nothing lost, nothing twice, no wrong level, no bad signature."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow

from mlflow_rlrisk import RiskReport, log_checkpoint
from mlflow_rlrisk.attestation import ATTESTATION_TAG, Attestation, Place, verify_attestation
from mlflow_rlrisk.attestation.keys import KeyRing, PublicKey, SigningKey
from mlflow_rlrisk.errors import AttestationError
from tests.benchmarks.kills_deliveries import MODEL, Deliveries, judge_deliveries
from tests.service.running_service import BASE, Client, RunningService

LIMIT_S = 900.0


@dataclass(frozen=True)
class Expected:
    """The reports of an undisturbed assessment, by model, and who may have signed."""

    reports: Mapping[str, RiskReport]
    ring: KeyRing

    def report_of(self, model: str) -> RiskReport:
        """What is due for a version; those that MLflow tells of have the first one's files."""
        return self.reports.get(model, next(iter(self.reports.values())))


def register_versions(folder: Path) -> dict[str, Path]:
    """Two versions whose verdicts differ: the demo's base, and one that says always the same."""
    collapsed = folder / "collapsed"
    shutil.copytree(BASE, collapsed)
    config = json.loads((collapsed / "config.json").read_text())
    (collapsed / "config.json").write_text(json.dumps(config | {"initializer_range": 1.0}))
    mlflow.set_experiment("training")  # files go through the server, as those of a service do
    found = {}
    for path in (BASE, collapsed):
        version = log_checkpoint(path, "chains-sft")
        found[f"models:/chains-sft/{version.version}"] = path
    return found


def expected_of(reports: Mapping[str, RiskReport], key: SigningKey) -> Expected:
    """What the service's reports are held to."""
    public = PublicKey.of(key, "kills", datetime.now(UTC) - timedelta(minutes=1))
    return Expected(reports, KeyRing({public.key_id: public}))


def judge(
    service: RunningService,
    accepted: Mapping[str, tuple[str, str]],
    deliveries: Deliveries,
    expected: Expected,
) -> Counter[str]:
    """Wait for every assessment that is due and count what is wrong with it, by kind."""
    service.wait_until_up(LIMIT_S)
    client = Client(service.url)
    told, faults = judge_deliveries(client, service.config, deliveries)
    for key, (assessment_id, model) in accepted.items():
        again = client.assess(model, headers={"Idempotency_Key": key}).json["id"]
        faults["another id for the same key"] += again != assessment_id
    for assessment_id, model in [*accepted.values(), *told.items()]:
        faults.update(_wrong_assessment(client, assessment_id, model, expected))
    for name in ("chains-sft", MODEL):
        for version in mlflow.MlflowClient().search_model_versions(f"name='{name}'"):
            faults.update(_wrong_version(version, expected))
    return +faults


def _wrong_assessment(
    client: Client, assessment_id: str, model: str, expected: Expected
) -> list[str]:
    try:
        done = client.wait(assessment_id, limit_s=LIMIT_S)
    except AssertionError:
        return ["lost"]
    if done["state"] != "succeeded":
        return [f"{done['state']}: {done['error']}"]
    text = client.ask("GET", f"/v1/assessments/{assessment_id}/report").body.decode()
    report = RiskReport.from_json(text)
    return [
        *_wrong_verdict(report, done, expected.report_of(model)),
        *_wrong_publication(assessment_id, report, done, expected),
    ]


def _wrong_verdict(report: RiskReport, done: Mapping[str, Any], direct: RiskReport) -> list[str]:
    faults = []
    found, wanted = _figures(report), _figures(direct)
    other = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
    if other:
        shown = ", ".join(f"{n} {found.get(n)} for {wanted.get(n)}" for n in other[:4])
        faults.append(f"{len(other)} other figures: {shown}")
    if not report.risk_level == direct.risk_level == done["risk_level"]:
        faults.append("wrong level")
    return faults


def _figures(report: RiskReport) -> dict[str, float]:
    return {name: metric.value for name, metric in report.metrics.items()}


def _wrong_publication(
    assessment_id: str, report: RiskReport, done: Mapping[str, Any], expected: Expected
) -> list[str]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rlrisk")
    assert experiment is not None
    query = f"tags.`rlrisk.assessment_id` = '{assessment_id}'"
    runs = client.search_runs([experiment.experiment_id], query)
    if len(runs) != 1:
        return ["published twice" if runs else "not published"]
    run = runs[0]
    faults = []
    if run.info.run_id != done["run_id"] or run.info.status != "FINISHED":
        faults.append("another run, or one that is not finished")
    shown = {name: run.data.metrics.get(name) for name in _figures(report)}
    if shown != _figures(report):
        faults.append("other figures in the run")
    uri = f"runs:/{run.info.run_id}/rlrisk/attestation.json"
    envelope = mlflow.artifacts.load_text(uri)
    version = client.get_model_version(*done["pinned"].removeprefix("models:/").split("/"))
    attested = _attested(envelope, version, expected)
    if attested is None:
        return [*faults, "bad signature"]
    if (attested.report_digest, attested.risk_level) != (report.digest, report.risk_level):
        faults.append("a signature over another report")
    return faults


def _wrong_version(version: Any, expected: Expected) -> list[str]:
    """A version shows the level that its own attestation states, or nothing."""
    level = version.tags.get("rlrisk.risk_level")
    if level is None:
        return []
    attested = _attested(version.tags.get(ATTESTATION_TAG, ""), version, expected)
    if attested is None:
        return ["a version with a verdict and no good signature"]
    return [] if attested.risk_level == level else ["a version with another level than attested"]


def _attested(envelope: str, version: Any, expected: Expected) -> Attestation | None:
    place = Place(
        registry="mlflow",
        workspace=version.workspace,
        model=version.name,
        version=str(version.version),
    )
    try:
        return verify_attestation(envelope, expected.ring, place, datetime.now(UTC)).statement
    except AttestationError:
        return None
