"""What fails around the service: MLflow away, slow or talking nonsense; a database locked or full.

Nothing promotes meanwhile, the problem has the right slug, and afterwards all is as before.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

import service.registry.standing
from service.app import create_app
from service.deps import Dependencies
from service.publishing import publish
from service.registry.upstream import WAITS
from service.sampling.scoring import Scorer
from service.settings import Limits, PromptSetSettings, ServiceSettings
from service.tables.assessment_rows import State
from service.tables.assessments import AssessmentTable
from service.tables.database import write
from service.tables.opening import open_database
from tests.benchmarks.service_decisions import MODEL, decided
from tests.mlflow_server import pointed_at, sqlite_store
from tests.service.dashboard_world import register

pytestmark = pytest.mark.xdist_group("faults")  # its server is started once

ASK = {"model": f"models:/{MODEL}/1", "policy": "lenient"}


def settings_of(folder: Path, uri: str) -> ServiceSettings:
    (folder / "lenient.yaml").write_text("required_level: medium\n")
    return ServiceSettings(
        tracking_uri=uri,
        data_dir=str(folder),
        prompt_sets={"p": PromptSetSettings(path="p.jsonl")},
        verifiers={"v": "exact"},
        policies={"lenient": str(folder / "lenient.yaml")},
        limits=Limits(min_free_disk_bytes=0, min_free_memory_bytes=0),
    )


def application(folder: Path, uri: str) -> Flask:
    engine = open_database(f"sqlite:///{folder}/service.db")
    return create_app(settings_of(folder, uri), Dependencies(jobs=AssessmentTable(engine)))


def decide(client: FlaskClient, asked: dict[str, str] = ASK) -> tuple[int, str]:
    """Status, and the outcome or the slug."""
    answer = client.post("/v1/decisions", json=asked)
    told = answer.get_json(force=True)
    return answer.status_code, told.get("outcome") or told["type"].rsplit("/", 1)[1]


def test_what_is_deleted_or_registered_anew_promotes_no_more(
    database: Path, tmp_path: Path
) -> None:
    with sqlite_store(database, tmp_path) as uri:
        client = mlflow.MlflowClient()
        register(client, MODEL, tmp_path, 2)
        app = application(tmp_path, uri)
        decided(app.extensions["rlrisk"].jobs, 2)
        caller = app.test_client()
        other = ASK | {"model": f"models:/{MODEL}/2"}
        client.set_registered_model_alias(MODEL, "candidate", "1")
        aliased = ASK | {"model": f"models:/{MODEL}@candidate"}

        before = [decide(caller, each) for each in (ASK, other, aliased)]
        client.set_registered_model_alias(MODEL, "candidate", "2")
        client.delete_model_version(MODEL, "1")
        deleted = [decide(caller, each) for each in (ASK, other, aliased)]
        client.delete_registered_model(MODEL)
        gone = [decide(caller, each) for each in (ASK, other, aliased)]
        register(client, MODEL, tmp_path, 2)
        anew = [decide(caller, each) for each in (ASK, other)]

    assert before == [(200, "promote")] * 3
    assert deleted == [(200, "inconclusive"), (200, "promote"), (200, "promote")]
    assert gone == [(200, "inconclusive"), (200, "inconclusive"), (404, "not-found")]
    assert anew == [(200, "inconclusive")] * 2


def version(name: str, number: str) -> bytes:
    found = {"name": name, "version": number, "creation_timestamp": 1000, "status": "READY"}
    return json.dumps({"model_version": found | {"source": "s3://b/k"}}).encode()


class Registry(BaseHTTPRequestHandler):
    """Answers as MLflow does, or as something in front of it that went wrong."""

    fault: Callable[["Registry"], None] | None = None
    num_asked = 0

    def do_GET(self) -> None:
        Registry.num_asked += 1
        if Registry.fault is not None:
            Registry.fault(self)
            return
        self.reply(version(MODEL, "1"))

    def reply(self, body: bytes, status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        """A byte at a time: no limit on a single read ends it."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            while Registry.fault is not None:
                self.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


