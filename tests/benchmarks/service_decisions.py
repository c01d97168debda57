"""Decisions per second and their p99 at 8 and 32 clients, idle and while an assessment runs.

    python tests/benchmarks/service_decisions.py [--seconds 10] [--registry database|server]

A real ``rlrisk serve`` with a token, SQLite and a registry of registered versions, each with a
report that promotes. ``wrk`` (Debian: ``apt install wrk``) asks about them in turn, so that the
load costs little next to the service; both share the cores. CPU milliseconds per decision are of
the API's processes alone and hold on a busy machine too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import mlflow

import tests.service.running_service
from mlflow_rlrisk import decide, log_checkpoint
from service.settings import load_settings
from service.tables.assessment_rows import State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.tokens import Scope, TokenTable
from tests.mlflow_server import migrated_database, mlflow_server, pointed_at, sqlite_store
from tests.service.running_service import (
    BASE,
    VERIFIER,
    Client,
    RunningService,
    running_service,
    wait_for,
    write_settings,
)

MODEL = "coder-sft"
NUM_VERSIONS = 16
AIM = {8: 25.0, 32: 100.0}
"""Clients -> p99 in milliseconds that is wanted at 1,000 decisions a second."""
SCRIPT = """
local number = 0
function request()
  number = number %% %(versions)d + 1
  local body = '{"policy": "lenient", "model": "models:/%(model)s/' .. number .. '"}'
  return wrk.format("POST", "/v1/decisions", {
    ["Content-Type"] = "application/json", ["Authorization"] = "Bearer %(token)s"}, body)
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %%d, "duration_us": %%d, "p50_us": %%d, "p99_us": %%d, "max_us": %%d, ' ..
    '"not_200": %%d, "broken": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""
SLOW = """
import time


def slow(prompts, completions, **columns):
    time.sleep(0.05)
    from mlflow_rlrisk.demo.task import reward
    return reward(prompts=prompts, completions=completions, **columns)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--registry", choices=["database", "server"], default="database")
    parser.add_argument("--max-age", type=float, default=0.0, help="decision_max_age_s")
    parser.add_argument("--clients", type=int, nargs="+", default=sorted(AIM))
    parser.add_argument("--skip-busy", action="store_true")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is missing: apt install wrk")
    with (
        tempfile.TemporaryDirectory(prefix="rlrisk-decisions-") as name,
        _service(Path(name), chosen.registry, chosen.max_age, not chosen.skip_busy) as (
            service,
            token,
        ),
    ):
        rows = measure(service, token, chosen.clients, chosen.seconds, is_busy=False)
        if not chosen.skip_busy:
            with _assessing(service, token):
                rows += measure(service, token, chosen.clients, chosen.seconds, is_busy=True)
    result = {
        "registry": chosen.registry,
        "decision_max_age_s": chosen.max_age,
        "versions": NUM_VERSIONS,
        "rows": rows,
    }
    _show(rows)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(any(row["not_200"] or row["broken"] for row in rows))


def measure(
    service: RunningService, token: str, clients: list[int], seconds: int, *, is_busy: bool
) -> list[dict[str, Any]]:
    """One row for every number of clients."""
    return [_run(service, token, each, seconds) | {"is_busy": is_busy} for each in clients]


def _run(service: RunningService, token: str, clients: int, seconds: int) -> dict[str, Any]:
    script = service.config.parent / "decisions.lua"
    script.write_text(SCRIPT % {"versions": NUM_VERSIONS, "model": MODEL, "token": token})
    command = ["wrk", "-t1", f"-c{clients}", "--timeout", "20s", "-s", str(script)]
    subprocess.run([*command, "-d1s", service.url], capture_output=True, check=True)
    before, load = _cpu_s(service), os.getloadavg()[0]
    done = subprocess.run(
        [*command, f"-d{seconds}s", service.url], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    spent, count = _cpu_s(service) - before, found["requests"]
    return {
        "clients": clients,
        "decisions_per_s": round(count / found["duration_us"] * 1e6, 1),
        "p50_ms": round(found["p50_us"] / 1e3, 2),
        "p99_ms": round(found["p99_us"] / 1e3, 2),
        "max_ms": round(found["max_us"] / 1e3, 2),
        "api_cpu_ms": round(1e3 * spent / count, 3),
        "not_200": found["not_200"],
        "broken": found["broken"],
        "load_average_before": round(load, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
    }


def _cpu_s(service: RunningService) -> float:
    """CPU seconds that the API's processes took so far."""
    ticks = 0
    for pid in service.pids("--role api"):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _service(
    folder: Path, registry: str, max_age_s: float, with_worker: bool
) -> Iterator[tuple[RunningService, str]]:
    template = migrated_database(folder)
    if registry == "server":
        with (
            mlflow_server(folder, template) as uri,
            pointed_at(uri),
            _started(folder, uri, ["mlflow-artifacts:/"], max_age_s, with_worker) as parts,
        ):
            yield parts
    else:
        with (
            sqlite_store(template, folder) as uri,
            _started(folder, uri, [str(folder / "artifacts")], max_age_s, with_worker) as parts,
        ):
            yield parts


