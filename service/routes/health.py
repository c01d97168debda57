"""``/livez``, ``/readyz`` and ``/metrics``: for whoever runs the service; no token is needed."""

import shutil
from pathlib import Path
from typing import Any

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from spectree import Response as Answers
from sqlalchemy.exc import SQLAlchemyError

from service.auth import dependencies
from service.metrics import ServiceMetrics
from service.openapi import API
from service.schemas import Health
from service.settings import ServiceSettings


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
        """The database answers and there is room on the disk."""
        checks: dict[str, Any] = {"database": _database(), "disk": _disk(settings)}
        if all(word == "ok" for word in checks.values()):
            return Health(status="ok", checks=checks), 200
        return Health(status="unavailable", checks=checks), 503

    @routes.get("/metrics")
    def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), mimetype=CONTENT_TYPE_LATEST)

    return routes


def _database() -> str:
    try:
        dependencies().jobs.counts()
    except SQLAlchemyError:
        return "does not answer"
    return "ok"


def _disk(settings: ServiceSettings) -> str:
    folder = Path(settings.data_dir)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return "ok" if free >= settings.limits.min_free_disk_bytes else "too little room"
