"""Whether programs can be judged behind the sampling process's walls is known before it matters."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from mlflow_rlrisk.errors import SandboxUnavailableError
from mlflow_rlrisk.verifiers import load_verifier
from mlflow_rlrisk.verifiers.code.sandbox import landlock
from service.app import create_app
from service.deps import Dependencies
from service.sampling.sandboxes import watch
from service.settings import load_settings
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.worker_presence import say_alive
from tests.service.running_service import write_settings

pytestmark = pytest.mark.skipif(landlock.abi() == 0, reason="tier B needs Landlock")


def test_what_every_living_worker_would_fail_is_refused_at_once(tmp_path: Path) -> None:
    # Bubblewrap cannot run behind the walls, so tier A is never to be had there.
    verifiers = {"good": "code", "bad": "code:tier=A", "plain": "exact"}
    settings = load_settings(write_settings(tmp_path, "sqlite:///x.db", verifiers=verifiers))
    engine = open_database(settings.database)
    client = create_app(settings, Dependencies(jobs=AssessmentTable(engine))).test_client()

    unknown = asked(client, "bad", key="k")
    say_alive(engine, "one")
    watch(settings, engine, "one", lambda _: True)
    answers = {name: asked(client, name) for name in verifiers}
    again = asked(client, "bad", key="k")
    ready = client.get("/readyz")
    with engine.begin() as connection:  # the worker falls silent
        connection.execute(sa.text("update rlrisk_workers set seen_at = 0"))
    later = asked(client, "bad")

    assert unknown.status_code == 202  # no worker has said anything
    assert (again.status_code, again.json["id"]) == (200, unknown.json["id"])
    assert {name: each.status_code for name, each in answers.items()} == {
        **{"good": 202, "plain": 202, "bad": 503},
    }
    refused = answers["bad"]
    assert refused.json["type"].endswith("/sandbox-unavailable")
    assert "tier A" in refused.json["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    assert (ready.status_code, ready.json["status"]) == (200, "degraded")
    assert ready.json["checks"]["sandbox"] == "no worker can judge programs with: bad"
    assert later.status_code == 202


def asked(client: FlaskClient, verifier: str, key: str | None = None) -> Any:
    body = {"model": "models:/a/1", "prompt_set": "heldout", "verifier": verifier}
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/assessments", json=body, headers=headers)


def test_what_was_accepted_is_told_again_where_the_operator_has_changed_the_settings(
    tmp_path: Path,
) -> None:
    # Whoever heard no answer asks again; that the name is gone now is no answer about their own.
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    told = []
    for verifiers in ({"mine": "exact"}, {"renamed": "exact"}):
        config = write_settings(tmp_path, "sqlite:///x.db", verifiers=verifiers)
        deps = Dependencies(jobs=AssessmentTable(engine))
        client = create_app(load_settings(config), deps).test_client()
        told.append(asked(client, "mine", key="k"))
    other = asked(client, "renamed", key="k")

    assert [each.status_code for each in told] == [202, 200]
    assert told[0].json["id"] == told[1].json["id"]
    assert other.json["type"].endswith("/idempotency-conflict")


def test_the_reason_of_a_judge_without_a_sandbox_keeps_its_code() -> None:
    with pytest.raises(SandboxUnavailableError, match="operator has to agree"):
        load_verifier("code:tier=none")


FILTERED = """
import errno, os, sys, tempfile
from service.sampling import walls

def refused():
    raise OSError(errno.EPERM, "not here")

walls._own_network = refused
words = walls.raise_walls(
    backend="transformers", is_offline=True, readable=[], writable=[os.environ["TMPDIR"]]
)
assert "local sockets only" in words, words
from mlflow_rlrisk.verifiers.code import CodeJudge
with CodeJudge(lanes=1) as judge:
    print(judge.tier, *judge.selftest.escaped)
"""


def test_the_judge_proves_tier_b_where_a_filter_left_no_network_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    done = subprocess.run(
        [sys.executable, "-c", FILTERED], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.stdout.split() == ["B"], done.stderr
