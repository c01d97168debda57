"""schemathesis over the OpenAPI document of the real application, every check switched on.

    python tests/benchmarks/service_fuzz.py [--cases 20000] [--seed 1] [--json FILE]

The application is called in this process (WSGI) with a token that may do everything, over real
SQLite databases: MLflow's with registered versions, the service's with finished assessments. All
phases run (examples, coverage, fuzzing with valid and invalid data, stateful). Beyond schemathesis'
own checks every answer of 400 and more must be a problem document of the table in
`service.problems`, and its status must be that of its slug.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))

import mlflow
import schemathesis
from flask import Flask
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.transport.wsgi import WSGITransport

import service.routes.events
from mlflow_rlrisk import log_checkpoint
from mlflow_rlrisk.gate.promotion_policy import POLICY_VARIABLE
from service.app import create_app
from service.deps import Dependencies
from service.problems import MEDIA_TYPE, SLUGS, TYPE_ROOT, ProblemDocument
from service.registry.reader import RegistryReader
from service.settings import load_settings
from service.signing.protocol import SignerRefusedError
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.tokens import Scope, TokenTable
from tests.benchmarks.service_decisions import MODEL, NUM_VERSIONS, decided
from tests.gate.world import World
from tests.mlflow_server import migrated_database, sqlite_store
from tests.service.dashboard_world import register
from tests.service.running_service import BASE, write_settings

MAX_SHOWN = 20
SEND = WSGITransport.send
ACCEPTED = ["2xx", "401", "403", "404", "409", "422", "429", "502", "503", "507"]


class NothingSigned:
    """A signer that answers and refuses all; with none every override would be a 503."""

    def is_there(self) -> bool:
        return True

    def override(self, override_id: str) -> str:
        raise SignerRefusedError("content_changed", f"{override_id} is not signed here")

    def attest(self, assessment_id: str, run_id: str) -> str:
        raise SignerRefusedError("content_changed", f"{assessment_id}, {run_id}: not signed here")


@dataclass
class Found:
    """What came of the cases."""

    num_cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--examples", type=int, default=100, help="of one operation and round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    started, found, seed = time.process_time(), Found(), chosen.seed
    with (
        tempfile.TemporaryDirectory(prefix="rlrisk-fuzz-") as name,
        fuzzed_app(Path(name)) as (app, token),
    ):
        while found.num_cases < chosen.cases:
            fuzz(app, token, found, seed=seed, examples=chosen.examples)
            print(f"seed {seed}: {found.num_cases} cases, {len(found.failures)} failures")
            seed += 1
    result = {
        "cases": found.num_cases,
        "seeds": [chosen.seed, seed - 1],
        "statuses": dict(sorted(found.statuses.items())),
        "failures": found.failures,
        "schemathesis": schemathesis.SCHEMATHESIS_VERSION,
        "cpu_s": round(time.process_time() - started, 1),
    }
    for text in found.failures[:MAX_SHOWN]:
        print(text, end="\n\n")
    print({name: value for name, value in result.items() if name != "failures"})
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(bool(found.failures))


@contextmanager
def fuzzed_app(folder: Path) -> Iterator[tuple[Flask, str]]:
    """The application with something to find in it, and an admin's token."""
    with sqlite_store(migrated_database(folder), folder) as uri:
        register(mlflow.MlflowClient(), MODEL, folder, NUM_VERSIONS)
        log_checkpoint(BASE, "chains-sft")
        limits = {"max_open": 10**9, "max_open_per_token": 10**9}
        world = World.make(folder / "gate", [{"name": MODEL, "aliases": ["champion"]}])
        config = write_settings(folder, uri, limits=limits)
        settings = load_settings(config)
        engine = open_database(settings.database)
        jobs, tokens = AssessmentTable(engine), TokenTable(engine)
        decided(jobs)
        token, _ = tokens.create("fuzz", [Scope.ADMIN])
        before = service.routes.events.MAX_S
        service.routes.events.MAX_S = 0.0  # a stream of a job that nobody works on has no end
        registry = RegistryReader(tracking_uri=uri, registry_uri=uri)
        deps = Dependencies(jobs=jobs, tokens=tokens, registry=registry, signer=NothingSigned())
        with patch.dict(os.environ, {POLICY_VARIABLE: str(world.policy_path)}):
            yield create_app(settings, deps), token
        service.routes.events.MAX_S = before
        engine.dispose()


def fuzz(app: Flask, token: str, found: Found, *, seed: int, examples: int) -> None:
    """One round over all operations and phases; what is wrong is added to ``found``."""
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "headers": {"Authorization": f"Bearer {token}"},
            # Names are the operator's and some limits join fields: no schema can say them all.
            "checks": {
                "positive_data_acceptance": {"expected-statuses": ACCEPTED},
                "use_after_free": {"enabled": False},  # what is cancelled stays to be looked at
            },
            "generation": {"mode": "all", "max-examples": examples, "database": "none"},
        }
    )
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, config=config)
    with patch.object(WSGITransport, "send", _send):
        _run(schema, found)


def _send(transport: WSGITransport, case: Any, **settings: Any) -> Any:
    """schemathesis 4.32 hands settings of sockets to an application that has none."""
    for name in ("max_redirects", "verify", "cert", "proxies"):
        settings.pop(name, None)
    return SEND(transport, case, **settings)


def _run(schema: Any, found: Found) -> None:
    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            found.failures.append(f"{event.label}: {event.value!r}")
        if isinstance(event, events.ScenarioFinished):
            _count(event.recorder, found)


def _count(recorder: Any, found: Found) -> None:
    for case_id, interaction in recorder.interactions.items():
        answer = interaction.response
        found.num_cases += 1
        if answer is None:
            found.failures.append(f"{recorder.label}: no answer to {interaction.request.uri}")
            continue
        found.statuses[str(answer.status_code)] += 1
        asked = f"{interaction.request.method} {interaction.request.uri}"
        if (why := _no_problem_document(answer)) is not None:
            found.failures.append(f"{asked}: {answer.status_code} {why}")
        for check in recorder.checks.get(case_id, ()):
            if check.failure_info is not None:
                body = (interaction.request.body or b"")[:400]
                told = str(check.failure_info.failure)[:1000]
                found.failures.append(f"{check.name}: {asked} {body!r}\n  {told}")


def _no_problem_document(answer: Any) -> str | None:
    """Why an error is no problem document of the table."""
    if answer.status_code < 400:
        return None
    kind = answer.headers.get("content-type", ["none"])[0]
    if kind != MEDIA_TYPE:
        is_health = kind == "application/json" and answer.status_code == 503
        return None if is_health else f"is {kind}"
    if answer.request.method == "HEAD":
        return None
    document = ProblemDocument.model_validate_json(answer.content)
    slug = document.type.removeprefix(TYPE_ROOT)
    if slug not in SLUGS or not SLUGS[slug][0] == document.status == answer.status_code:
        return f"is the problem {document.type} with status {document.status}"
    return None


if __name__ == "__main__":
    sys.exit(main())
