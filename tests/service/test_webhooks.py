"""A real MLflow server's webhooks start assessments; what it lost is found by the poller."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from cryptography.fernet import Fernet

from mlflow_rlrisk import log_checkpoint
from tests.mlflow_server import mlflow_server, pointed_at
from tests.service.recording_proxy import RecordingProxy, recording_proxy
from tests.service.running_service import (
    BASE,
    COMMAND,
    Client,
    RunningService,
    free_port,
    running_service,
    wait_for,
    write_settings,
)

pytestmark = [pytest.mark.mlflow, pytest.mark.slow]

PATH = "/v1/webhooks/mlflow"
ASKED = {"prompt_set": "heldout", "verifier": "chains"}
TRIGGERS = {
    "new": {"models": ["chains-*"], **ASKED},
    "on-request": {
        "models": ["asked-*"],
        "created": False,
        "aliases": ["candidate"],
        "tags": {"assess": "yes*"},
        "sampling": {"num_samples": 2},
        **ASKED,
    },
}
PRIVATE = {
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
}
SERVER = PRIVATE | {"MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES": "1"}


@dataclass(frozen=True)
class World:
    """MLflow, the service, and what stands between them."""

    uri: str
    service: RunningService
    proxy: RecordingProxy

    @property
    def client(self) -> Client:
        return Client(self.service.url)

    @property
    def registry(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri, self.uri)

    def jobs(self, model: str) -> list[dict[str, Any]]:
        """Assessments of ``models:/name/version``."""
        found = self.client.ask("GET", "/v1/assessments?limit=200").json["assessments"]
        return [each for each in found if each["model"] == model]

    def started(self, model: str, limit_s: float = 120) -> dict[str, Any]:
        """The one assessment of a version."""
        wait_for(lambda: self.jobs(model), limit_s)
        (job,) = self.jobs(model)
        return job

    def cancel(self, model: str) -> None:
        for job in self.jobs(model):
            self.client.ask("DELETE", f"/v1/assessments/{job['id']}")


@pytest.fixture(scope="module")
def world(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("webhooks")
    (folder / "mlflow").mkdir()
    with (
        mlflow_server(folder / "mlflow", database, environment=SERVER) as uri,
        pointed_at(uri),
    ):
        mlflow.create_experiment("rlrisk")
        mlflow.set_experiment("rlrisk")
        config = write_settings(
            folder,
            uri,
            triggers=TRIGGERS,
            webhook_secret_file="webhook.secret",
            poll_interval_s=3600,
        )
        with running_service(config) as service, recording_proxy(service.url) as proxy:
            yield World(uri, service, proxy)


def register(world: World, url: str | None = None) -> tuple[int, Any]:
    command = [sys.executable, "-c", COMMAND, "webhooks", "register"]
    command += ["--config", str(world.service.config), "--url", url or world.proxy.url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def a_webhook_of_mlflow_starts_one_assessment_and_forged_ones_none(world: World) -> None:
    log = world.service.log
    wait_for(lambda: "MLflow has no webhook for this service" in log.read_text())
    wait_for(lambda: all(name in log.read_text() for name in PRIVATE))  # not set for the service
    code, told = register(world, f"http://127.0.0.1:{free_port()}")
    assert (code, told["arrives"]) == (1, False)
    assert "MLflow's delivery failed" in told["notes"][0]
    code, told = register(world)
    assert (code, told["arrives"]) == (0, True)
    assert register(world)[1]["webhook_id"] == told["webhook_id"]  # renewed, not doubled
    secret = world.service.config.parent / "webhook.secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in json.dumps(told) + log.read_text()

    log_checkpoint(BASE, "chains-sft")

    job = world.started("models:/chains-sft/1")
    assert job["trigger"] | {"delivery_id": ""} == {
        "name": "new",
        "cause": "version created",
        "by": "webhook",
        "delivery_id": "",
    }
    headers, body, _ = next(
        each for each in world.proxy.deliveries if b'"model_version"' in each[1] and each[2] == 202
    )
    assert job["trigger"]["delivery_id"] == headers["X-MLflow-Delivery-Id"]
    refusals = {
        "replayed-delivery": (headers, body),
        "bad-signature": (headers, body.replace(b'"1"', b'"2"')),
    }
    for slug, (sent, text) in refusals.items():
        answer = world.client.ask("POST", PATH, text, **sent)
        assert answer.slug == slug
    for name in ("X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"):
        sent = {each: value for each, value in headers.items() if each != name}
        assert world.client.ask("POST", PATH, body, **sent).slug == "bad-signature"
        changed = {**headers, name: headers[name] + "0"}
        assert world.client.ask("POST", PATH, body, **changed).slug == "bad-signature"
    assert world.client.wait(job["id"])["state"] == "succeeded"
    version = world.registry.get_model_version("chains-sft", "1")
    assert version.tags["rlrisk.risk_level"] == job["risk_level"] or job["risk_level"] is None
    assert len(world.jobs("models:/chains-sft/1")) == 1  # the tags it sets start nothing
    assert len(world.jobs("models:/chains-sft/2")) == 0


def aliases_and_tags_start_what_the_triggers_say_and_nothing_else(world: World) -> None:
    world.registry.create_registered_model("asked-sft")
    for _ in range(3):
        world.registry.create_model_version("asked-sft", "models:/chains-sft/1")

    world.registry.set_model_version_tag("asked-sft", "1", "assess", "no")
    world.registry.set_registered_model_alias("asked-sft", "other", "1")
    world.registry.set_model_version_tag("asked-sft", "2", "assess", "yes, please")
    world.registry.set_registered_model_alias("asked-sft", "candidate", "3")

    by_tag = world.started("models:/asked-sft/2")
    by_alias = world.started("models:/asked-sft/3")
    assert by_tag["trigger"]["cause"] == "tag assess"
    assert by_alias["trigger"]["cause"] == "alias candidate"
    world.registry.set_model_version_tag("asked-sft", "3", "assess", "yes")  # same content again
    world.registry.set_registered_model_alias("asked-sft", "candidate", "3")
    wait_for(lambda: sum(b'"version": "3"' in each[1] for each in world.proxy.deliveries) >= 3)
    time.sleep(1.5)  # three turns of the worker
    assert len(world.jobs("models:/asked-sft/3")) == 1
    assert world.jobs("models:/asked-sft/1") == []
    for number in (2, 3):
        world.cancel(f"models:/asked-sft/{number}")


def what_mlflow_lost_is_found_by_the_poller_and_nothing_twice(world: World) -> None:
    before = {
        each: len(world.jobs(each)) for each in ("models:/chains-sft/1", "models:/asked-sft/3")
    }
    world.service.stop()
    settings = yaml.safe_load(world.service.config.read_text()) | {"poll_interval_s": 1}
    world.service.config.write_text(yaml.safe_dump(settings))
    world.service.start()
    world.service.wait_until_up()
    world.proxy.loses = True

    world.registry.create_model_version("chains-sft", "models:/chains-sft/1")
    world.registry.create_model_version("asked-sft", "models:/chains-sft/1")
    world.registry.create_model_version("asked-sft", "models:/chains-sft/1")
    world.registry.set_registered_model_alias("asked-sft", "candidate", "4")
    world.registry.set_model_version_tag("asked-sft", "5", "assess", "yes")

    for model in ("models:/chains-sft/2", "models:/asked-sft/4", "models:/asked-sft/5"):
        job = world.started(model)
        assert job["trigger"]["by"] == "poller"
        assert job["trigger"]["delivery_id"] is None
        world.cancel(model)
    time.sleep(2.5)  # two more looks
    assert {each: len(world.jobs(each)) for each in before} == before
    assert len(world.jobs("models:/chains-sft/2")) == 1


@pytest.mark.timeout(900)
def test_a_real_mlflow_starts_assessments_by_webhook_and_what_is_lost_is_found(
    world: World,
) -> None:
    a_webhook_of_mlflow_starts_one_assessment_and_forged_ones_none(world)
    aliases_and_tags_start_what_the_triggers_say_and_nothing_else(world)
    what_mlflow_lost_is_found_by_the_poller_and_nothing_twice(world)
