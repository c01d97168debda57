"""What stands between MLflow and a private address is named, wherever somebody looks."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from mlflow_rlrisk import ConfigError
from mlflow_rlrisk.doctor import WEBHOOK_SETTINGS, examine, is_healthy
from service.settings import ServiceSettings, load_settings
from service.triggering.registration import register
from tests.mlflow_server import sqlite_store
from tests.service.running_service import write_settings

SCHEMES, PRIVATE = "MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS"


@pytest.fixture
def settings(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServiceSettings]:
    """A service whose MLflow checks addresses as its server does, in this process."""
    (tmp_path / "store").mkdir()
    more = {"webhook_secret_file": "webhook.secret"}
    with sqlite_store(database, tmp_path / "store") as uri:
        client = mlflow.MlflowClient(uri, uri)
        monkeypatch.setattr("service.triggering.registration.point_mlflow", lambda _: client)
        yield load_settings(write_settings(tmp_path, "http://mlflow.internal", **more))


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WEBHOOK_SETTINGS:
        monkeypatch.delenv(name, raising=False)


def test_registering_names_the_setting_of_mlflow_that_is_missing(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"lacks {SCHEMES};"):
        register(settings, "http://127.0.0.1:1")
    monkeypatch.setenv(SCHEMES, "https,http")
    with pytest.raises(ConfigError, match=f"lacks {PRIVATE};"):
        register(settings, "http://127.0.0.1:1")


def test_a_registry_without_a_server_sends_nothing(settings: ServiceSettings) -> None:
    database = settings.model_copy(update={"registry_uri": "sqlite:///mlflow.db"})

    with pytest.raises(ConfigError, match="looked at by the poller"):
        register(database, "https://rlrisk.example")


def test_without_a_place_for_the_secret_nothing_is_registered(settings: ServiceSettings) -> None:
    nowhere = settings.model_copy(update={"webhook_secret_file": None})

    with pytest.raises(ConfigError, match="RLRISK_WEBHOOK_SECRET"):
        register(nowhere, "https://rlrisk.example")


def test_doctor_names_what_mlflow_lacks_and_calls_the_machine_healthy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mlflow_rlrisk.doctor._sandbox", lambda: iter(()))
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")

    def webhooks() -> tuple[str, str, str]:
        found = next(each for each in examine() if each.name == "MLflow webhooks")
        return found.status, found.detail, found.mend or ""

    status, detail, mend = webhooks()
    assert status == "missing"
    assert all(name in detail and f"{name}=" in mend for name in WEBHOOK_SETTINGS)
    assert is_healthy(examine())
    monkeypatch.setenv(PRIVATE, "true")
    assert PRIVATE not in "".join(webhooks())
