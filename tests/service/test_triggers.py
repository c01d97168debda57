"""What counts as MLflow's word, and what a worker makes of it; no server, no process."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import pytest
from flask import Flask
from flask.testing import FlaskClient
from mlflow.webhooks.delivery import _generate_hmac_signature
from sqlalchemy.exc import OperationalError

from mlflow_rlrisk import ConfigError
from service.app import create_app
from service.deps import Dependencies
from service.settings import ServiceSettings, load_settings
from service.tables.assessment_rows import State
from service.tables.assessments import AssessmentTable
from service.tables.deliveries import DeliveryTable
from service.tables.opening import open_database
from service.tables.poller_state import LEASE_S
from service.tables.tokens import Scope, TokenTable
from service.triggering.poller import Poller
from service.triggering.triggers import load_triggers
from service.triggering.webhooks import MAX_AGE_S
from tests.mlflow_server import sqlite_store
from tests.service.running_service import write_settings

NOW = 1_800_000_000
SECRETS = ("the-old-secret-0123", "the-new-secret-4567")
PATH = "/v1/webhooks/mlflow"
TRIGGERS: dict[str, Any] = {
    "new": {"models": ["sft-*"], "prompt_set": "heldout", "verifier": "chains"},
    "asked": {
        "models": ["base", "x"],
        "created": False,
        "aliases": ["candidate"],
        "tags": {"assess": "yes"},
        "sampling": {"num_samples": 2},
        "prompt_set": "heldout",
        "verifier": "chains",
    },
}


@pytest.fixture
def registry(database: Path, tmp_path: Path) -> Iterator[mlflow.MlflowClient]:
    (tmp_path / "store").mkdir()
    with sqlite_store(database, tmp_path / "store") as uri:
        yield mlflow.MlflowClient(uri, uri)


@pytest.fixture
def settings(registry: mlflow.MlflowClient, tmp_path: Path) -> ServiceSettings:
    (tmp_path / "secrets").write_text("\n".join(SECRETS))
    more = {"triggers": TRIGGERS, "webhook_secret_file": "secrets", "limits": {"max_open": 4}}
    return load_settings(write_settings(tmp_path, registry.tracking_uri, **more))


@pytest.fixture
def jobs(settings: ServiceSettings) -> AssessmentTable:
    return AssessmentTable(open_database(settings.database))


@pytest.fixture
def app(settings: ServiceSettings, jobs: AssessmentTable) -> Flask:
    return create_app(settings, Dependencies(jobs=jobs, clock=lambda: float(NOW)))


def make(registry: mlflow.MlflowClient, name: str, count: int = 1) -> None:
    registry.create_registered_model(name)
    for _ in range(count):
        registry.create_model_version(name, "/nowhere")


def models(jobs: AssessmentTable) -> list[str]:
    return sorted(str(row.request["model"]) for row in jobs.page())


class _Delivery:
    """A delivery, signed by MLflow's own function."""

    def __init__(self, body: str, *, secret: str = SECRETS[0], at: int = NOW, id: str = "d-1"):
        self.body = body.encode()
        self.headers = {
            "Content-Type": "application/json",
            "X-MLflow-Delivery-Id": id,
            "X-MLflow-Timestamp": str(at),
            "X-MLflow-Signature": _generate_hmac_signature(secret, id, str(at), body),
        }

    def send(self, browser: FlaskClient, **changes: str) -> tuple[int, str]:
        headers = {**self.headers, **{k.replace("_", "-"): v for k, v in changes.items()}}
        answer = browser.post(PATH, data=self.body, headers=headers)
        if answer.status_code < 400:
            return answer.status_code, answer.json["status"]
        assert answer.mimetype == "application/problem+json"
        return answer.status_code, answer.json["type"].rsplit("/", 1)[1]


def event(kind: str = "model_version.created", **data: str) -> str:
    entity, action = kind.split(".")
    told = ", ".join(f'"{key}": "{value}"' for key, value in data.items())
    return f'{{"entity": "{entity}", "action": "{action}", "data": {{{told}}}}}'


CREATED = event(name="sft-a", version="1")
ALIAS = partial(event, "model_version_alias.created", name="x", version="1")
TAG = partial(event, "model_version_tag.set", name="x", version="1")


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, (202, "accepted")),
        ({"X_MLflow_Signature": ""}, (401, "bad-signature")),
        ({"X_MLflow_Signature": "v1,"}, (401, "bad-signature")),
        ({"X_MLflow_Signature": "v1,é"}, (401, "bad-signature")),
        ({"X_MLflow_Timestamp": str(NOW + 1)}, (401, "bad-signature")),
        ({"X_MLflow_Timestamp": "1e9"}, (401, "bad-signature")),
        ({"X_MLflow_Delivery_Id": "d-2"}, (401, "bad-signature")),
        ({"X_MLflow_Delivery_Id": "../d"}, (401, "bad-signature")),
        ({"Authorization": "Bearer rlr_x"}, (202, "accepted")),  # no token has a say here
    ],
)
def test_only_what_mlflow_signed_is_taken(
    app: Flask, changes: dict[str, str], answer: tuple[int, str]
) -> None:
    assert _Delivery(CREATED).send(app.test_client(), **changes) == answer