@contextmanager
def _started(
    folder: Path, uri: str, roots: list[str], max_age_s: float, with_worker: bool
) -> Iterator[tuple[RunningService, str]]:
    from tests.service.dashboard_world import register

    register(mlflow.MlflowClient(), MODEL, folder, NUM_VERSIONS)
    log_checkpoint(BASE, "chains-sft")
    (folder / "slow.py").write_text(SLOW)
    (folder / "lenient.yaml").write_text("required_level: medium\n")
    config = write_settings(
        folder,
        uri,
        num_prompts=400,
        artifact_roots=roots,
        verifiers={"chains": VERIFIER, "slow": "slow.py:slow"},
        policies={"lenient": "lenient.yaml"},
        decision_max_age_s=max_age_s,
    )
    engine = open_database(load_settings(config).database)
    token, _ = TokenTable(engine).create("bench", [Scope.READ, Scope.ASSESS])
    decided(AssessmentTable(engine))
    engine.dispose()
    tests.service.running_service.START_LIMIT_S = 300.0  # the machine may be busy
    with running_service(config, role="all" if with_worker else "api") as service:
        asked = {"model": f"models:/{MODEL}/1", "policy": "lenient"}
        answer = Client(service.url, token).ask("POST", "/v1/decisions", asked)
        assert answer.json["outcome"] == "promote", answer.body
        yield service, token


def decided(jobs: AssessmentTable, num_versions: int = NUM_VERSIONS) -> None:
    """A finished assessment of every version, whose report promotes."""
    from tests.service.dashboard_world import about
    from tests.sinks.simulated import graded_groups, simulated_report

    report = simulated_report(graded_groups(num_prompts=400, beta=(4.0, 4.0)))
    for version in map(str, range(1, num_versions + 1)):
        mine = about(report, MODEL, version)
        request = {"model": f"models:/{MODEL}/{version}", "prompt_set": "p", "verifier": "v"}
        row, _ = jobs.submit(
            request | {"policy": "default"},
            owner="bench",
            body_digest="0" * 64,
            key=None,
            max_open=99,
            max_open_per_owner=99,
        )
        begun = jobs.begin(row.id, max_attempts=3)
        assert begun is not None
        jobs.finish(
            begun.id,
            begun.fence,
            State.SUCCEEDED,
            report=mine.to_json(),
            risk_level=str(mine.risk_level),
            outcome=str(decide(mine, mine.policy).outcome),
            model_name=MODEL,
            model_version=version,
        )
        jobs.published(begun.id, "0" * 32, "runs:/none")


@contextmanager
def _assessing(service: RunningService, token: str) -> Iterator[None]:
    """An assessment of the demo's model runs in this service."""
    client = Client(service.url, token)
    body = {"model": "models:/chains-sft/1", "prompt_set": "heldout", "verifier": "slow"}
    sampling = {"num_samples": 256, "max_new_tokens": 48}
    asked = client.ask("POST", "/v1/assessments", body | {"sampling": sampling}).json["id"]
    path = f"/v1/assessments/{asked}"

    def samples() -> bool:
        job = client.ask("GET", path).json
        assert job["state"] in ("accepted", "queued", "running"), job
        return bool(job["stage"] == "sample")

    wait_for(samples, limit_s=240)
    try:
        yield
        state = client.ask("GET", path).json["state"]
        assert state == "running", f"the assessment was {state} before the measurement ended"
    finally:
        client.ask("DELETE", path)
        time.sleep(2)


def _show(rows: list[dict[str, Any]]) -> None:
    print("clients  assessing  decisions/s  p50 ms  p99 ms  API CPU ms  errors  load")
    for row in rows:
        print(
            f"{row['clients']:7d}  {row['is_busy']!s:9}  {row['decisions_per_s']:11.0f}"
            f"  {row['p50_ms']:6.1f}  {row['p99_ms']:6.1f}  {row['api_cpu_ms']:10.2f}"
            f"  {row['not_200'] + row['broken']:6d}  {row['load_average_after']:4.1f}"
        )


if __name__ == "__main__":
    sys.exit(main())