FAULTS: dict[str, Callable[[Registry], None]] = {
    "a page instead of JSON": lambda r: r.reply(b"<html>Welcome</html>"),
    "JSON of another kind": lambda r: r.reply(b'["model_version"]'),
    "fields of other types": lambda r: r.reply(b'{"model_version": {"version": {"a": 1}}}'),
    "nothing at all": lambda r: r.reply(b""),
    "an empty object": lambda r: r.reply(b"{}"),
    "another version": lambda r: r.reply(version(MODEL, "2")),
    "another model": lambda r: r.reply(version("other", "1")),
    "bytes that are no text": lambda r: r.reply(b"\xff\xfe\x00{"),
    "an answer that is cut": lambda r: r.reply(b'{"model', length=5000),
    "a failure": lambda r: r.reply(b"oops", 500),
    "a proxy's failure": lambda r: r.reply(b"<h1>Bad Gateway</h1>", 502),
    "a refused login": lambda r: r.reply(b"who are you?", 401),
    "a missing page that is not MLflow's": lambda r: r.reply(b"nginx", 404),
    "a closed connection": lambda r: r.connection.close(),
    "an answer that never ends": Registry.drip,
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def remote(address: str, tmp_path_factory: pytest.TempPathFactory) -> Flask:
    app = application(tmp_path_factory.mktemp("remote"), address)
    decided(app.extensions["rlrisk"].jobs, 1)
    return app


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITS:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(service.registry.standing, "ANSWER_LIMIT_S", 1.0)


@pytest.mark.parametrize("name", FAULTS)
def test_while_mlflow_talks_nonsense_nothing_promotes(
    name: str, remote: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = remote.test_client()
    before = decide(caller)

    monkeypatch.setattr(Registry, "fault", FAULTS[name])
    during = caller.post("/v1/decisions", json=ASK)
    monkeypatch.setattr(Registry, "fault", None)

    assert before == (200, "promote")
    assert (during.status_code, during.get_json(force=True)["title"]) == (
        502,
        "MLflow did not answer as it should",
    )
    assert int(during.headers["Retry-After"]) > 0
    assert decide(caller) == (200, "promote")


@pytest.mark.parametrize("name", [*FAULTS][:-1])  # the last would keep each waiting its 5000 s
def test_while_mlflow_talks_nonsense_an_assessment_waits_and_so_does_its_report(
    name: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    app, settings = application(tmp_path, address), settings_of(tmp_path, address)
    jobs = app.extensions["rlrisk"].jobs
    body = {"model": f"models:/{MODEL}/1", "prompt_set": "p", "verifier": "v"}
    asked = app.test_client().post("/v1/assessments", json=body).get_json()["id"]
    decided(jobs, 1)
    (done,) = jobs.page(state=State.SUCCEEDED)
    with write(jobs.engine) as connection:
        connection.execute(sa.text("UPDATE rlrisk_assessments SET published_at = NULL"))

    monkeypatch.setattr(Registry, "fault", FAULTS[name])
    with pointed_at(address):
        is_over = Scorer(jobs, settings, lambda: False).score(asked)
        is_published = publish(jobs, settings, done.id, tmp_path / "shards")

    waits, unpublished = jobs.find(asked), jobs.find(done.id)
    assert waits is not None
    assert unpublished is not None
    assert (is_over, waits.state, waits.stage) == (True, State.QUEUED, "wait for MLflow")
    assert (waits.attempts, waits.error_code, waits.pinned) == (0, None, None)  # nobody died of it
    assert (is_published, unpublished.published_at) == (False, None)
    assert unpublished.publish_error


@pytest.mark.parametrize("name", ["an empty object", "nothing at all", "a page instead of JSON"])
def test_while_mlflow_talks_nonsense_no_run_is_judged(
    remote: Flask, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # An empty answer was a run without any metric, and that a judgement.
    monkeypatch.setattr(Registry, "fault", FAULTS[name])

    answer = remote.test_client().post(f"/v1/runs/{'a' * 32}/monitor", json={})

    assert answer.status_code == 502
    assert answer.get_json(force=True)["type"].endswith("/upstream")


def test_a_registry_that_is_down_promotes_nothing(tmp_path: Path) -> None:
    app = application(tmp_path, "http://127.0.0.1:9")
    decided(app.extensions["rlrisk"].jobs, 1)
    caller = app.test_client()

    assert decide(caller) == (502, "upstream")
    assert decide(caller, ASK | {"policy": "default"}) == (200, "block")  # needs no registry


def test_callers_share_a_reading_but_never_one_from_before_they_asked(
    remote: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[int, str]] = []
    slow = threading.Event()

    def late(registry: Registry) -> None:
        slow.wait(5)
        registry.reply(json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST"}).encode(), 404)

    def ask() -> None:
        answers.append(decide(remote.test_client()))

    monkeypatch.setattr(service.registry.standing, "ANSWER_LIMIT_S", 10.0)
    for name in WAITS:
        monkeypatch.setenv(name, "10")
    assert decide(remote.test_client()) == (200, "promote")
    monkeypatch.setattr(Registry, "fault", late)
    monkeypatch.setattr(Registry, "num_asked", 0)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    time.sleep(0.5)
    slow.set()
    for each in threads:
        each.join()

    assert answers == [(200, "inconclusive")] * 8
    assert Registry.num_asked <= 2  # the one under way, and one for those who came meanwhile


def test_a_locked_database_is_503_and_a_full_one_507_and_both_recover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.tables.opening.LOCK_LIMIT_S", 0.2)
    app = application(tmp_path, "sqlite:///nowhere.db")
    engine, caller = app.extensions["rlrisk"].jobs.engine, app.test_client()
    body = {"model": "models:/" + "a" * 200 + "/1", "prompt_set": "p", "verifier": "v"}

    def submit() -> tuple[int, str]:
        answer = caller.post(
            "/v1/assessments", json=body | {"model": "models:/" + "a" * 200 + "/1"}
        )
        told = answer.get_json(force=True)
        return answer.status_code, told.get("state") or told["type"].rsplit("/", 1)[1]

    with sqlite3.connect(tmp_path / "service.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        locked, is_ready = submit(), caller.get("/readyz").status_code == 200
        other.execute("ROLLBACK")
    free = submit()

    def fill(connection: Any, _: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    sa.event.listen(engine, "connect", fill)
    engine.dispose()
    full = [submit() for _ in range(40)]
    sa.event.remove(engine, "connect", fill)
    engine.dispose()
    kept = caller.get("/v1/assessments?limit=200").get_json()["assessments"]

    assert (locked, free) == ((503, "storage-unavailable"), (202, "queued"))
    assert not is_ready
    assert set(full) == {(202, "queued"), (507, "disk-full")}
    assert full[-1] == (507, "disk-full")
    assert len(kept) == 1 + full.count((202, "queued"))
    assert submit() == (202, "queued")
