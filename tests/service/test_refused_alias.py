"""An alias that the registry's gate no longer hands out: an answer, not an MLflow that is away."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from service.app import create_app
from service.deps import Dependencies
from service.sampling.scoring import Scorer
from service.settings import ServiceSettings, load_settings
from service.tables.assessments import AssessmentTable, State
from service.tables.opening import open_database
from tests.gate.world import World
from tests.mlflow_server import sqlite_store
from tests.service.running_service import write_settings

ALIAS = "models:/sft@champion"
RULE = {"name": "guarded", "aliases": ["champion"]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World.make(tmp_path / "gate", [RULE])
    monkeypatch.setenv("RLRISK_POLICY", str(made.policy_path))
    return made


@pytest.fixture
def settings(database: Path, tmp_path: Path, world: World) -> Iterator[ServiceSettings]:
    (tmp_path / "store").mkdir()
    with sqlite_store(database, tmp_path / "store") as uri:
        past_the_gate = mlflow.MlflowClient(uri, uri)
        past_the_gate.create_registered_model("sft")
        past_the_gate.create_model_version("sft", "/nowhere")
        past_the_gate.set_registered_model_alias("sft", "champion", "1")
        yield load_settings(write_settings(tmp_path, uri, registry_uri=f"rlrisk+{uri}"))


@pytest.fixture
def jobs(settings: ServiceSettings) -> AssessmentTable:
    return AssessmentTable(open_database(settings.database))


def test_a_decision_on_it_is_what_the_gate_says(
    settings: ServiceSettings, jobs: AssessmentTable
) -> None:
    asked = create_app(settings, Dependencies(jobs=jobs)).test_client()

    for _ in range(2):  # a reading that failed is not taken for one that found nothing
        answer = asked.post("/v1/decisions", json={"model": ALIAS})

        assert (answer.status_code, answer.json["outcome"]) == (200, "block")
        assert answer.json["reasons"][0].startswith(
            "rlrisk gate: alias 'champion' of 'sft' version 1 is blocked by rule 'guarded'"
        )
        assert (answer.json["model"], answer.json["report_digest"]) == (ALIAS, None)


def test_a_gate_that_cannot_decide_is_an_upstream_fault(
    settings: ServiceSettings, jobs: AssessmentTable, world: World
) -> None:
    asked = create_app(settings, Dependencies(jobs=jobs)).test_client()
    assert asked.post("/v1/decisions", json={"model": ALIAS}).status_code == 200

    world.policy_path.unlink()

    answer = asked.post("/v1/decisions", json={"model": ALIAS})
    assert answer.json["type"].endswith("/upstream")


def test_an_assessment_of_it_ends_at_once_with_what_the_gate_says(
    settings: ServiceSettings, jobs: AssessmentTable
) -> None:
    request = {"model": ALIAS, "prompt_set": "heldout", "verifier": "chains", "policy": "default"}
    limits = {"max_open": 9, "max_open_per_owner": 9}
    row, _ = jobs.submit(request, owner="ann", body_digest="0" * 64, key=None, **limits)

    Scorer(jobs, settings, lambda: False).score(row.id)

    found = jobs.find(row.id)
    assert found is not None
    assert (found.state, found.error_code) == (State.FAILED, "invalid_model")
    assert "alias 'champion' of 'sft' version 1 is blocked" in str(found.error_detail)