def test_another_version_of_the_scheme_is_not_guessed_at(app: Flask) -> None:
    given = _Delivery(CREATED)
    later = given.headers["X-MLflow-Signature"].replace("v1,", "v2,")

    assert given.send(app.test_client(), X_MLflow_Signature=later) == (401, "bad-signature")


@pytest.mark.parametrize(
    ("seconds", "status"), [(-MAX_AGE_S, 202), (MAX_AGE_S, 202), (-301, 401), (301, 401)]
)
def test_a_signature_counts_five_minutes_around_its_time(
    app: Flask, seconds: int, status: int
) -> None:
    assert _Delivery(CREATED, at=NOW + seconds).send(app.test_client())[0] == status


def test_a_delivery_counts_once_and_every_configured_secret_does(
    app: Flask, jobs: AssessmentTable
) -> None:
    browser = app.test_client()
    first = _Delivery(CREATED)

    assert first.send(browser) == (202, "accepted")
    assert first.send(browser) == (409, "replayed-delivery")
    assert _Delivery(CREATED, secret=SECRETS[1], id="d-2").send(browser) == (202, "accepted")
    assert _Delivery(CREATED, secret="x" * 20, id="d-3").send(browser) == (401, "bad-signature")
    assert len(DeliveryTable(jobs.engine).waiting(10)) == 2


def test_the_retry_of_a_delivery_that_could_not_be_stored_is_taken(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow sends the same id, time and signature again after a 503.
    browser, given = app.test_client(), _Delivery(CREATED)

    def locked(*_: object, **__: object) -> bool:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(DeliveryTable, "take", locked)
        assert given.send(browser) == (503, "storage-unavailable")

    assert given.send(browser) == (202, "accepted")


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (event(name="other", version="1"), (200, "ignored")),
        (ALIAS(alias="candidate"), (202, "accepted")),
        (ALIAS(alias="prod"), (200, "ignored")),
        (TAG(key="assess", value="no"), (202, "accepted")),
        (TAG(key="rlrisk.risk_level", value="low"), (200, "ignored")),
        (event("prompt_version.created", name="sft-a", version="1"), (200, "ignored")),
        (CREATED.replace('"data"', '"workspace": "theirs", "data"'), (200, "ignored")),
        (event(name="sft-a"), (422, "invalid-field")),
        ('{"entity": "model_version", "action": "created", "data": []}', (422, "invalid-field")),
        ("[]", (422, "invalid-field")),
        ("{", (400, "invalid-json")),
        ("[" * 5000, (400, "invalid-json")),
    ],
)
def test_what_no_trigger_is_about_is_taken_and_forgotten(
    app: Flask, body: str, answer: tuple[int, str]
) -> None:
    assert _Delivery(body).send(app.test_client()) == answer


def test_without_a_secret_nothing_is_taken(
    settings: ServiceSettings, jobs: AssessmentTable
) -> None:
    Path(str(settings.webhook_secret_file)).write_text("short\n")
    app = create_app(settings, Dependencies(jobs=jobs, clock=lambda: float(NOW)))

    assert _Delivery(CREATED, secret="short").send(app.test_client()) == (404, "not-found")


def test_hints_and_looks_start_each_version_once(
    registry: mlflow.MlflowClient, settings: ServiceSettings, jobs: AssessmentTable, app: Flask
) -> None:
    make(registry, "sft-a", 2)
    make(registry, "base", 4)
    registry.set_registered_model_alias("base", "candidate", "2")
    registry.set_model_version_tag("base", "3", "assess", "yes")
    registry.set_model_version_tag("base", "4", "assess", "no")
    browser = app.test_client()
    for number, body in enumerate((CREATED, event(name="gone-sft", version="7"), CREATED)):
        _Delivery(body, id=f"d-{number}").send(browser)

    first, second = (Poller(settings, jobs, name) for name in ("a", "b"))
    for _ in range(2):
        first.turn()
        second.turn()  # has not the lease
        Poller(settings, jobs, "a").turn()  # a restarted worker remembers nothing

    assert models(jobs) == [
        f"models:/{each}" for each in ("base/2", "base/3", "sft-a/1", "sft-a/2")
    ]
    told = {str(row.request["model"]): row.request["trigger"] for row in jobs.page()}
    assert told["models:/sft-a/1"]["by"] == "webhook"
    assert told["models:/sft-a/1"]["delivery_id"] == "d-0"
    assert told["models:/sft-a/2"] == {
        "name": "new",
        "cause": "version created",
        "by": "poller",
        "delivery_id": None,
    }
    assert (told["models:/base/2"]["cause"], told["models:/base/3"]["cause"]) == (
        "alias candidate",
        "tag assess",
    )
    samples = {row.request["model"]: row.request["sampling"]["num_samples"] for row in jobs.page()}
    assert (samples["models:/base/2"], samples["models:/sft-a/1"]) == (2, 4)


