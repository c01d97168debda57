"""``/livez``, ``/readyz`` and ``/metrics``: for whoever runs the service; no token is needed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from spectree import Response as Answers
from sqlalchemy.exc import SQLAlchemyError

from service.auth import dependencies
from service.metrics import ServiceMetrics
from service.openapi import API
from service.sampling.sandboxes import fault_of, judges
from service.schemas import Health
from service.settings import ServiceSettings
from service.tables.database import is_writable
from service.tables.worker_presence import living

OK, NOT_CONFIGURED = "ok", "not configured"


def blueprint(settings: ServiceSettings, metrics: ServiceMetrics) -> Blueprint:
    """Health and metrics."""
    routes = Blueprint("health", __name__)

    @routes.get("/livez")
    @API.validate(resp=Answers(HTTP_200=Health), tags=["operations"])
    def livez() -> Health:
        """The process answers."""
        return Health(status="ok")

    @routes.get("/readyz")
    @API.validate(resp=Answers(HTTP_200=Health, HTTP_503=Health), tags=["operations"])
    def readyz() -> tuple[Health, int]:
        """Whether requests are taken: the database can be written and there is room on the disk.

        Without a worker, a sandbox or the signer that is configured, what was accepted waits and
        loses nothing: 200, and ``degraded``.
        """
        needed = {"database": _database(), "disk": _disk(settings)}
        checks = needed | {
            "workers": _workers(settings),
            "sandbox": _sandbox(settings),
            "signer": _signer(),
        }
        if any(word != OK for word in needed.values()):
            return Health(status="unavailable", checks=checks), 503
        is_well = all(word in (OK, NOT_CONFIGURED) for word in checks.values())
        return Health(status="ok" if is_well else "degraded", checks=checks), 200

    @routes.get("/metrics")
    def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), mimetype=CONTENT_TYPE_LATEST)

    return routes


def _database() -> str:
    try:
        return OK if is_writable(dependencies().jobs.engine) else "is read-only"
    except SQLAlchemyError:
        return "cannot be written"


def _workers(settings: ServiceSettings) -> str:
    try:
        names = living(dependencies().jobs.engine, settings.worker_life_s)
    except SQLAlchemyError:
        return "not known"
    return OK if names else "none is alive: assessments wait"


def _sandbox(settings: ServiceSettings) -> str:
    names = judges(settings)
    if not names:
        return NOT_CONFIGURED
    try:
        without = [name for name in names if fault_of(dependencies().jobs.engine, name, settings)]
    except SQLAlchemyError:
        return "not known"
    return f"no worker can judge programs with: {', '.join(without)}" if without else OK


def _signer() -> str:
    signer = dependencies().signer
    if signer is None:
        return NOT_CONFIGURED
    return OK if signer.is_there() else "does not answer: reports and overrides wait"


def _disk(settings: ServiceSettings) -> str:
    free = min(map(_free_bytes, _places(settings)))
    return OK if free >= settings.limits.min_free_disk_bytes else "too little room"


def _places(settings: ServiceSettings) -> Iterator[Path]:
    """Folders that grow on this machine."""
    yield Path(settings.data_dir)
    url = dependencies().jobs.engine.url
    if url.get_backend_name() == "sqlite":
        yield Path(str(url.database)).parent


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
