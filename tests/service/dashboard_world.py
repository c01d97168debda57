"""A registry to look at: a ladder and its lineage, hostile names, broken reports, an RL run."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy as sa
from mlflow.entities import Metric

from mlflow_rlrisk.assessment.wiring import Assessment
from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.attestation.keys import to_text
from mlflow_rlrisk.gate.audit import AuditLog, Entry
from mlflow_rlrisk.lineage import LineageMember, trace_lineage
from mlflow_rlrisk.monitor import LogRow
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.sinks.lineage_run import log_lineage
from mlflow_rlrisk.sinks.mlflow_run import log_report
from mlflow_rlrisk.sinks.monitor_run import ALARMS_TAG, MONITOR_TAG, MONITORED_AT_TAG
from mlflow_rlrisk.sinks.registry import tag_version
from service.deps import Dependencies
from service.registry.reader import RegistryReader
from service.tables.assessment_rows import State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.overrides import OverrideTable
from service.tables.tokens import TokenTable
from tests.gate.world import World, checkpoint_folder, entries_of
from tests.lineage.ladders import collapsing
from tests.monitor.histories import HealthyRun, collapsing_rows
from tests.sinks.simulated import HOSTILE, simulated_report

LADDER = "coder-sft"
HOSTILE_NAME = '<script>alert(1)<b> "naïve" & 数学 %2e {{7*7}} #1?x=y'
BROKEN = "broken reports"
EMPTY = "nothing yet"
SIGNED = "prod-signed"
RUN = HealthyRun(
    num_steps=120,
    num_prompts=64,
    start=0.3,
    end=0.5,
    spread=2.0,
    entropy=0.5,
    entropy_loss=0.1,
    entropy_noise=0.03,
    seed=5,
)


@dataclass(frozen=True, kw_only=True)
class DashboardWorld:
    """What was made, and the parts that a dashboard gets."""

    uri: str
    deps: Dependencies
    run_id: str
    lineage_run: str
    log: AuditLog
    tokens: TokenTable


def make_world(uri: str, folder: Path) -> DashboardWorld:
    """Fill the store that MLflow is set to."""
    client = mlflow.MlflowClient()
    lineage_run = _ladder(client, folder)
    _hostile(client, folder)
    _broken(client, folder)
    client.create_registered_model(EMPTY)
    world = World.make(folder / "gate", [{"name": "guarded", "aliases": ["champion"]}])
    _signed(client, folder, world)
    log = _log(uri)
    engine = open_database(f"sqlite:///{folder}/service.db")
    jobs = AssessmentTable(engine)
    _jobs(jobs)
    _overrides(engine)
    run_id = _rl_run(client, collapsing_rows(RUN, onset=60, length=40))
    _other_runs(client, run_id)
    reader = RegistryReader(tracking_uri=uri, registry_uri=uri, policy_path=str(world.policy_path))
    deps = Dependencies(jobs=jobs, registry=reader)
    return DashboardWorld(
        uri=uri,
        deps=deps,
        run_id=run_id,
        lineage_run=lineage_run,
        log=log,
        tokens=TokenTable(engine),
    )


def register(client: mlflow.MlflowClient, name: str, folder: Path, count: int = 1) -> None:
    """Register a model with versions whose files are never opened."""
    client.create_registered_model(name, description=f"What {name} is.")
    for _ in range(count):
        client.create_model_version(name, folder.as_uri())


def publish(report: RiskReport) -> str:
    """Log a report and tag its version, as an assessment does; returns the run's id."""
    logged = log_report(report, page="not read here")
    tag_version(report, report_uri=logged.report_uri)
    return logged.run_id


@cache
def _report() -> RiskReport:
    return simulated_report()


def about(report: RiskReport, name: str, version: str) -> RiskReport:
    """The same report about a version of this store."""
    source = replace(
        report.provenance,
        model_reference=f"models:/{name}/{version}",
        registered_name=name,
        version=version,
        model_id=None,
        finished_at="2026-03-01T10:02:10+00:00",
    )
    return replace(report, provenance=source)


