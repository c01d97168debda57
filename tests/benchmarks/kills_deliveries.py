"""Versions that MLflow tells of by signed deliveries, while everything is killed.

A delivery goes out again under its id until it is answered, and is given up after a few times;
some are never sent at all, as those that a dying MLflow had in its memory. Each version must be
assessed once, and what was answered must have been followed, however it was killed in between.
"""

import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy as sa
from mlflow.webhooks.delivery import _generate_hmac_signature

from mlflow_rlrisk import resolve_reference
from service.settings import load_settings
from service.tables.opening import open_database
from tests.service.running_service import Client

MODEL = "chains-told"
SECRET = "a-secret-of-the-kill-test"
SECRET_FILE = "webhook.secret"
PATH = "/v1/webhooks/mlflow"
LOST, REPLAYED = 0.3, 0.3
"""Chances that a delivery is never sent, and that one that was answered is sent once more."""
MAX_TRIES = 20
REPAIR_LIMIT_S = 60.0
"""Within which the poller must have found what no delivery told."""


def trigger_settings(folder: Path) -> dict[str, Any]:
    """Settings of a service that assesses every version of `MODEL`."""
    (folder / SECRET_FILE).write_text(f"{SECRET}\n")
    trigger = {"models": [MODEL], "prompt_set": "heldout", "verifier": "chains"}
    return {
        "triggers": {"told": trigger},
        "webhook_secret_file": SECRET_FILE,
        "poll_interval_s": 2.0,
    }


class Deliveries:
    """What was registered, what was sent of it, and what was answered."""

    def __init__(self, model: str) -> None:
        """Register versions of the same files as ``model``."""
        self._model_id = resolve_reference(model).model_id
        self.versions: list[str] = []
        self.answered: set[str] = set()
        self.num_lost = 0
        self.faults: Counter[str] = Counter()
        self._due: dict[str, tuple[dict[str, str], bytes, int]] = {}

    def register(self, draw: random.Random) -> None:
        """A new version, of which a delivery tells, or none."""
        made = mlflow.register_model(f"models:/{self._model_id}", MODEL)
        self.versions.append(str(made.version))
        if draw.random() < LOST:
            self.num_lost += 1
            return
        told = {"name": MODEL, "version": str(made.version), "source": made.source, "tags": {}}
        event = {"entity": "model_version", "action": "created", "data": told}
        body, stamp, delivery_id = json.dumps(event), str(int(time.time())), str(uuid.uuid4())
        headers = {
            "X-MLflow-Delivery-Id": delivery_id,
            "X-MLflow-Timestamp": stamp,
            "X-MLflow-Signature": _generate_hmac_signature(SECRET, delivery_id, stamp, body),
        }
        self._due[delivery_id] = (headers, body.encode(), 0)

    def are_known(self, page: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the newest version has its assessment already."""
        newest = [f"models:/{MODEL}/{number}" for number in self.versions[-1:]]
        return not newest or newest[0] in {each["model"] for each in page}

    def send(self, client: Client, draw: random.Random) -> None:
        """Send what is not answered yet; what was tried too often is given up."""
        for delivery_id, (headers, body, num_tries) in list(self._due.items()):
            if num_tries == MAX_TRIES:
                del self._due[delivery_id]
                self.num_lost += 1
                continue
            self._due[delivery_id] = (headers, body, num_tries + 1)
            try:
                status = client.ask("POST", PATH, body, timeout_s=5, **headers).status
                if status in (202, 409):  # 409: it was stored, and the answer was killed
                    del self._due[delivery_id]
                    self.answered.add(delivery_id)
                if status == 202 and draw.random() < REPLAYED:
                    again = client.ask("POST", PATH, body, timeout_s=5, **headers).status
                    self.faults["a replay was taken"] += again != 409
            except (OSError, ValueError):
                continue


def judge_deliveries(
    client: Client, config: Path, deliveries: Deliveries
) -> tuple[dict[str, str], Counter[str]]:
    """Wait until every version has its assessment; returns id -> model, and what is wrong."""
    wanted = [f"models:/{MODEL}/{number}" for number in deliveries.versions]
    deadline = time.monotonic() + REPAIR_LIMIT_S
    while True:
        found = {each["id"]: each["model"] for each in _all(client) if each["model"] in set(wanted)}
        unhandled = deliveries.answered - _handled(config)
        if set(found.values()) == set(wanted) and not unhandled:
            break
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    counts = Counter(found.values())
    faults = deliveries.faults + Counter(
        {
            "a version that is not assessed": sum(counts[model] == 0 for model in wanted),
            "a version that is assessed twice": sum(counts[model] > 1 for model in wanted),
            "an answered delivery that nobody followed": len(unhandled),
        }
    )
    return found, faults


def _all(client: Client) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    page = client.ask("GET", "/v1/assessments?limit=200").json
    while True:
        found += page["assessments"]
        if page["next_before"] is None:
            return found
        before = page["next_before"]
        page = client.ask("GET", f"/v1/assessments?limit=200&before={before}").json


def _handled(config: Path) -> set[str]:
    engine = open_database(load_settings(config).database)
    try:
        with engine.connect() as connection:
            wanted = sa.text("SELECT id FROM rlrisk_deliveries WHERE handled_at IS NOT NULL")
            return {str(each) for (each,) in connection.execute(wanted)}
    finally:
        engine.dispose()