def test_a_version_made_anew_under_the_same_number_is_other_content(
    registry: mlflow.MlflowClient, settings: ServiceSettings, jobs: AssessmentTable
) -> None:
    make(registry, "sft-a")
    poller = Poller(settings, jobs, "a")
    poller.look()
    registry.delete_registered_model("sft-a")
    time.sleep(0.002)  # MLflow's clock has milliseconds
    make(registry, "sft-a")

    poller.look()
    poller.look()

    assert models(jobs) == ["models:/sft-a/1"] * 2


def test_a_full_queue_delays_and_loses_nothing(
    registry: mlflow.MlflowClient,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.triggering.poller.REST_S", 0.0)
    make(registry, "sft-a", 6)
    _Delivery(event(name="sft-a", version="1")).send(app.test_client())
    poller = Poller(settings.model_copy(update={"poll_interval_s": 1e-6}), jobs, "a")

    for _ in range(4):
        poller.turn()
    open_ones = jobs.page(state=State.QUEUED)
    assert len(open_ones) == 4
    for row in open_ones:
        jobs.cancel(row.id)
    poller.turn()

    assert models(jobs) == [f"models:/sft-a/{number}" for number in range(1, 7)]


def test_the_look_reads_page_by_page_and_ends_where_the_last_one_began(
    registry: mlflow.MlflowClient,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.triggering.poller.PAGE", 2)
    monkeypatch.setattr("service.triggering.poller.OVERLAP_MS", 0)
    roomy = settings.limits.model_copy(update={"max_open": 99, "max_open_per_token": 99})
    settings = settings.model_copy(update={"limits": roomy})
    poller = Poller(settings, jobs, "a")
    make(registry, "old", 1)
    poller.look()
    time.sleep(0.002)
    make(registry, "sft-a", 5)
    poller.look()
    assert models(jobs) == [f"models:/sft-a/{number}" for number in range(1, 6)]
    time.sleep(0.002)
    asked: list[int] = []
    search = poller._client.search_model_versions

    def counted(*given: Any, **named: Any) -> Any:
        page = search(*given, **named)
        asked.append(len(page))
        return page

    monkeypatch.setattr(poller._client, "search_model_versions", counted)
    poller.look()

    assert asked == [2, 0]  # the newest page is older than the last look; nobody has the tag


def test_another_worker_looks_when_the_first_is_gone(
    registry: mlflow.MlflowClient,
    settings: ServiceSettings,
    jobs: AssessmentTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (Poller(settings, jobs, name) for name in ("a", "b"))
    first.turn()
    make(registry, "sft-a")
    second.turn()
    assert models(jobs) == []

    later = time.time() + LEASE_S + 1
    monkeypatch.setattr("service.tables.poller_state.time.time", lambda: later)
    Poller(settings, jobs, "b").turn()

    assert models(jobs) == ["models:/sft-a/1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"verifier": "unknown"},
        {"sampling": {"num_samples": 100_000}},
        {"sampling": {"seeds": 1}},
        {"group_size": 64},
        {"lookahead": "unknown"},
    ],
)
def test_a_trigger_that_asks_for_what_nobody_may_is_refused_at_the_start(
    settings: ServiceSettings, changes: dict[str, Any]
) -> None:
    bad = settings.triggers["new"].model_copy(update=changes)

    with pytest.raises(ConfigError, match=r"triggers\.bad"):
        load_triggers(settings.model_copy(update={"triggers": {"bad": bad}}))


def test_four_workers_that_all_look_at_once_start_nothing_twice(
    registry: mlflow.MlflowClient, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.triggering.poller.PollerState.is_mine", lambda _: True)
    make(registry, "sft-a", 4)
    tables = [AssessmentTable(open_database(settings.database)) for _ in range(4)]
    workers = [Thread(target=Poller(settings, table, "x").turn) for table in tables]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert models(tables[0]) == [f"models:/sft-a/{number}" for number in range(1, 5)]


def test_who_reads_sees_what_triggers_started_and_only_an_admin_cancels_it(
    registry: mlflow.MlflowClient, settings: ServiceSettings, jobs: AssessmentTable
) -> None:
    make(registry, "sft-a")
    Poller(settings, jobs, "a").look()
    table = TokenTable(jobs.engine)
    ann, _ = table.create("ann", [Scope.READ, Scope.ASSESS])
    root, _ = table.create("root", [Scope.ADMIN])
    browser = create_app(settings, Dependencies(jobs=jobs, tokens=table)).test_client()
    (job,) = jobs.page()

    def ask(method: str, path: str, token: str) -> Any:
        return browser.open(path, method=method, headers={"Authorization": f"Bearer {token}"})

    place = f"/v1/assessments/{job.id}"
    assert ask("GET", place, ann).json["trigger"]["name"] == "new"
    assert len(ask("GET", "/v1/assessments", ann).json["assessments"]) == 1
    assert ask("DELETE", place, ann).status_code == 403
    assert ask("DELETE", place, root).json["state"] == "cancelled"