def _ladder(client: mlflow.MlflowClient, folder: Path) -> str:
    rungs = collapsing()
    register(client, LADDER, folder, len(rungs) + 1)  # the last one is not assessed
    members = [
        LineageMember(
            name=f"models:/{LADDER}/{place}",
            report=about(rung.report, LADDER, str(place)),
            statistics=rung.statistics,
        )
        for place, rung in enumerate(rungs, 1)
    ]
    lineage = trace_lineage(members, base=members[0].name, num_resamples=400)
    run_id = log_lineage(
        lineage,
        [Assessment(report=m.report, statistics=m.statistics, folder=None) for m in members],
        ["not read here" for _ in members],
        "not read here",
    )
    client.set_registered_model_alias(LADDER, "champion", "4")
    return run_id


def _hostile(client: mlflow.MlflowClient, folder: Path) -> None:
    register(client, HOSTILE_NAME, folder)
    report = about(_report(), HOSTILE_NAME, "1")
    publish(replace(report, reasons=(HOSTILE, *report.reasons), next_steps=(HOSTILE,)))
    client.set_model_version_tag(HOSTILE_NAME, "1", "team", HOSTILE.replace("\x00", ""))


def _broken(client: mlflow.MlflowClient, folder: Path) -> None:
    register(client, BROKEN, folder, 6)
    garbage = publish(about(_report(), BROKEN, "1"))
    client.log_text(garbage, '{"schema_version": 1, "metrics": {}}', "rlrisk/report.json")
    for version, uri in (
        ("2", "runs:/0123456789abcdef0123456789abcdef/rlrisk/report.html"),
        ("3", "file:///etc/passwd"),
        ("4", "runs:/../../etc/rlrisk/report.html"),
    ):
        client.set_model_version_tag(BROKEN, version, "rlrisk.report_uri", uri)
    undrawable = replace(about(_report(), BROKEN, "5"), solve_counts=((9, 3, 4),))
    publish(undrawable)
    client.set_model_version_tag(BROKEN, "5", "rlrisk.risk_level", "low")
    mine = client.get_model_version(HOSTILE_NAME, "1").tags["rlrisk.report_uri"]
    client.set_model_version_tag(BROKEN, "6", "rlrisk.report_uri", mine)


def _signed(client: mlflow.MlflowClient, folder: Path, world: World) -> None:
    files = entries_of(checkpoint_folder(folder / "checkpoint"))
    register(client, SIGNED, folder / "checkpoint", 4)
    now = datetime.now(UTC)
    old = {
        "issued_at": to_text(now - timedelta(hours=20)),
        "expires_at": to_text(now - timedelta(hours=1)),
    }
    for version, changes in (("1", {}), ("2", old)):
        found = client.get_model_version(SIGNED, version)
        report = publish(about(_report(), SIGNED, version))
        envelope = world.sign(found, files, run_id=report, **changes)
        client.set_model_version_tag(SIGNED, version, ATTESTATION_TAG, envelope)
        if version == "1":
            client.set_model_version_tag(SIGNED, "3", ATTESTATION_TAG, envelope)


def _log(uri: str) -> AuditLog:
    log = AuditLog(sa.create_engine(uri))
    log.prepare()
    for number in range(130):
        log.append(_entry(number), datetime(2026, 3, 1, 12, number % 60, tzinfo=UTC))
    return log


def _entry(number: int) -> Entry:
    outcome = ("block", "promote", "inconclusive", "failed")[number % 4]
    return Entry(
        action="set_alias",
        outcome=outcome,
        reason="high_risk" if outcome == "block" else "proven",
        message=f"rlrisk gate: alias 'champion' of version 4 is {outcome}; report: "
        f"runs:/0123456789abcdef0123456789abcdef/rlrisk/report.html; {HOSTILE[:60]}",
        workspace="default",
        model=(LADDER, HOSTILE_NAME, SIGNED)[number % 3],
        version="4" if number % 3 == 0 else "1",
        target="alias.champion",
        rule="guarded",
        actor="ann@127.0.0.1",
    )


