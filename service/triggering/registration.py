"""Registers our webhook with MLflow, and says which of MLflow's settings stands in the way."""

import logging
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk import ConfigError, ModelReferenceError
from mlflow_rlrisk.doctor import WEBHOOK_SETTINGS, missing_webhook_settings, webhook_exports
from service.registry.bounded_calls import timed
from service.registry.upstream import point_mlflow
from service.settings import ServiceSettings
from service.triggering.webhooks import EVENTS, MIN_SECRET, SECRET_VARIABLE, Secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.webhook import Webhook

logger = logging.getLogger(__name__)

NAME = "rlrisk"
PATH = "/v1/webhooks/mlflow"
_SCHEMES, _PRIVATE, _KEY = "ALLOWED_SCHEMES", "ALLOW_PRIVATE_IPS", "SECRET_ENCRYPTION_KEY"
_SIGNS = {"scheme": _SCHEMES, "public": _PRIVATE, "INTERNAL_ERROR": _KEY}
"""What MLflow says when the setting is missing; it names none of them itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The webhook as MLflow has it.

    Attributes:
        arrives: Whether MLflow's example delivery was taken by the service just now.
        notes: What is in the way, and what to mind.
    """

    webhook_id: str
    url: str
    events: tuple[str, ...]
    arrives: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def register(settings: ServiceSettings, service_url: str) -> Registration:
    """Make the webhook, or give the one that is there our address and secret; then try it.

    Raises:
        ConfigError: No secret is configured, the registry is no server, or MLflow does not take
            the address.
        ModelReferenceError: MLflow does not answer.
    """
    if not settings.registry.startswith(("http://", "https://")):
        need = "only an MLflow server sends webhooks; a database is looked at by the poller"
        raise ConfigError("registry_uri", settings.registry, need)
    secret = _secret(settings)
    client, url = point_mlflow(settings), service_url.rstrip("/") + PATH
    values = {"url": url, "events": list(EVENTS), "secret": secret, "status": "ACTIVE"}
    with _told(url):
        known = _find(client)
        if known is None:
            found = client.create_webhook(NAME, **values)  # type: ignore[arg-type]
        else:
            found = client.update_webhook(known.webhook_id, **values)  # type: ignore[arg-type]
        result = client.test_webhook(found.webhook_id, EVENTS[0])  # type: ignore[arg-type]
    notes = [f"MLflow's process needs {name} at every start" for name in WEBHOOK_SETTINGS]
    if not result.success:
        why = result.error_message or f"{result.response_status} {result.response_body}"
        notes = [f"MLflow's delivery failed: {_with_settings(str(why))[:500]}", *notes]
    return Registration(
        webhook_id=found.webhook_id,
        url=url,
        events=EVENTS,
        arrives=bool(result.success),
        notes=tuple(notes),
    )


def tell_state(settings: ServiceSettings) -> None:
    """Log at the start whether MLflow will call, and which settings this environment lacks."""
    from mlflow.exceptions import MlflowException

    if not settings.triggers or not settings.registry.startswith(("http://", "https://")):
        return
    every = f"; the poller looks every {settings.poll_interval_s:g} s"
    if not Secrets(settings.webhook_secret_file).current():
        logger.warning("no webhook secret is configured: no webhook is taken%s", every)
    try:
        known = _find(timed(point_mlflow(settings)))
    except (MlflowException, OSError) as error:
        text = _with_settings(f"{getattr(error, 'error_code', '')} {error}")
        logger.warning("MLflow's webhooks cannot be listed: %s%s", text[:500], every)
        return
    if known is None:
        command = "rlrisk webhooks register --config FILE --url URL"
        logger.warning("MLflow has no webhook for this service: %s%s", command, every)
    if missing := missing_webhook_settings():
        logger.warning(
            "to call a private address MLflow's server needs %s; not set here: %s",
            ", ".join(WEBHOOK_SETTINGS),
            ", ".join(missing),
        )


def _find(client: "MlflowClient") -> "Webhook | None":
    token = None
    while True:
        page = client.list_webhooks(max_results=100, page_token=token)
        for each in page:
            if each.name == NAME:
                return each
        if not (token := page.token):
            return None


def _secret(settings: ServiceSettings) -> str:
    """The first configured secret; one is made where the file is not there yet."""
    path = settings.webhook_secret_file
    if path is not None and not Path(path).exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
    found = Secrets(path).current()
    if not found:
        need = f"name a file for it, or set {SECRET_VARIABLE}; at least {MIN_SECRET} characters"
        raise ConfigError("webhook_secret_file", path, need)
    return found[-1].decode()


class _told:  # noqa: N801  (used as a context manager function)
    """Turn MLflow's refusals into our errors, with the setting that lifts them."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException):
            return
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise ConfigError("url", self._url, _with_settings(str(error.message))) from error
        text = _with_settings(f"{error.error_code} {error.message}")
        raise ModelReferenceError(f"MLflow takes no webhook: {text}") from error


def _with_settings(text: str) -> str:
    """MLflow's words with the variables that its server lacks."""
    named = [f"MLFLOW_WEBHOOK_{name}" for sign, name in _SIGNS.items() if sign in text]
    if not named:
        return text
    mend = webhook_exports(list(WEBHOOK_SETTINGS))
    return f"{text.strip()} Its server lacks {', '.join(named)}; before it starts: {mend}"