def _other_runs(client: mlflow.MlflowClient, judged: str) -> None:
    """The monitor's word on one run, an RL run that nobody judged, and a supervised one."""
    client.set_tag(judged, ALARMS_TAG, "R1@96 trip, R4@97 warn")
    client.set_tag(judged, MONITOR_TAG, f"stop from step 97: {HOSTILE[:40]}")
    client.set_tag(judged, MONITORED_AT_TAG, "2026-03-02T10:00:00+00:00")
    for name, metrics in (
        ("unjudged", {"reward": 0.4, "entropy": 0.3, "frac_reward_zero_std": 0.2}),
        ("supervised", {"loss": 1.2, "entropy": 0.9, "grad_norm": 0.3}),
    ):
        run = client.create_run("0", run_name=name)
        for key, value in metrics.items():
            client.log_metric(run.info.run_id, key, value, step=1)


def _overrides(engine: sa.Engine) -> None:
    table = OverrideTable(engine)
    asked = {"model": HOSTILE_NAME, "version": "1", "target": ("alias", "champion")}
    for person, reason in (("ann", HOSTILE), ("bob", "agreed with the owners")):
        row = table.ask(
            **asked,  # type: ignore[arg-type]
            reason=reason,
            expires="24h",
            person=(f"id-{person}", person),
            needs_approval=person == "bob",
        )
        if person == "ann":
            table.failed(row.id, "override-refused: /srv/secret cannot be overridden")


def _rl_run(client: mlflow.MlflowClient, rows: Iterable[LogRow]) -> str:
    run = client.create_run("0", run_name=f"grpo {HOSTILE[:24]}")
    metrics = [
        Metric(name, value, 1_700_000_000_000 + row.step, row.step)
        for row in rows
        for name, value in row.metrics.items()
    ]
    for start in range(0, len(metrics), 900):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 900])
    return str(run.info.run_id)


def _jobs(jobs: AssessmentTable) -> None:
    def submit(model: str, **more: Any) -> str:
        request: dict[str, Any] = {"model": model, "prompt_set": "math", "verifier": "numeric"}
        request |= {"policy": "default"} | more
        row, _ = jobs.submit(
            request,
            owner="ann",
            body_digest="0" * 64,
            key=None,
            max_open=99,
            max_open_per_owner=99,
        )
        return row.id

    told = {"name": "new", "cause": "version created", "by": "webhook", "delivery_id": "d-1"}
    submit(f"models:/{LADDER}/5", trigger=told, lookahead="grpo-400")
    running = jobs.begin(submit(f"models:/{HOSTILE_NAME}/1"), max_attempts=3)
    assert running is not None
    progress = {"num_samples_done": 640, "num_samples": 1280, "tokens_per_s": 1234.5}
    progress |= {"pass_at_1": 0.3125, "eta_s": 200.0, "num_prompts": 80, "num_prompts_done": 40}
    jobs.update(running.id, running.fence, stage="sample", progress=progress)
    failed = jobs.begin(submit("models:/gone/1"), max_attempts=3)
    assert failed is not None
    jobs.finish(
        failed.id,
        failed.fence,
        State.FAILED,
        error_code="invalid_model",
        error_detail=HOSTILE[:80],
    )
    done = jobs.begin(submit(f"models:/{LADDER}/2"), max_attempts=3)
    assert done is not None
    jobs.finish(
        done.id,
        done.fence,
        State.SUCCEEDED,
        report=about(_report(), LADDER, "2").to_json(),
        risk_level="low",
        model_name=LADDER,
        model_version="2",
    )
